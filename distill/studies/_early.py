"""Verdicts that a study knows before it ends, and the order of arms that brings them early."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from distill.studies._declarations import Cell
from distill.studies._declared import Design
from distill.studies._judging import paired
from distill.studies._measures import Measure
from distill.studies._reading import read_cell
from distill.studies._statistics import LEVEL
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
    for names in pairs:
        before, after = (_scores(cells[name], measure, study_dir) for name in names)
        if before is None or after is None or not before.keys() & after.keys():
            continue
        judged = paired(names, before, after, measure, primary=True)
        if not judged.raw.deviation > 0:
            continue
        # Holm's method divides the level by the number of comparisons at most.
        strictest = dataclasses.replace(
            judged.raw.at(LEVEL / len(pairs)), p=min(1.0, len(pairs) * judged.raw.p)
        )
        if strictest.verdict != "not shown":
            shown.append(": ".join(verdict(dataclasses.replace(judged, adjusted=strictest))))
    return shown


def _scores(cells: Mapping[int, Cell], measure: Measure, study_dir: Path) -> dict[int, float] | None:
    """Scores on test as they are printed; `None` if a cell has none, as a student without a teacher no agreement."""
    found = {}
    for seed, cell in cells.items():
        score = read_cell(study_dir / cell.folder, [measure]).test[measure.key]
        if score is None:
            return None
        found[seed] = measure.scale * score
    return found


def _primary(design: Design) -> list[tuple[str, str]]:
    return [pair for pair in design.primary if set(pair) <= design.arms.keys()]
