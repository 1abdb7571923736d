"""How many weights of a model are zero, kernel by kernel."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from distill.pruning.weights._kernels import Kernels, find_kernels
from distill.pruning.weights._masks import pruned_part
from distill.pruning.weights._selectors import Selectors


@dataclasses.dataclass(frozen=True)
class KernelSparsity:
    """The zeros of one kernel.

    Attributes:
        name: path of the layer and name of the weight, such as "encoder/dense/kernel".
        shape: shape of the kernel.
        zeros: number of its weights that are zero.

    Example:
    ```python
    from distill import pruning

    for kernel in pruning.measure_sparsity(model).kernels:
        print(kernel.name, kernel.sparsity)
    ```
    """

    name: str
    shape: tuple[int, ...]
    zeros: int

    @property
    def weights(self) -> int:
        """Number of weights in the kernel."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Share of zeros, 0 to 1."""
        return self.zeros / self.weights


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """The zeros of a model's kernels. `print` shows them as a table.

    Attributes:
        kernels: one row per kernel.
        skipped: name of each weight that was left alone -> the reason.

    Example:
    ```python
    from distill import pruning

    found = pruning.measure_sparsity(model)
    print(found)
    print(found.sparsity, max(kernel.sparsity for kernel in found.kernels))
    ```
    """

    kernels: tuple[KernelSparsity, ...]
    skipped: dict[str, str]

    @property
    def weights(self) -> int:
        """Number of weights in all kernels."""
        return sum(kernel.weights for kernel in self.kernels)

    @property
    def zeros(self) -> int:
        """Number of weights that are zero in all kernels."""
        return sum(kernel.zeros for kernel in self.kernels)

    @property
    def sparsity(self) -> float:
        """Share of zeros in all kernels together, 0 to 1."""
        return self.zeros / self.weights

    def __str__(self) -> str:
        rows = [(k.name, " × ".join(map(str, k.shape)), k.weights, k.zeros, k.sparsity) for k in self.kernels]
        rows.append(("total", "", self.weights, self.zeros, self.sparsity))
        names, shapes = (max(len(str(row[i])) for row in [*rows, ("kernel", "shape")]) for i in (0, 1))
        lines = [f"{'kernel':<{names}}  {'shape':>{shapes}}  {'weights':>11}  {'zeros':>11}  sparsity"]
        for name, shape, weights, zeros, sparsity in rows:
            lines.append(
                f"{name:<{names}}  {shape:>{shapes}}  {weights:>11,}  {zeros:>11,}  {sparsity:>8.2%}"
            )
        return "\n".join([*lines, *(f"not pruned: {name} ({why})" for name, why in self.skipped.items())])


def measure_sparsity(model: keras.Model, *, include: Selectors = None, exclude: Selectors = None) -> Sparsity:
    """Counts the zeros in a model's kernels, whatever set them.

    Args:
        model: built model, or a `distill.Distiller`, in which case its student is measured.
        include: layers to look at, in the forms that `find_kernels` takes; all by default.
        exclude: layers to leave out, in the same forms.

    Returns:
        The zeros of each kernel; `print` shows a table.

    Raises:
        ValueError: see `find_kernels`.
        TypeError: see `find_kernels`.

    Example:
    ```python
    from distill import pruning

    print(pruning.measure_sparsity(model).sparsity)
    ```
    """
    return sparsity_of(find_kernels(pruned_part(model), include=include, exclude=exclude))


def sparsity_of(kernels: Kernels) -> Sparsity:
    """Counts the zeros in kernels that were found."""
    rows = []
    for kernel in kernels.found:
        value = np.asarray(ops.convert_to_numpy(kernel.variable))
        zeros = value.size - int(np.count_nonzero(value))
        rows.append(KernelSparsity(kernel.name, tuple(kernel.variable.shape), zeros))
    return Sparsity(tuple(rows), dict(kernels.skipped))
