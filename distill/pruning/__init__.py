"""Pruning: single weights are set to zero, or whole channels and layers are removed.

Zeros make files smaller once they are compressed. Masks hold them under any optimizer:

```python
from distill import pruning

print(pruning.prune(model, 0.8))  # 80 % of the weights of every kernel are zero, and stay so in training
```

Fewer channels make a model smaller and faster. `prune_channels` returns a new one:

```python
from distill import pruning

small = pruning.prune_channels(teacher, 0.5)
```

`weights` and `structured` hold what each of the two needs besides, such as ways to score weights and channels.
`PolynomialDecay` and `ConstantSparsity` are schedules of tfmot, which is imported when one of them is first used.
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
