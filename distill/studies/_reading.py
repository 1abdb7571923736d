"""Reads and checks what a finished study left on disk; it needs neither Keras nor TensorFlow.

A study's directory holds `study.json`, which names its arms and comparisons, and one directory per cell, which is an
arm with one seed: `result.json`, and `metrics.jsonl` with one line per epoch.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.studies._details import read_details
from distill.studies._measures import CLASSIFICATION, Measure
from distill.studies._merging import merge
from distill.studies._results import ArmResult, BrokenStudyError, CellResult, StudyResult, Tuning


def read(study_dir: str | os.PathLike[str], *others: str | os.PathLike[str]) -> StudyResult:
    """Reads a study's directory and checks that its parts fit together.

    Args:
        study_dir: path to the directory that holds `study.json`, or to a `.json` file that `condense` wrote, whose
            cells have no history.
        *others: directories of further runs of the same study, with other seeds or other arms, which are merged. If two
            runs have the same arm with the same seed, the cell of the first is taken. Latencies are those of the first
            run that has any.

    Returns:
        The study.

    Raises:
        BrokenStudyError: a file is missing, unreadable or incomplete, a comparison names an arm that does not exist,
            or compared arms have no seed in common.
        ValueError: the directories are not of one study, or the settings or code of an arm differ between them.

    Example:
        ```python
        from distill import studies

        study = studies.read("runs/compare")
        print(study.arm("distilled").values(studies.ACCURACY))
        ```
    """
    return merge([_read(Path(one)) for one in (study_dir, *others)])


def _read(study_dir: Path) -> StudyResult:
    is_file = study_dir.suffix == ".json" and not study_dir.is_dir()
    path = study_dir if is_file else study_dir / "study.json"
    with _naming(path):
        raw = json.loads(path.read_text(encoding="utf-8"))
        measures = tuple(Measure(**measure) for measure in raw["measures"])
        study = StudyResult(
            name=str(raw["study"]),
            title=str(raw["title"]),
            question=str(raw["question"]),
            command=str(raw["command"]),
            created=str(raw["created"]),
            versions={str(package): str(version) for package, version in raw["versions"].items()},
            git_commit=raw["git_commit"],
            smoke=bool(raw["smoke"]),
            notes=tuple(str(note) for note in raw["notes"]),
            arms=tuple(_arm(path.parent, arm, measures) for arm in raw["arms"]),
            measures=measures,
            comparisons=tuple((baseline, arm) for baseline, arm in raw["comparisons"]),
            primary=tuple((baseline, arm) for baseline, arm in raw["primary"]),
            tuning=tuple(_tuning(tuning) for tuning in raw["tuning"]),
            latency_ms={
                arm: {key: float(times[key]) for key in ("median", "low", "high")}
                for arm, times in raw["latency_ms"].items()
            },
            litert_bytes={arm: int(size) for arm, size in raw.get("litert_bytes", {}).items()},
            extra=_others(raw, StudyResult),
        )
        seeds = {arm.name: arm.seeds for arm in study.arms}
        if strangers := set(study.primary) - set(study.comparisons):
            raise ValueError(f"{sorted(strangers)} are primary, but no comparisons")
        for baseline, arm in study.comparisons:
            if not set(seeds[baseline]) & set(seeds[arm]):
                raise ValueError(f"{baseline} has seeds {seeds[baseline]}, but {arm} has {seeds[arm]}")
    return study


def read_cell(folder: Path, measures: Sequence[Measure] = CLASSIFICATION) -> CellResult:
    """Reads the directory of a finished cell, with the scores of the given measures.

    Raises:
        BrokenStudyError: a file is missing, unreadable or incomplete.
    """
    log = folder / "metrics.jsonl"
    with _naming(log):
        history = tuple(dict(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines())
    result = folder / "result.json"
    with _naming(result):
        raw = json.loads(result.read_text(encoding="utf-8"))
        return _cell(raw, measures, history, config_of(folder))


def scores_of(folder: Path) -> set[str]:
    """The keys of the measures by which a finished cell was scored.

    Raises:
        BrokenStudyError: its result.json is broken.
    """
    result = folder / "result.json"
    with _naming(result):
        return set(json.loads(result.read_text(encoding="utf-8"))["test"])


def model_file(folder: Path) -> Path:
    """The file in which a finished cell left its model.

    Raises:
        BrokenStudyError: it is gone, or the cell's result.json is broken.
    """
    result = folder / "result.json"
    with _naming(result):
        file = folder / str(json.loads(result.read_text(encoding="utf-8"))["file"])
        if not file.is_file():
            raise ValueError(f"the model that it names, {file.name}, is gone")
        return file


def _arm(folder: Path, raw: Mapping[str, Any], measures: Sequence[Measure]) -> ArmResult:
    cells = [
        read_cell(folder / cell, measures)
        if isinstance(cell, str)
        else _cell(cell, measures, config=cell.get("config"))
        for cell in raw["cells"]
    ]
    strangers = sorted({cell.arm for cell in cells} - {raw["name"]})
    if not cells:
        raise ValueError(f"arm {raw['name']} lists no cells")
    if strangers:
        raise ValueError(f"arm {raw['name']} lists {len(cells)} cells, some of which belong to {strangers}")
    return ArmResult(
        name=str(raw["name"]),
        label=str(raw["label"]),
        description=str(raw["description"]),
        group=str(raw["group"]),
        cells=tuple(sorted(cells, key=lambda cell: cell.seed)),
    )


def _cell(
    raw: Mapping[str, Any],
    measures: Sequence[Measure],
    history: tuple[dict[str, float], ...] = (),
    config: Mapping[str, Any] | None = None,
) -> CellResult:
    return CellResult(
        arm=raw["arm"],
        seed=int(raw["seed"]),
        epochs=int(raw["epochs"]),
        seconds=float(raw["seconds"]),
        test=_scores(raw["test"], measures),
        dev=_scores(raw["dev"], measures),
        cost={
            **{key: raw["cost"][key] for key in ("parameters", "macs", "file_bytes")},
            **{key: raw["cost"].get(key) for key in ("nonzero", "gzip_bytes")},
        },
        history=history,
        config=dict(config or {}),
        **read_details(raw),
        extra=_others(raw, CellResult),
    )


def config_of(folder: Path) -> dict[str, Any]:
    """What a cell depends on besides its seed, if it was recorded.

    Raises:
        BrokenStudyError: the file that says it is broken.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    with _naming(path):
        return dict(json.loads(path.read_text(encoding="utf-8"))["config"])


