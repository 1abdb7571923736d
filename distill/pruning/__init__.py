"""Pruning of single weights: masks that hold under any optimizer, in one shot or while a model trains.

    print(pruning.prune(model, 0.8))
    model.fit(x, y)  # the zeros stay

or little by little:

    schedule = pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
    model.fit(x, y, epochs=10, callbacks=[pruning.GradualPruning(schedule)])
"""

from distill.pruning import criteria
from distill.pruning.callbacks import GradualPruning, KeepZeros
from distill.pruning.kernels import find_kernels
from distill.pruning.masks import keep_zeros, measure_sparsity, prune, strip_pruning
from distill.pruning.patterns import Blocks, Elements, NofM
from distill.pruning.sparsity import KernelSparsity, Sparsity

__all__ = [
    "Blocks",
    "Elements",
    "GradualPruning",
    "KeepZeros",
    "KernelSparsity",
    "NofM",
    "Sparsity",
    "criteria",
    "find_kernels",
    "keep_zeros",
    "measure_sparsity",
    "prune",
    "strip_pruning",
]
