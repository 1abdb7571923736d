"""How many channels of each group stay: by a ratio, or so that the model costs what it may."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from distill.pruning.structured._costs import Cost
from distill.pruning.structured._groups import Group
from distill.pruning.structured._structure import Structure

Scope = Literal["local", "global"]

TOLERANCE = 0.02  # of a target
_FEW = 20_000  # combinations of counts, all of which are tried
_LEAST_SAVED = 1e-3  # of the whole time, below which no measurement sees anything


@dataclasses.dataclass(frozen=True)
class Choice:
    """How channels compete.

    Attributes:
        structure: of the model.
        groups: that something is cut of.
        scores: (atoms,) the higher, the longer an atom stays.
        scope: "local": each group gives the same share; "global": the lowest scores of all groups go.
        round_to: channels that stay are a multiple of it, in groups of twice as many or more.
        ratios: for some groups, by position, the share that goes whatever the others do.
    """

    structure: Structure
    groups: Sequence[Group]
    scores: np.ndarray
    scope: Scope
    round_to: int
    ratios: dict[int, float]

    def keep(self, counts: Sequence[int]) -> np.ndarray:
        """(atoms,) bool: of each group that many with the highest scores, of equal ones the first."""
        kept = np.ones(self.structure.atoms.count, bool)
        for order, count in zip(self._orders, counts, strict=True):
            kept[order[count:]] = False
        for axis in self._parts:
            if not kept[axis].any():  # the best of what nothing else would be left of
                kept[axis[np.argmax(self.scores[axis])]] = True
        return kept

    @functools.cached_property
    def _parts(self) -> list[np.ndarray]:
        """The atoms of axes that hold some of a group alone, as behind a split; each keeps one."""
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
        """How many atoms of each group stay when a share of them goes."""
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

    def step(self, i: int) -> int:
        """How many atoms of a group go or stay at once."""
        group = self.groups[i]
        if group.width < 2 * self.round_to:
            return 1
        return self.round_to // math.gcd(self.round_to, group.multiple)

    def _steps(self, counts: Sequence[int]) -> Iterator[list[int]]:
        """One group more or less."""
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

    @property
    def few(self) -> bool:
        """Whether there are so few combinations of counts that all can be tried."""
        return math.prod(len(self._allowed(i)) for i in range(len(self.groups))) <= _FEW

    def _allowed(self, i: int) -> list[int]:
        """How many of a group may stay."""
        group, step = self.groups[i], self.step(i)
        if i in self.ratios:
            return [self._rounded(i, group.atoms.size * (1 - self.ratios[i]))]
        least = 0 if group.fixed else 1
        stepped = range(step - group.fixed, group.atoms.size, step)
        return [*(count for count in stepped if count >= least), group.atoms.size]

    def _best_of_all(self, cost: Cost, target: float, near: Sequence[int]) -> list[int]:
        """Of all counts that meet the target those most like `near`, or else the nearest to the target."""

        def order(counts: list[int]) -> tuple[float, int]:
            distance = abs(cost(self.keep(counts)) - target)
            unlike = sum(abs(one - other) for one, other in zip(counts, near, strict=True))
            return (0.0 if distance <= TOLERANCE * target else distance), unlike

        all_counts = itertools.product(*map(self._allowed, range(len(self.groups))))
        return min(map(list, all_counts), key=order)

    def nearest(self, cost: Cost, target: float) -> list[int]:
        """How many atoms of each group stay so that the cost is near a target."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(self.keep(self.counts(middle))) > target else (low, middle)

        def distance(counts: Sequence[int]) -> float:
            return abs(cost(self.keep(counts)) - target)

        counts = min((self.counts(ratio) for ratio in (low, high)), key=distance)
        # Steps of one or two groups are smaller than those of all.
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


