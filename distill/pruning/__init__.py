"""Pruning: sets single weights to zero, or removes channels, heads and layers.

Unstructured pruning sets single weights to zero and keeps them there. The model keeps its size:

    from distill import pruning

    print(pruning.prune(model, 0.8))
    model.fit(x, y)  # the zeros stay

    schedule = pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
    model.fit(x, y, epochs=10, callbacks=[pruning.GradualPruning(schedule)])

Structured pruning removes whole channels, and returns a smaller model:

    small = pruning.prune_channels(model, 0.5)

The names used most are here. The subpackages `pruning.weights` and `pruning.structured` hold all names and have help of
their own. The scores that decide what stays are in `weights.importance` and `structured.importance`.
"""

from typing import Any

from distill.pruning import structured, weights
from distill.pruning.structured import (
    Channels,
    Proof,
    explain,
    output_change,
    prune_channels,
    prune_layers,
    removable_layers,
    shrink,
    slim,
)
from distill.pruning.weights import (
    SET,
    Blocks,
    Elements,
    GradualPruning,
    KeepZeros,
    KernelSparsity,
    NofM,
    RigL,
    Sparsity,
    UpdatePruningStep,
    find_kernels,
    iterative,
    keep_zeros,
    measure_sparsity,
    prune,
    prune_low_magnitude,
    strip_pruning,
)

__all__ = [
    "SET",
    "Blocks",
    "Channels",
    "ConstantSparsity",
    "Elements",
    "GradualPruning",
    "KeepZeros",
    "KernelSparsity",
    "NofM",
    "PolynomialDecay",
    "Proof",
    "RigL",
    "Sparsity",
    "UpdatePruningStep",
    "explain",
    "find_kernels",
    "iterative",
    "keep_zeros",
    "measure_sparsity",
    "output_change",
    "prune",
    "prune_channels",
    "prune_layers",
    "prune_low_magnitude",
    "removable_layers",
    "shrink",
    "slim",
    "strip_pruning",
    "structured",
    "weights",
]


def __getattr__(name: str) -> Any:
    if name in ("ConstantSparsity", "PolynomialDecay"):
        return getattr(weights, name)
    if name == "importance":
        raise AttributeError(
            f"module {__name__!r} has no attribute 'importance'. Use pruning.weights.importance or "
            "pruning.structured.importance."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
