"""Chooses how many channels of each group stay, by a ratio or for a cost."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from distill.pruning.structured._costs import Cost
from distill.pruning.structured._groups import Group
from distill.pruning.structured._structure import Structure

Scope = Literal["local", "global"]

TOLERANCE = 0.02  # share of a target
_FEW = 20_000  # combinations of counts, all of which can be tried


@dataclasses.dataclass(frozen=True)
class Choice:
    """How channels compete.

    Attributes:
        structure: structure of the model.
        groups: groups to remove channels from.
        scores: (atoms,) scores; the higher the score, the longer an atom stays.
        scope: "local" removes the same share of each group, "global" the lowest scores of all groups.
        round_to: the number of channels left is a multiple of this, in groups with at least twice as many channels.
        ratios: position of a group -> share of it to remove, whatever the other groups lose.
    """

    structure: Structure
    groups: Sequence[Group]
    scores: np.ndarray
    scope: Scope
    round_to: int
    ratios: dict[int, float]

    def keep(self, counts: Sequence[int]) -> np.ndarray:
        """(atoms,) bool: the `counts` highest-scoring atoms of each group; of equal scores, the first ones stay."""
        kept = np.ones(self.structure.atoms.count, bool)
        for order, count in zip(self._orders, counts, strict=True):
            kept[order[count:]] = False
        for axis in self._parts:
            if not kept[axis].any():  # the best one stays where nothing would be left
                kept[axis[np.argmax(self.scores[axis])]] = True
        return kept

    @functools.cached_property
    def _parts(self) -> list[np.ndarray]:
        """The atoms of axes that hold only part of a group, such as those behind a split; one of each has to stay."""
        cut = np.zeros(self.structure.atoms.count, bool)
        whole = np.full(self.structure.atoms.count, -1)
        for i, group in enumerate(self.groups):
            cut[group.atoms] = True
            whole[group.atoms] = i
        found: dict[bytes, np.ndarray] = {}
        axes = [axis for tensor in self.structure.tensors.values() for axis in tensor if axis is not None]
        for labels in [*axes, *(slot.labels for slot in self.structure.slots)]:
            atoms = np.unique(self.structure.atoms.of[labels])
            if not cut[atoms].all():
                continue  # something stays anyway
            sizes = np.bincount(whole[atoms], minlength=len(self.groups))
            if not any(size == group.atoms.size for size, group in zip(sizes, self.groups, strict=True)):
                found[atoms.tobytes()] = atoms
        return list(found.values())

    @functools.cached_property
    def _orders(self) -> list[np.ndarray]:
        return [group.atoms[np.argsort(-self.scores[group.atoms], kind="stable")] for group in self.groups]

    def counts(self, ratio: float) -> list[int]:
        """Number of atoms of each group that stay when this share is removed."""
        sizes = [group.atoms.size for group in self.groups]
        if self.scope == "local":
            wanted = [size * (1 - ratio) for size in sizes]
        else:
            free = [i for i in range(len(self.groups)) if i not in self.ratios]
            scores = np.concatenate([self.scores[self.groups[i].atoms] for i in free] or [np.empty(0)])
            of = np.repeat(free, [sizes[i] for i in free])
            gone = np.argsort(scores, kind="stable")[: round(ratio * scores.size)]
            lost = np.bincount(of[gone].astype(int), minlength=len(self.groups))
            wanted = [size - float(less) for size, less in zip(sizes, lost, strict=True)]
        for i, own in self.ratios.items():
            wanted[i] = sizes[i] * (1 - own)
        return [self._rounded(i, count) for i, count in enumerate(wanted)]

    def nearest(self, cost: Cost, target: float) -> list[int]:
        """Number of atoms of each group that stay for a cost near the target."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(self.keep(self.counts(middle))) > target else (low, middle)

        def distance(counts: Sequence[int]) -> float:
            return abs(cost(self.keep(counts)) - target)

        counts = min((self.counts(ratio) for ratio in (low, high)), key=distance)
        # A step in one or two groups is smaller than a step in all of them.
        while distance(counts) > TOLERANCE * target:
            steps = list(self._steps(counts))
            pairs = (further for one in steps for further in self._steps(one))
            found = min(itertools.chain(steps, pairs), key=distance, default=counts)
            if distance(found) >= distance(counts):
                break
            counts = found
        if self.few and distance(counts) > TOLERANCE * target:
            return self._best_of_all(cost, target, counts)
        return counts

    def step(self, i: int) -> int:
        """Number of atoms of a group that go or stay at once."""
        group = self.groups[i]
        if group.width < 2 * self.round_to:
            return 1
        return self.round_to // math.gcd(self.round_to, group.multiple)

    @property
    def few(self) -> bool:
        """Whether all combinations of counts can be tried."""
        return math.prod(len(self._allowed(i)) for i in range(len(self.groups))) <= _FEW

    def _steps(self, counts: Sequence[int]) -> Iterator[list[int]]:
        """The counts with one step more or less in one group."""
        for i, group in enumerate(self.groups):
            for count in (counts[i] - self.step(i), counts[i] + self.step(i)):
                if i not in self.ratios and (0 if group.fixed else 1) <= count <= group.atoms.size:
                    yield [*counts[:i], count, *counts[i + 1 :]]

    def _rounded(self, i: int, wanted: float) -> int:
        group, step = self.groups[i], self.step(i)
        size, fixed = group.atoms.size, group.fixed
        if wanted >= size:
            return size
        rounded = step * math.floor((wanted + fixed) / step + 0.5) - fixed
        least = 0 if fixed else 1
        return int(min(size, max(rounded, step - fixed, least)))

    def _allowed(self, i: int) -> list[int]:
        """The numbers of atoms of a group that may stay."""
        group, step = self.groups[i], self.step(i)
        if i in self.ratios:
            return [self._rounded(i, group.atoms.size * (1 - self.ratios[i]))]
        least = 0 if group.fixed else 1
        stepped = range(step - group.fixed, group.atoms.size, step)
        return [*(count for count in stepped if count >= least), group.atoms.size]

    def _best_of_all(self, cost: Cost, target: float, near: Sequence[int]) -> list[int]:
        """The counts most like `near` among all that meet the target, or else the nearest to the target."""

        def order(counts: list[int]) -> tuple[float, int]:
            distance = abs(cost(self.keep(counts)) - target)
            unlike = sum(abs(one - other) for one, other in zip(counts, near, strict=True))
            return (0.0 if distance <= TOLERANCE * target else distance), unlike

        all_counts = itertools.product(*map(self._allowed, range(len(self.groups))))
        return min(map(list, all_counts), key=order)