def reach(
    choices: Sequence[Choice], cost: Cost, target: float, what: str, least: float | None = None
) -> np.ndarray:
    """What stays so that the model costs as much as `target`, within 2 %, by the first choice that can.

    Args:
        choices: that are tried in turn.
        cost: of what stays.
        target: of the cost.
        what: is counted.
        least: where none can, the nearest of what was seen is taken that costs as much as this; `None` refuses.

    Raises:
        ValueError: none can; says what they can.
    """
    fewest, most = (cost(choices[-1].keep(choices[-1].counts(ratio))) for ratio in (1.0, 0.0))
    if not fewest * (1 - TOLERANCE) <= target <= most * (1 + TOLERANCE):
        raise ValueError(
            f"A target lies between what is left at least and what there is. Received: {what}={target:,.0f}, where "
            f"{fewest:,} to {most:,} can be reached."
        )
    seen = [fewest, most]
    near = most, np.ones(choices[0].structure.atoms.count, bool)

    def seeing(kept: np.ndarray) -> int:
        nonlocal near
        found = cost(kept)
        seen.append(found)
        if least is not None and found >= least and abs(found - target) < abs(near[0] - target):
            near = found, kept
        return found

    for choice in choices:
        kept = choice.keep(choice.nearest(seeing, target))
        if abs(cost(kept) - target) <= TOLERANCE * target:
            return kept
    if least is not None:
        return near[1]
    below, above = _around(seen, target)
    nearest = "nearest" if all(choice.few for choice in choices) else "nearest found"
    raise ValueError(
        f"A target is met within {TOLERANCE:.0%}. Received: {what}={target:,.0f}; the {nearest} are {below:,} and "
        f"{above:,}. Ask for one of them, or for a smaller round_to if you gave one."
    )


def _around(seen: Sequence[float], target: float) -> tuple[float, float]:
    """The nearest below and above."""
    below = max((one for one in seen if one <= target), default=min(seen))
    return below, min((one for one in seen if one >= target), default=max(seen))


def reach_latency(
    choices: Sequence[Choice],
    measure: Callable[[np.ndarray], float],
    target: float,
    least: float | None = None,
) -> np.ndarray:
    """What stays so that a measured time is `target` ms within 2 %; every measurement costs, and none is exact.

    Args:
        choices: that are tried in turn.
        measure: milliseconds of what stays.
        target: of them.
        least: as for `reach`.

    Raises:
        ValueError: no ratio's time is; says which are.
    """
    fastest, slowest = (measure(choices[-1].keep(choices[-1].counts(ratio))) for ratio in (1.0, 0.0))
    if not fastest * (1 - TOLERANCE) <= target <= slowest * (1 + TOLERANCE):
        raise ValueError(
            "A target lies between what is left at least and what there is. Received: "
            f"latency_ms={target:g}, where {fastest:.3g} to {slowest:.3g} ms can be reached."
        )
    times = [fastest, slowest]
    near = slowest, np.ones(choices[0].structure.atoms.count, bool)
    for choice in choices:
        low, high, seen = 0.0, 1.0, set[tuple[int, ...]]()
        for _ in range(12):
            middle = (low + high) / 2
            counts = tuple(choice.counts(middle))
            if counts in seen:
                break
            seen.add(counts)
            kept = choice.keep(counts)
            found = measure(kept)
            if abs(found - target) <= TOLERANCE * target:
                return kept
            times.append(found)
            if least is not None and found >= least and abs(found - target) < abs(near[0] - target):
                near = found, kept
            low, high = (middle, high) if found > target else (low, middle)
    if least is not None:
        return near[1]
    below, above = _around(times, target)
    raise ValueError(
        f"A target is met within {TOLERANCE:.0%}. Received: latency_ms={target:g}; the nearest were {below:.3g} and "
        f"{above:.3g} ms. Ask for one of them, for a smaller round_to if you gave one, or again when all is quiet."
    )


def score_per_ms(choice: Choice, measure: Callable[[np.ndarray], float]) -> np.ndarray:
    """(atoms,) scores, each over the milliseconds that one channel of its group costs.

    What a group's channels cost is measured with half of them gone: the best that can be had for a given time is then
    near what has the highest score per time.
    """
    scores = choice.scores.copy()
    whole = measure(np.ones(choice.structure.atoms.count, bool))
    sizes = [group.atoms.size for group in choice.groups]
    for i, group in enumerate(choice.groups):
        half = group.atoms.size // 2
        saved = whole - measure(choice.keep([*sizes[:i], half or 1, *sizes[i + 1 :]]))
        # A time that noise has made longer is no cost below zero.
        scores[group.atoms] /= max(saved, whole * _LEAST_SAVED) / max(group.atoms.size - half, 1)
    return scores
