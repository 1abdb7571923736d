"""The scores of a study's arms against their costs, and which arms another one dominates."""

import dataclasses

from distill.studies._measures import Measure
from distill.studies._results import ArmResult, StudyResult
from distill.studies._statistics import Spread, compare, spread


@dataclasses.dataclass(frozen=True)
class Priced:
    """An arm with its score and one of its costs.

    Attributes:
        arm: the arm.
        score: its test scores by the study's first measure, over its seeds.
        cost: what it costs; for latency, the median.
        low: lower end of the cost: the lower quartile of latency, otherwise the cost itself.
        high: upper end of the cost, likewise.
        dominated_by: names of the arms that dominate it, the best one first: arms that cost less and score at least as
            well, by their means, and arms that cost no more and are shown to score better, by a t test paired by seed.
            Latencies whose quartiles overlap count as equal.

    Example:
        ```python
        from distill import studies

        for priced in studies.prices(studies.read("runs/compare"))[0].arms:
            print(priced.arm.name, priced.score.mean, priced.cost, priced.dominated_by)
        ```
    """

    arm: ArmResult
    score: Spread
    cost: float
    low: float
    high: float
    dominated_by: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prices:
    """The arms by one kind of cost.

    Attributes:
        kind: name of the cost, such as "MACs".
        key: its name in file names.
        about: what a reader must know.
        arms: the arms whose cost and score are known, in the study's order.
    """

    kind: str
    key: str
    about: str
    arms: tuple[Priced, ...]

    @property
    def front(self) -> list[Priced]:
        """The arms that no other dominates, from the cheapest to the most expensive."""
        return sorted((one for one in self.arms if not one.dominated_by), key=lambda one: one.cost)


def prices(study: StudyResult) -> list[Prices]:
    """Compares a study's arms by each kind of cost that is known for two or more of them.

    Args:
        study: a finished study.

    Returns:
        The arms by multiply-adds, by bytes and by latency; kinds of cost that are not known are left out.

    Example:
        ```python
        from distill import studies

        for kind in studies.prices(studies.read("runs/compare")):
            print(kind.kind, [one.arm.name for one in kind.front])
        ```
    """
    macs = {arm.name: mean for arm in study.arms if (mean := mean_cost(arm, "macs")) is not None}
    found = [
        _priced(study, "MACs", "macs", "multiply-adds of one example", _exact(macs)),
        _priced(study, *_bytes(study)),
        _priced(
            study,
            "latency",
            "latency",
            "milliseconds of one example: median and quartiles",
            {arm: (times["median"], times["low"], times["high"]) for arm, times in study.latency_ms.items()},
        ),
    ]
    return [one for one in found if len(one.arms) > 1]


# Arm -> cost, and the ends of what it may be.
_Costs = dict[str, tuple[float, float, float]]


def _priced(study: StudyResult, kind: str, key: str, about: str, costs: _Costs) -> Prices:
    arms = [
        Priced(arm, spread(values), *costs[arm.name])
        for arm in study.arms
        if arm.name in costs and (values := arm.values(study.measures[0])) is not None
    ]
    return Prices(
        kind,
        key,
        about,
        tuple(dataclasses.replace(one, dominated_by=_dominating(one, arms, study)) for one in arms),
    )


def _dominating(one: Priced, arms: list[Priced], study: StudyResult) -> tuple[str, ...]:
    sign = -1 if study.measures[0].lower_is_better else 1
    found = [
        other
        for other in arms
        if sign * (other.score.mean - one.score.mean) >= 0
        and other.low <= one.high
        and (other.high < one.low or _is_better(one.arm, other.arm, study.measures[0]))
    ]
    return tuple(
        other.arm.name for other in sorted(found, key=lambda other: (-sign * other.score.mean, other.cost))
    )


def _is_better(one: ArmResult, other: ArmResult, measure: Measure) -> bool:
    """Whether the other arm is shown to be better, by the seeds that both have."""
    scores, others = (
        {cell.seed: score for cell, score in zip(arm.cells, arm.values(measure) or (), strict=True)}
        for arm in (one, other)
    )
    both = sorted(scores.keys() & others.keys())
    if not both:
        return False
    found = compare(
        [scores[seed] for seed in both],
        [others[seed] for seed in both],
        lower_is_better=measure.lower_is_better,
    )
    return found.verdict == "better"


def _bytes(study: StudyResult) -> tuple[str, str, str, _Costs]:
    """The sizes of the LiteRT files, if more than one arm has one; otherwise those of the saved models."""
    if len(study.litert_bytes) > 1:
        return "bytes", "bytes", "size of the LiteRT file", _exact(study.litert_bytes)
    compressed, saved = (
        {arm.name: mean for arm in study.arms if (mean := mean_cost(arm, key)) is not None}
        for key in ("gzip_bytes", "file_bytes")
    )
    if len(compressed) == len(study.arms):
        return "bytes", "bytes", "size of the saved model, compressed", _exact(compressed)
    return "bytes", "bytes", "size of the saved model", _exact(saved)


def _exact(costs: "dict[str, float] | dict[str, int]") -> _Costs:
    return {arm: (cost, cost, cost) for arm, cost in costs.items()}


def mean_cost(arm: ArmResult, key: str) -> float | None:
    """The mean of a cost over an arm's cells, or `None` if one lacks it."""
    values = [value for cell in arm.cells if (value := cell.cost.get(key)) is not None]
    return sum(values) / len(values) if len(values) == len(arm.cells) else None
