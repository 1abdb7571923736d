"""Unstructured pruning: single weights are set to zero and stay zero, whatever trains the model.

Prune in one shot, starting from the model as it is:

    from distill.pruning import weights

    print(weights.prune(model, 0.8))  # a table: kernel, shape, weights, zeros
    model.fit(x, y)  # the zeros stay

Prune gradually while the model trains, or train it sparse from the first step:

    schedule = weights.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
    model.fit(x, y, epochs=10, callbacks=[weights.GradualPruning(schedule)])
    model.fit(x, y, epochs=10, callbacks=[weights.SET(0.8, end_step=1000, seed=0)])

Prune in rounds of training and pruning that go back to earlier weights, as for lottery tickets:

    weights.iterative(model, train, [0.2, 0.36, 0.488])

`weights.importance` has the scores that decide which weights stay. `Elements`, `Blocks` and `NofM` set the units to
prune. A pruned model is as large as before; `distill.pruning.structured` makes smaller models.

`PolynomialDecay` and `ConstantSparsity` are tfmot's classes. tfmot is imported when one of them is first used.
"""

from typing import Any

from distill.pruning.weights import _schedules, importance
from distill.pruning.weights._gradual import GradualPruning
from distill.pruning.weights._keeping import KeepZeros, keep_zeros
from distill.pruning.weights._kernels import Kernel, Kernels, find_kernels
from distill.pruning.weights._patterns import Blocks, Elements, NofM
from distill.pruning.weights._pruning import prune
from distill.pruning.weights._rewinding import iterative
from distill.pruning.weights._rigl import RigL
from distill.pruning.weights._set import SET
from distill.pruning.weights._sparsity import KernelSparsity, Sparsity, measure_sparsity
from distill.pruning.weights._tfmot import UpdatePruningStep, prune_low_magnitude, strip_pruning

__all__ = [
    "SET",
    "Blocks",
    "ConstantSparsity",
    "Elements",
    "GradualPruning",
    "KeepZeros",
    "Kernel",
    "KernelSparsity",
    "Kernels",
    "NofM",
    "PolynomialDecay",
    "RigL",
    "Sparsity",
    "UpdatePruningStep",
    "find_kernels",
    "importance",
    "iterative",
    "keep_zeros",
    "measure_sparsity",
    "prune",
    "prune_low_magnitude",
    "strip_pruning",
]


def __getattr__(name: str) -> Any:
    if name in _schedules.TFMOT_SCHEDULES:
        return _schedules.tfmot_schedule(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
