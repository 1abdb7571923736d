"""Pruning of single weights: masks that hold under any optimizer, in one shot or while a model trains; and of channels.

    print(pruning.prune(model, 0.8))
    model.fit(x, y)  # the zeros stay

or little by little:

    schedule = pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
    model.fit(x, y, epochs=10, callbacks=[pruning.GradualPruning(schedule)])

What is pruned so is as large as before; `prune_channels` takes whole channels out, and a smaller model comes out:

    small = pruning.prune_channels(model, 0.5)

`PolynomialDecay` and `ConstantSparsity` are tfmot's, which is imported when one of them is first asked for.
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
from distill.pruning.weights import criteria
from distill.pruning.weights._callbacks import GradualPruning, KeepZeros
from distill.pruning.weights._dynamic import SET, RigL
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights._masks import keep_zeros, measure_sparsity, prune
from distill.pruning.weights._patterns import Blocks, Elements, NofM
from distill.pruning.weights._rewinding import iterative
from distill.pruning.weights._sparsity import KernelSparsity, Sparsity
from distill.pruning.weights._tfmot import (
    UpdatePruningStep,
    prune_low_magnitude,
    strip_pruning,
    tfmot_schedule,
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
    "criteria",
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
        return tfmot_schedule(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
