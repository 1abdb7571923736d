"""What stays of axes, arrays and weights when atoms are removed."""

import keras
import numpy as np

from distill.pruning.structured._labels import Axes
from distill.pruning.structured._structure import Shape, Structure


def keep_labels(structure: Structure, keep: np.ndarray) -> np.ndarray:
    """(labels,) bool: the labels that stay when these atoms do."""
    kept: np.ndarray = keep[structure.atoms.of]
    return kept


class Cut:
    """The choice of what stays, applied to sizes and arrays.

    Args:
        structure: structure of the original.
        keep: (atoms,) bool, which atoms stay.
        masked: keeps all sizes and sets what is removed to zero.
    """

    def __init__(self, structure: Structure, keep: np.ndarray, *, masked: bool = False) -> None:
        self._kept = keep_labels(structure, keep)
        self._masked = masked
        self._smaller = {
            id(slot.variable) for slot in structure.slots if not masked and not self._kept[slot.labels].all()
        }

    def makes_smaller(self, variable: keras.Variable) -> bool:
        """Whether a weight of the original gets smaller."""
        return id(variable) in self._smaller

    def size(self, axis: np.ndarray) -> int:
        """The new size of an axis with these labels."""
        return axis.size if self._masked else int(np.count_nonzero(self._kept[axis]))

    def kept(self, axis: np.ndarray) -> np.ndarray:
        """(size,) bool: which positions of an axis with these labels are there afterwards."""
        which: np.ndarray = np.ones(axis.shape, bool) if self._masked else self._kept[axis]
        return which

    def shape(self, axes: Axes, shape: Shape) -> Shape:
        """The new shape of a tensor with these axes."""
        return tuple(
            size if axis is None else self.size(axis) for axis, size in zip(axes, shape, strict=True)
        )

    def array(self, value: np.ndarray, axes: Axes) -> np.ndarray:
        """What stays of an array with these axes."""
        for i, axis in enumerate(axes):
            if axis is not None and not self._kept[axis].all():
                if self._masked:
                    shape = [-1 if j == i else 1 for j in range(value.ndim)]
                    value = np.where(self._kept[axis].reshape(shape), value, np.zeros_like(value))
                else:
                    value = np.compress(self._kept[axis], value, i)
        return value
