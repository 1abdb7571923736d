"""The comparisons of a finished study, and what they show."""

import dataclasses
from collections.abc import Sequence

from distill.studies._measures import Measure
from distill.studies._results import StudyResult
from distill.studies._statistics import Comparison, adjust, compare


@dataclasses.dataclass(frozen=True)
class Judged:
    """One comparison of a study.

    Attributes:
        baseline: name of the baseline arm.
        arm: name of the arm that is compared with it.
        raw: the comparison on its own.
        adjusted: the same with p and interval adjusted for the number of comparisons; this verdict is the one that
            counts.
        differences: arm − baseline, seed by seed.
        primary: whether the comparison answers the study's question; otherwise it is exploratory.
        together: number of comparisons that were adjusted together.
        digits: number of decimals to print.
    """

    baseline: str
    arm: str
    raw: Comparison
    adjusted: Comparison
    differences: tuple[float, ...]
    primary: bool
    together: int
    digits: int


def judge(study: StudyResult, *, measure: Measure | None = None, epoch: str = "last") -> list[Judged]:
    """Compares a study's arms on test, and adjusts for the number of comparisons by Holm's method.

    Primary comparisons are adjusted among themselves, and exploratory ones among themselves.

    Args:
        study: a finished study.
        measure: measure to compare; by default the study's first. Comparisons with an arm that lacks it are left out.
        epoch: "last", or "selected" for the epoch that was best on dev.

    Returns:
        One `Judged` per comparison: the primary ones, then the others, each in the study's order.

    Example:
        ```python
        from distill import studies

        for judged in studies.judge(studies.read("runs/compare")):
            print(judged.arm, "against", judged.baseline, judged.adjusted)
        ```
    """
    others = [names for names in study.comparisons if names not in study.primary]
    return [
        judged
        for family in (study.primary, others)
        for judged in _family(
            study, family, measure or study.measures[0], epoch, primary=family is study.primary
        )
    ]


def _family(
    study: StudyResult, family: Sequence[tuple[str, str]], measure: Measure, epoch: str, *, primary: bool
) -> list[Judged]:
    """Comparisons that are adjusted together."""
    pairs = [
        (names, before, after)
        for names in family
        if (before := study.arm(names[0]).values(measure, epoch=epoch)) is not None
        and (after := study.arm(names[1]).values(measure, epoch=epoch)) is not None
    ]
    raw = [
        compare(before, after, lower_is_better=measure.lower_is_better, unit=measure.unit)
        for _, before, after in pairs
    ]
    return [
        Judged(
            *names,
            raw=comparison,
            adjusted=adjusted,
            differences=tuple(b - a for a, b in zip(before, after, strict=True)),
            primary=primary,
            together=len(pairs),
            digits=measure.digits,
        )
        for (names, before, after), comparison, adjusted in zip(pairs, raw, adjust(raw), strict=True)
    ]
