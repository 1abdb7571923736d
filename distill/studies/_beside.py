"""The files beside a report: its tables as CSV, its charts as SVG and PNG, and all numbers as JSON."""

import math
from pathlib import Path
from typing import Any

from distill._atomic import replacing_folder
from distill.studies._charts import every
from distill.studies._grids import Grid, Number, for_csv
from distill.studies._insides import disagreements
from distill.studies._judging import Judged, judge
from distill.studies._pareto import mean_cost, prices
from distill.studies._records import write_json
from distill.studies._results import ArmResult, StudyResult
from distill.studies._statistics import spread
from distill.studies._summary import cautions
from distill.studies._tables import (
    comparisons,
    costs,
    other_measures,
    scores,
    settings,
    shipped,
    training,
    tuning,
)


def write_beside(study: StudyResult, folder: Path) -> None:
    """Writes a folder with the content of a report for other programs, whole or not at all.

    Args:
        study: a finished study.
        folder: path to the folder, which is replaced.
    """
    grids = {
        "arms": scores(study),
        "costs": costs(study),
        "shipped": shipped(study),
        "comparisons": comparisons(study),
        "other-measures": other_measures(study),
        "disagreements": disagreements(study),
        "settings": settings(study),
        "tuning": tuning(study),
        "training": training(study),
        "seeds": seeds(study),
    }
    with replacing_folder(folder) as draft:
        draft.mkdir()
        for name, grid in grids.items():
            if grid is not None and grid.rows:
                (draft / f"{name}.csv").write_text(for_csv(grid), encoding="utf-8")
        for picture in every(study):
            picture.save(draft / f"{picture.name}.svg")
            picture.save(draft / f"{picture.name}.png")
        write_json(draft / "report.json", content(study))


def seeds(study: StudyResult) -> Grid:
    """Every score of every cell."""
    rows = [
        (arm.name, str(cell.seed), split, measure.heading, Number(str(score), measure.scale * score))
        for arm in study.arms
        for cell in arm.cells
        for split, found in (("dev", cell.dev), ("test", cell.test))
        for measure in study.measures
        if (score := found[measure.key]) is not None
    ]
    return Grid("Scores of single seeds", ("arm", "seed", "split", "measure", "value"), tuple(rows))


def content(study: StudyResult) -> dict[str, Any]:
    """What the report says, in values that JSON can hold; scores and differences are in printed units."""
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "command": study.command,
        "created": study.created,
        "versions": study.versions,
        "git_commit": study.git_commit,
        "smoke": study.smoke,
        "cautions": cautions(study),
        "notes": list(study.notes),
        "verdicts": [
            {"measure": measure.key, **_verdict(judged)}
            for measure in study.measures
            if not measure.of_teacher
            for judged in judge(study, measure=measure)
        ],
        "pareto": {
            kind.key: {
                "front": [one.arm.name for one in kind.front],
                "dominated": {one.arm.name: list(one.dominated_by) for one in kind.arms if one.dominated_by},
            }
            for kind in prices(study)
        },
        "arms": [_arm(study, arm) for arm in study.arms],
    }


def _verdict(judged: Judged) -> dict[str, Any]:
    result = judged.adjusted
    return {
        "arm": judged.arm,
        "baseline": judged.baseline,
        "verdict": result.verdict,
        "primary": judged.primary,
        "difference": result.difference,
        "low": _known(result.low),
        "high": _known(result.high),
        "level": 1 - result.level,
        "unit": result.unit,
        "p": result.p,
        "p_unadjusted": judged.raw.p,
        "p_sign_flips": judged.raw.sign_flip_p,
        "seeds": list(judged.seeds),
    }


def _arm(study: StudyResult, arm: ArmResult) -> dict[str, Any]:
    found = {}
    for measure in study.measures:
        values = arm.values(measure)
        if values is not None:
            over = spread(values)
            found[measure.key] = {
                "mean": over.mean,
                "deviation": _known(over.deviation),
                "half_interval": _known(over.half_interval),
            }
    return {
        "name": arm.name,
        "label": arm.label,
        "description": arm.description,
        "group": arm.group,
        "seeds": arm.seeds,
        "scores": found,
        "cost": {key: mean_cost(arm, key) for key in arm.cells[0].cost},
        "litert_bytes": study.litert_bytes.get(arm.name),
        "latency_ms": study.latency_ms.get(arm.name),
        "seconds": [cell.seconds for cell in arm.cells],
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
