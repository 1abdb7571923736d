"""What trackers are told about cells: where they belong, what they make, and what they learn from."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from distill import tracking
from distill.studies._declarations import Cell, Surroundings
from distill.studies._measures import Measure
from distill.studies._reading import read_cell


def tracker_of(
    cell: Cell,
    directory: Path,
    surroundings: Surroundings,
    *,
    code: Path,
) -> tracking.Tracker:
    """Opens the tracker of a cell: its study is the run's group, its arm the job type."""
    return tracking.Tracker(
        directory,
        study=cell.study,
        arm=cell.arm,
        config={"seed": cell.seed, **dataclasses.asdict(cell.config)},
        tags=[f"seed {cell.seed}"],
        wandb=surroundings.wandb,
        tensorboard=surroundings.tensorboard,
        code=code,
    )


def name_artifacts(tracker: tracking.Tracker, cell: Cell, file: Path, needs: Mapping[str, Path]) -> None:
    """Names a cell's model, its caches of answers, and those of the cells that it needs.

    Args:
        tracker: tracker of the cell.
        cell: the cell.
        file: its model, which lies in its directory.
        needs: arm -> model of the cell that it needs.
    """
    for path, name, kind in _artifacts(cell.study, cell.arm, file):
        tracker.log_artifact(path, name=name, type=kind)
    for arm, model in needs.items():
        for path, name, kind in _artifacts(cell.study, arm, model):
            tracker.use_artifact(path, name=name, type=kind)


def record_again(
    cell: Cell,
    study_dir: Path,
    folder: Path,
    *,
    surroundings: Surroundings,
    measures: Sequence[Measure],
    needs: Mapping[str, Path],
    code: Path,
) -> None:
    """Records a finished cell as another run, which is not trained again.

    Args:
        cell: the cell.
        study_dir: directory of its study.
        folder: new folder for the run.
        surroundings: where its numbers go.
        measures: the study's measures.
        needs: arm -> model of the cell that it needs.
        code: folder of the study's code.
    """
    own = study_dir / cell.folder
    result = json.loads((own / "result.json").read_text(encoding="utf-8"))
    with tracker_of(cell, folder, surroundings, code=code) as tracker:
        for row in read_cell(own, measures).history:
            tracker.log(
                {name: float(value) for name, value in row.items() if name != "step"}, int(row["step"])
            )
        name_artifacts(tracker, cell, own / result["file"], needs)
        tracker.finish(result)


def is_named() -> bool:
    """Whether the agent of a sweep has named the next run of W&B."""
    return "WANDB_RUN_ID" in os.environ


@contextlib.contextmanager
def unnamed() -> Iterator[None]:
    """Keeps the name that the agent of a sweep has given from the runs inside."""
    variables = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH")
    named = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(named)


def _artifacts(study: str, arm: str, file: Path) -> Iterator[tuple[Path, str, str]]:
    """The artifacts of a cell: path, name and type."""
    yield file, f"{study}-{arm}", "model"
    for manifest in sorted(file.parent.rglob("cache.json")):
        yield manifest.parent, f"{study}-{arm}-{manifest.parent.name}", "cache"
