"""How many weights of a model are zero, kernel by kernel."""

import dataclasses
import math

import numpy as np
from keras import ops

from distill.pruning.weights._kernels import Kernels


@dataclasses.dataclass(frozen=True)
class KernelSparsity:
    """The zeros of one kernel.

    Attributes:
        name: such as "encoder/dense/kernel".
        shape: of the kernel.
        zeros: how many of its weights are zero.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int

    @property
    def weights(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Share of zeros, 0 to 1."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """The zeros of a model's kernels; `print` shows them as a table.

    Attributes:
        kernels: one row each.
        skipped: name of a weight that was left alone -> why.
    """

    kernels: tuple[KernelSparsity, ...]
    skipped: dict[str, str]

    @property
    def weights(self) -> int:
        """How many weights the kernels have together."""
        return sum(kernel.weights for kernel in self.kernels)

    @property
    def zeros(self) -> int:
        """How many of them are zero."""
        return sum(kernel.zeros for kernel in self.kernels)

    @property
    def sparsity(self) -> float:
        """Share of zeros in all kernels together, 0 to 1."""
        return self.zeros / self.weights

    def __str__(self) -> str:
        rows = [(k.name, " × ".join(map(str, k.shape)), k.weights, k.zeros, k.sparsity) for k in self.kernels]
        rows.append(("together", "", self.weights, self.zeros, self.sparsity))
        names, shapes = (max(len(str(row[i])) for row in [*rows, ("kernel", "shape")]) for i in (0, 1))
        lines = [f"{'kernel':<{names}}  {'shape':>{shapes}}  {'weights':>11}  {'zeros':>11}  sparsity"]
        for name, shape, weights, zeros, sparsity in rows:
            lines.append(
                f"{name:<{names}}  {shape:>{shapes}}  {weights:>11,}  {zeros:>11,}  {sparsity:>8.2%}"
            )
        return "\n".join([*lines, *(f"not pruned: {name} ({why})" for name, why in self.skipped.items())])


def sparsity_of(kernels: Kernels) -> Sparsity:
    """Counts the zeros of kernels that were found."""
    rows = []
    for kernel in kernels.found:
        value = np.asarray(ops.convert_to_numpy(kernel.variable))
        zeros = value.size - int(np.count_nonzero(value))
        rows.append(KernelSparsity(kernel.name, tuple(kernel.variable.shape), zeros))
    return Sparsity(tuple(rows), dict(kernels.skipped))
