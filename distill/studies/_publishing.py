"""A finished study as one run of Weights & Biases: its verdicts, tables, pictures and report."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Literal

from distill import tracking
from distill.studies._judging import judge
from distill.studies._pareto import mean_cost
from distill.studies._reading import read
from distill.studies._results import StudyResult
from distill.studies._statistics import spread
from distill.studies._summary import verdict

_Table = tuple[list[str], list[list[Any]]]


def publish(
    study_dir: str | os.PathLike[str],
    *,
    wandb: Literal["offline", "online", "disabled"] | None = None,
    code: Path | None = None,
) -> None:
    """Records a finished study as one W&B run, in the group of its cells and with the job type "study".

    The run's summary holds the verdicts. Its tables hold the arms, seeds, comparisons and settings that were tried, and
    its media are the report and the pictures. `Study.run` does this at its end. Problems with W&B are logged and stop
    nothing.

    Args:
        study_dir: path to the directory that holds `study.json`. An earlier offline W&B run of the study in this
            directory is replaced, as the report is.
        wandb: mode of W&B; `None` for the value of WANDB_MODE, or "offline" without it.
        code: folder of the study's code, whose git commit W&B records; `None` for the folder of the program.

    Raises:
        BrokenStudyError: a file of the study is missing or broken.

    Example:
        ```python
        from distill import studies

        studies.publish("runs/compare", wandb="disabled")
        ```
    """
    if (wandb or os.environ.get("WANDB_MODE")) == "disabled":
        return
    folder = Path(study_dir).resolve()
    study = read(folder)
    shutil.rmtree(folder / "wandb", ignore_errors=True)
    media = {path.stem: path for path in [*sorted(folder.glob("report/*.png")), *folder.glob("report.html")]}
    with tracking.Tracker(
        folder, study=study.name, arm="study", config=_config(study), wandb=wandb, code=code
    ) as tracker:
        tables = {
            "arms": _arms(study),
            "seeds": _seeds(study),
            "comparisons": _comparisons(study),
            "tuning": _tuning(study),
        }
        shown = {name: (columns, rows) for name, (columns, rows) in tables.items() if rows}
        tracker.finish(_summary(study), tables=shown, media=media)


def sync_line(study_dir: Path) -> str | None:
    """The line that uploads the offline runs of a study; `None` if there are none."""
    folders = [study_dir / "wandb", *sorted(study_dir.glob("cells/*/wandb"))]
    if not any(any(folder.glob("offline-run-*")) for folder in folders):
        return None
    place = shlex.quote(str(study_dir))
    return f"wandb sync {place}/wandb {place}/cells/*/wandb"


def _config(study: StudyResult) -> dict[str, Any]:
    return {
        "title": study.title,
        "question": study.question,
        "command": study.command,
        "smoke": study.smoke,
        "arms": {arm.name: arm.label for arm in study.arms},
        "measures": [measure.key for measure in study.measures],
        "seeds": sorted({cell.seed for arm in study.arms for cell in arm.cells}),
        "notes": list(study.notes),
        "versions": study.versions,
        "git_commit": study.git_commit,
        "created": study.created,
    }


def _summary(study: StudyResult) -> dict[str, Any]:
    judged = judge(study)
    return {
        "verdicts": "; ".join(": ".join(verdict(one)) for one in judged),
        **{
            f"{one.arm} vs {one.baseline}": {
                "verdict": one.adjusted.verdict,
                "difference": one.adjusted.difference,
                "low": one.adjusted.low,
                "high": one.adjusted.high,
                "p": one.adjusted.p,
            }
            for one in judged
        },
        **{
            arm.name: {
                measure.key: spread(values).mean
                for measure in study.measures
                if (values := arm.values(measure)) is not None
            }
            for arm in study.arms
        },
    }


def _arms(study: StudyResult) -> _Table:
    costs = ["parameters", "macs", "file_bytes"]
    columns = ["arm", "group", "label", "seeds"]
    columns += [f"{measure.key}{part}" for measure in study.measures for part in ("", " deviation")]
    rows: list[list[Any]] = []
    for arm in study.arms:
        row: list[Any] = [arm.name, arm.group, arm.label, len(arm.cells)]
        for measure in study.measures:
            values = arm.values(measure)
            row += [None, None] if values is None else [spread(values).mean, spread(values).deviation]
        row += [mean_cost(arm, key) for key in costs]
        row += [study.litert_bytes.get(arm.name), study.latency_ms.get(arm.name, {}).get("median")]
        rows.append(row)
    return [*columns, *costs, "litert_bytes", "latency_ms"], rows


def _seeds(study: StudyResult) -> _Table:
    keys = [measure.key for measure in study.measures]
    columns = [
        "arm",
        "seed",
        "epochs",
        "seconds",
        *(f"{split}/{key}" for split in ("dev", "test") for key in keys),
    ]
    rows = [
        [
            arm.name,
            cell.seed,
            cell.epochs,
            cell.seconds,
            *(scores[key] for scores in (cell.dev, cell.test) for key in keys),
        ]
        for arm in study.arms
        for cell in arm.cells
    ]
    return columns, rows


def _comparisons(study: StudyResult) -> _Table:
    columns = ["arm", "baseline", "verdict", "difference", "low", "high", "unit", "p", "seeds", "primary"]
    rows = [
        [
            *(one.arm, one.baseline, found.verdict),
            *(found.difference, found.low, found.high, found.unit),
            *(found.p, found.n, one.primary),
        ]
        for one in judge(study)
        for found in [one.adjusted]
    ]
    return columns, rows


def _tuning(study: StudyResult) -> _Table:
    rows: list[list[Any]] = [
        [one.arm, json.dumps(settings), score, settings == one.chosen]
        for one in study.tuning
        for settings, score in one.choices
    ]
    return ["arm", "settings", f"dev/{study.measures[0].key}", "chosen"], rows
