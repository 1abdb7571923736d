"""Verdicts that a study knows before it ends, and the order of arms that brings them early."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

from distill.studies._declarations import Cell
from distill.studies._declared import Design
from distill.studies._judging import Judged
from distill.studies._measures import Measure
from distill.studies._reading import read_cell
from distill.studies._statistics import LEVEL, compare
from distill.studies._summary import verdict


def stages(design: Design) -> list[list[str]]:
    """Arms in groups, to be trained one after the other: what each primary comparison takes, then all others."""
    wanted = [{one for arm in pair for one in {arm, *design.needed_by(arm)}} for pair in _primary(design)]
    groups: list[list[str]] = []
    placed: set[str] = set()
    for arms in [*wanted, set(design.arms)]:
        groups.append([name for name in design.arms if name in arms - placed])
        placed |= arms
    return [group for group in groups if group]


def early_verdicts(design: Design, cells: Mapping[str, Mapping[int, Cell]], study_dir: Path) -> list[str]:
    """What primary comparisons show, in words, as far as that stands whatever the others will show.

    Args:
        design: the study.
        cells: finished cells by arm and seed.
        study_dir: directory of the study.
    """
    measure, pairs = design.metrics[0], _primary(design)
    shown = []
    for baseline, arm in pairs:
        seeds = tuple(sorted(cells[baseline].keys() & cells[arm].keys()))
        before, after = (
            [_score(study_dir / cells[name][seed].folder, measure) for seed in seeds]
            for name in (baseline, arm)
        )
        if not seeds or any(map(math.isnan, before + after)):
            continue
        raw = compare(before, after, lower_is_better=measure.lower_is_better, unit=measure.unit)
        # Holm's method divides the level by the number of comparisons at most.
        strictest = dataclasses.replace(raw.at(LEVEL / len(pairs)), p=min(1.0, len(pairs) * raw.p))
        if not raw.deviation > 0 or strictest.verdict == "not shown":
            continue
        judged = Judged(
            baseline,
            arm,
            raw=raw,
            adjusted=strictest,
            differences=tuple(b - a for a, b in zip(before, after, strict=True)),
            seeds=seeds,
            primary=True,
            together=len(pairs),
            digits=measure.digits,
        )
        shown.append(": ".join(verdict(judged)))
    return shown


def _score(folder: Path, measure: Measure) -> float:
    """A cell's score on test as it is printed, or NaN if it has none, as a student without a teacher no agreement."""
    score = read_cell(folder, [measure]).test[measure.key]
    return math.nan if score is None else measure.scale * score


def _primary(design: Design) -> list[tuple[str, str]]:
    return [pair for pair in design.primary if set(pair) <= design.arms.keys()]
