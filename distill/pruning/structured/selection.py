"""How many channels of each group stay: by a ratio, or so that the model costs what it may."""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from distill.cost.calls import calls_of
from distill.pruning.structured.groups import Group
from distill.pruning.structured.structure import Size, Structure

Scope = Literal["local", "global"]
Cost = Callable[[np.ndarray], int]  # which atoms stay -> parameters or multiply-adds

TOLERANCE = 0.02  # of a target
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

    def nearest(self, cost: Cost, target: float) -> list[int]:
        """How many atoms of each group stay so that the cost is near a target."""
        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(self.keep(self.counts(middle))) > target else (low, middle)

        def distance(counts: Sequence[int]) -> float:
            return abs(cost(self.keep(counts)) - target)

        counts = min((self.counts(ratio) for ratio in (low, high)), key=distance)
        while (
            distance(counts) > TOLERANCE * target
        ):  # steps of one or two groups are smaller than those of all
            steps = list(self._steps(counts))
            pairs = (further for one in steps for further in self._steps(one))
            found = min(itertools.chain(steps, pairs), key=distance, default=counts)
            if distance(found) >= distance(counts):
                break
            counts = found
        return counts


def reach(choices: Sequence[Choice], cost: Cost, target: float, what: str) -> np.ndarray:
    """What stays so that the model costs as much as `target`, within 2 %, by the first choice that can.

    Raises:
        ValueError: none can; says what they can.
    """
    least, most = (cost(choices[-1].keep(choices[-1].counts(ratio))) for ratio in (1.0, 0.0))
    if not least * (1 - TOLERANCE) <= target <= most * (1 + TOLERANCE):
        raise ValueError(
            f"A target lies between what is left at least and what there is. Received: {what}={target:,.0f}, where "
            f"{least:,} to {most:,} can be reached."
        )
    seen = [least, most]

    def seeing(kept: np.ndarray) -> int:
        seen.append(cost(kept))
        return seen[-1]

    for choice in choices:
        kept = choice.keep(choice.nearest(seeing, target))
        if abs(cost(kept) - target) <= TOLERANCE * target:
            return kept
    below, above = _around(seen, target)
    raise ValueError(
        f"A target is met within {TOLERANCE:.0%}. Received: {what}={target:,.0f}; the nearest are {below:,} and "
        f"{above:,}. Ask for one of them, or for a smaller round_to if you gave one."
    )


def _around(seen: Sequence[float], target: float) -> tuple[float, float]:
    """The nearest below and above."""
    below = max((one for one in seen if one <= target), default=min(seen))
    return below, min((one for one in seen if one >= target), default=max(seen))


def reach_latency(
    choices: Sequence[Choice], measure: Callable[[np.ndarray], float], target: float
) -> np.ndarray:
    """What stays so that a measured time is `target` ms within 2 %; every measurement costs, and none is exact.

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
            low, high = (middle, high) if found > target else (low, middle)
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


def parameters_of(structure: Structure) -> Cost:
    """Parameters, as `distill.cost.parameters` counts them, by what stays."""
    return _cost(structure, [(variable, ()) for variable in structure.model.weights])


def macs_of(structure: Structure) -> Cost:
    """Multiply-adds of products with kernels, as `distill.cost` counts them, by what stays.

    Raises:
        ValueError: the model's inputs have unknown sizes; those of a layer with weights are not known.
    """
    cost = _cost(structure, [(product.variable, product.sizes) for product in structure.products])
    rest = _uncounted(structure)
    return lambda keep: cost(keep) + rest


def _uncounted(structure: Structure) -> int:
    """Multiply-adds that no rule counts, because all that they depend on stays."""
    own = {path for path, _, _ in structure.tensors}
    everything = np.ones(structure.atoms.count, bool)
    counted: dict[str, int] = collections.defaultdict(int)
    for product in structure.products:
        counted[_within(product.path, own)] += _cost(structure, [(product.variable, product.sizes)])(
            everything
        )
    rest: dict[str, int] = collections.defaultdict(int)
    for call in calls_of(structure.model).calls:
        path = _within(call.path, own)
        if call.products is not None:
            rest[path] += call.products.weights
        elif path in counted:
            rest[path] = counted[path]  # the rule knows better
        elif isinstance(call.operation, keras.Layer) and call.operation.weights:
            raise ValueError(call.unknown)
    for slot in structure.slots:
        path = _within(slot.path, own)
        if rest[path] and path not in counted:
            raise ValueError(
                "A rule says how often the weights are used that it lets be cut. Received: the rule of "
                f"{path!r}, without call.multiplies. Add it, or ask for a ratio."
            )
    return sum(rest.values()) - sum(counted[path] for path in rest)


def _within(path: str, known: set[str]) -> str:
    """The layer of the graph that a layer inside it belongs to."""
    while path not in known:
        path = path.rpartition("/")[0]
    return path


def _cost(structure: Structure, uses: Sequence[tuple[Any, Sequence[Size]]]) -> Cost:
    """The sum over all uses: of the product of a weight's sizes, and of those it is used along."""
    axes: dict[int, dict[int, np.ndarray]] = {}
    for slot in structure.slots:
        axes.setdefault(id(slot.variable), {})[slot.axis] = slot.labels
    terms = []
    for variable, along in uses:
        cut = axes.get(id(variable), {})
        sizes = [
            *along,
            *(cut.get(i, size) for i, size in enumerate(() if variable is None else variable.shape)),
        ]
        if any(size is None for size in sizes):
            raise ValueError(
                "Multiply-adds are of one example, all of whose sizes must be known. Received: "
                f"{structure.model.name!r}, where they are not. Rebuild the model with a fixed keras.Input shape."
            )
        fixed = math.prod(size for size in sizes if not isinstance(size, np.ndarray))
        terms.append((fixed, [structure.atoms.of[size] for size in sizes if isinstance(size, np.ndarray)]))

    def cost(keep: np.ndarray) -> int:
        return sum(
            fixed * math.prod(int(np.count_nonzero(keep[axis])) for axis in cut) for fixed, cut in terms
        )

    return cost
