"""The comparisons of a finished study, and what they show."""

import dataclasses

from distill.studies._measures import ACCURACY, Measure
from distill.studies._results import StudyResult
from distill.studies._statistics import Comparison, compare, holm


@dataclasses.dataclass(frozen=True)
class Judged:
    """One comparison of a study.

    Attributes:
        baseline: name of the baseline arm.
        arm: name of the arm that is compared with it.
        raw: the comparison on its own.
        adjusted: the same with p adjusted for the number of comparisons; this verdict is the one that counts.
        differences: arm − baseline, seed by seed.
    """

    baseline: str
    arm: str
    raw: Comparison
    adjusted: Comparison
    differences: tuple[float, ...]


def judge(study: StudyResult, *, measure: Measure = ACCURACY, epoch: str = "last") -> list[Judged]:
    """Compares a study's arms on test, and adjusts all p values together by Holm's method.

    Args:
        study: a finished study.
        measure: measure to compare. Comparisons with an arm that lacks it are left out.
        epoch: "last", or "selected" for the epoch that was best on dev.

    Returns:
        One `Judged` per comparison, in the study's order.

    Example:
        ```python
        from distill import studies

        for judged in studies.judge(studies.read("runs/compare")):
            print(judged.arm, "against", judged.baseline, judged.adjusted)
        ```
    """
    pairs = [
        (names, before, after)
        for names in study.comparisons
        if (before := study.arm(names[0]).values(measure, epoch=epoch)) is not None
        and (after := study.arm(names[1]).values(measure, epoch=epoch)) is not None
    ]
    raw = [
        compare(before, after, lower_is_better=measure.lower_is_better, unit=measure.unit)
        for _, before, after in pairs
    ]
    adjusted = holm([comparison.p for comparison in raw])
    return [
        Judged(
            *names,
            raw=comparison,
            adjusted=dataclasses.replace(comparison, p=p),
            differences=tuple(b - a for a, b in zip(before, after, strict=True)),
        )
        for (names, before, after), comparison, p in zip(pairs, raw, adjusted, strict=True)
    ]
