"""Labels: numbers for the positions along the axes of tensors and weights, which say what can only go together."""

import dataclasses
from collections.abc import Sequence

import numpy as np

# The labels along one axis of a tensor or weight, int64 (size,); `None` where nothing can be cut.
Axis = np.ndarray | None
# One `Axis` for each axis of a tensor, the batch axis included.
Axes = tuple[Axis, ...]


@dataclasses.dataclass(frozen=True)
class Atoms:
    """The smallest units that can be removed: sets of labels that go together.

    Attributes:
        of: (labels,) the atom of each label.
        locked: (atoms,) bool, true where the atom has to stay.
        reasons: atom -> why it has to stay, for each locked one.
    """

    of: np.ndarray
    locked: np.ndarray
    reasons: dict[int, str]

    @property
    def count(self) -> int:
        """The number of atoms."""
        return self.locked.size


class Labels:
    """Issues labels and records which of them go together and which have to stay."""

    def __init__(self) -> None:
        self._count = 0
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._locks: list[tuple[np.ndarray, str]] = []

    def fresh(self, size: int) -> np.ndarray:
        """New labels for `size` positions."""
        self._count += size
        return np.arange(self._count - size, self._count)

    def unite(self, one: Axis, other: Axis, reason: str) -> Axis:
        """Records that positions of two axes go together, pair by pair.

        Args:
            one: labels, or `None` for an axis that cannot be cut.
            other: labels of as many positions, or `None`.
            reason: why the labels have to stay, if the other axis cannot be cut or has another size.

        Returns:
            Labels of the united axis, `None` only if both are.
        """
        if one is None or other is None:
            self.lock(other if one is None else one, reason)
            return one if other is None else other
        if one.size != other.size:
            self.lock(one, reason)
            self.lock(other, reason)
        elif one is not other:
            self._pairs.append((one.ravel(), other.ravel()))
        return one

    def lock(self, axis: Axis, reason: str) -> None:
        """Records that the positions of an axis have to stay."""
        if axis is not None:
            self._locks.append((axis, reason))

    def atoms(self) -> Atoms:
        """The sets of labels that go together, from everything recorded so far."""
        _, of = np.unique(_components(self._count, self._pairs), return_inverse=True)
        locked = np.zeros(of.max() + 1 if of.size else 0, bool)
        reasons: dict[int, str] = {}
        for labels, reason in self._locks:
            for atom in np.unique(of[labels]):
                reasons.setdefault(int(atom), reason)
        locked[list(reasons)] = True
        return Atoms(of, locked, reasons)


def _components(count: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """For each label the smallest label that it goes with."""
    smallest = np.arange(count)
    if not pairs:
        return smallest
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    while True:
        here, there = smallest[one], smallest[other]
        if (here == there).all():
            return smallest
        np.minimum.at(smallest, np.maximum(here, there), np.minimum(here, there))
        while (smallest[smallest] != smallest).any():
            smallest = smallest[smallest]