def _scores(raw: Mapping[str, Any], measures: Sequence[Measure]) -> dict[str, float | None]:
    scores = {measure.key: raw[measure.key] for measure in measures}
    for measure in measures:
        score = scores[measure.key]
        if not (measure.of_teacher and score is None) and not math.isfinite(score):
            raise ValueError(f"{measure.key} is {score}")
    return scores


def _tuning(raw: Mapping[str, Any]) -> Tuning:
    return Tuning(
        arm=str(raw["arm"]),
        choices=tuple((dict(c["settings"]), float(c["dev"])) for c in raw["choices"]),
        chosen=dict(raw["chosen"]),
    )


def _others(raw: Mapping[str, Any], known: type[CellResult | StudyResult]) -> dict[str, Any]:
    """The content of a file that is not in the fields of the class made from it."""
    fields = {field.name for field in dataclasses.fields(known)} | {"study"}  # which is the name of a study
    return {key: value for key, value in raw.items() if key not in fields}


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into an error that names the file."""
    try:
        yield
    except BrokenStudyError:
        raise
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenStudyError(
            "Every file of a finished cell must be there and whole. "
            f"Received: {path}, which cannot be used ({type(error).__name__}: {error}). "
            "Run the study's command again; if a cell's file is broken, delete that cell's directory first."
        ) from error
