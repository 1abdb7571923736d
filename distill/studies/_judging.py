"""The comparisons of a finished study, and what they show."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from distill.studies._grids import NOTHING, Grid, for_html
from distill.studies._measures import Measure
from distill.studies._results import StudyResult
from distill.studies._statistics import Comparison, adjust, compare, format_p


@dataclasses.dataclass(frozen=True)
class Judged:
    """One comparison of a study.

    Attributes:
        baseline: name of the baseline arm.
        arm: name of the arm that is compared with it.
        raw: the comparison on its own.
        adjusted: the same comparison with p and interval adjusted for the number of comparisons; its verdict is the one
            that counts.
        differences: arm − baseline, seed by seed.
        seeds: the seeds that both arms have.
        primary: whether the comparison answers the study's question; otherwise it is exploratory.
        together: number of comparisons that were adjusted together.
        digits: number of decimals to print.

    Example:
        ```python
        from distill import studies

        for judged in studies.judge(studies.read("runs/compare")):
            print(judged.arm, judged.adjusted.verdict, judged.differences)
        ```
    """

    baseline: str
    arm: str
    raw: Comparison
    adjusted: Comparison
    differences: tuple[float, ...]
    seeds: tuple[int, ...]
    primary: bool
    together: int
    digits: int


class Verdicts(list[Judged]):
    """A study's comparisons; a notebook displays them as a table."""

    def _repr_html_(self) -> str:
        rows = tuple(
            (
                f"{one.arm} − {one.baseline}",
                f"{one.adjusted.difference:+.{one.digits}f} {one.adjusted.unit}".rstrip(),
                interval(one.adjusted, digits=one.digits),
                format_p(one.adjusted.p).removeprefix("p = ").removeprefix("p "),
                one.adjusted.verdict,
                "primary" if one.primary else "exploratory",
            )
            for one in self
        )
        headings = ("comparison", "difference", "interval", "p, Holm", "verdict", "")
        return for_html(Grid("Differences on test, paired by seed", headings, rows))


def judge(study: StudyResult, *, measure: Measure | None = None) -> Verdicts:
    """Compares a study's arms on test, and adjusts for the number of comparisons by Holm's method.

    Arms are paired by the seeds that both have. Primary comparisons are adjusted among themselves, and exploratory
    ones among themselves.

    Args:
        study: a finished study.
        measure: measure to compare; by default the study's first. Comparisons with an arm that lacks it are left out.

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
    return Verdicts(
        judged
        for family in (study.primary, others)
        for judged in _family(study, family, measure or study.measures[0], primary=family is study.primary)
    )


def interval(comparison: Comparison, *, digits: int = 2) -> str:
    """The interval in words, or a dash if there is none."""
    if math.isnan(comparison.low):
        return NOTHING
    return f"{comparison.low:+.{digits}f} to {comparison.high:+.{digits}f}"


def paired(
    names: tuple[str, str],
    before: Mapping[int, float],
    after: Mapping[int, float],
    measure: Measure,
    *,
    primary: bool,
) -> Judged:
    """Compares the scores of a baseline and of an arm, by seed, on the seeds that both have; adjusted for nothing."""
    seeds = tuple(seed for seed in before if seed in after)
    one, other = ([scores[seed] for seed in seeds] for scores in (before, after))
    raw = compare(one, other, lower_is_better=measure.lower_is_better, unit=measure.unit)
    return Judged(
        *names,
        raw=raw,
        adjusted=raw,
        differences=tuple(b - a for a, b in zip(one, other, strict=True)),
        seeds=seeds,
        primary=primary,
        together=1,
        digits=measure.digits,
    )


def _family(
    study: StudyResult, family: Sequence[tuple[str, str]], measure: Measure, *, primary: bool
) -> list[Judged]:
    """Comparisons that are adjusted together."""
    found = [
        paired(names, before, after, measure, primary=primary)
        for names in family
        if (before := study.arm(names[0]).by_seed(measure)) is not None
        and (after := study.arm(names[1]).by_seed(measure)) is not None
    ]
    adjusted = adjust([one.raw for one in found])
    return [
        dataclasses.replace(one, adjusted=comparison, together=len(found))
        for one, comparison in zip(found, adjusted, strict=True)
    ]
