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

from distill.studies._measures import CLASSIFICATION, Measure


class BrokenStudyError(ValueError):
    """A file of a study is missing or broken. The message names the file.

    Example:
        ```python
        from distill import studies

        try:
            studies.read("runs/nothing")
        except studies.BrokenStudyError as error:
            print(error)
        ```
    """


@dataclasses.dataclass(frozen=True)
class CellResult:
    """A trained model: one arm with one seed.

    Attributes:
        arm: name of the arm.
        seed: seed of initial weights and data order.
        selected_epoch: the epoch that was chosen on dev, counted from 0; `None` in a study that chooses none.
        epochs: number of epochs trained.
        seconds: training time.
        test: scores on test after the "last" epoch, and after the "selected" one if one was, by `Measure.key`; `None`
            for a measure that needs a teacher where there is none.
        dev: the same scores on dev.
        cost: "parameters", "macs", "file_bytes", "nonzero" and "gzip_bytes"; `None` for what is unknown, as the last
            two are in results from before they were measured.
        history: what was logged after each epoch, in order.
        extra: further content of `result.json`, by key.

    Example:
        >>> from distill import studies
        >>> cell = studies.read("runs/compare").arm("distilled").cells[0]
        >>> cell.seed, cell.epochs
        (0, 4)
    """

    arm: str
    seed: int
    selected_epoch: int | None
    epochs: int
    seconds: float
    test: dict[str, dict[str, float | None]]
    dev: dict[str, dict[str, float | None]]
    cost: dict[str, int | None]
    history: tuple[dict[str, float], ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """One way to train, with its trained models.

    Attributes:
        name: name of the arm.
        label: short text for readers, with the arm's settings.
        description: one sentence for readers.
        group: heading under which tables and plots show the arm.
        cells: trained models, in the order of their seeds.

    Example:
        >>> from distill import studies
        >>> arm = studies.read("runs/compare").arm("distilled")
        >>> len(arm.values(studies.ACCURACY)) == len(arm.cells)
        True
    """

    name: str
    label: str
    description: str
    group: str
    cells: tuple[CellResult, ...]

    def values(self, measure: Measure, *, epoch: str = "last") -> list[float] | None:
        """Returns the test scores by seed, in printed units; `None` if a cell lacks the measure or the epoch.

        Args:
            measure: measure to return.
            epoch: "last" or "selected".
        """
        scores = [cell.test.get(epoch, {}).get(measure.key) for cell in self.cells]
        known = [measure.scale * score for score in scores if score is not None]
        return known if len(known) == len(scores) else None


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The search on dev for the settings of one arm.

    Attributes:
        arm: name of the arm.
        choices: settings that were tried, each with its mean score on dev, by the study's first measure.
        chosen: settings that were taken.

    Example:
        >>> from distill import studies
        >>> studies.read("runs/compare").tuning[0].chosen
        {'temperature': 4.0}
    """

    arm: str
    choices: tuple[tuple[dict[str, Any], float], ...]
    chosen: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """A finished study, as `study.json` has it.

    Attributes:
        name: name of the study, such as "compare".
        title: title of its report, one line.
        question: question that the study answers.
        command: command that ran it.
        created: time of its end, in ISO format.
        versions: version of each package.
        git_commit: commit of the code; `None` outside a repository.
        smoke: whether the run only checked that the code works.
        notes: what a reader must know.
        arms: arms, in the order of the tables.
        measures: ways in which the models were scored; arms are judged by the first.
        comparisons: pairs of baseline and arm, by name.
        primary: those of them that answer the study's question; the others are exploratory.
        tuning: searches on dev, one per tuned arm.
        latency_ms: "median", "low" and "high" by arm; not every arm need be timed.
        litert_bytes: size of the LiteRT file by arm; empty if none was written.
        extra: further content of `study.json`, by key.
    """

    name: str
    title: str
    question: str
    command: str
    created: str
    versions: dict[str, str]
    git_commit: str | None
    smoke: bool
    notes: tuple[str, ...]
    arms: tuple[ArmResult, ...]
    measures: tuple[Measure, ...]
    comparisons: tuple[tuple[str, str], ...]
    primary: tuple[tuple[str, str], ...]
    tuning: tuple[Tuning, ...]
    latency_ms: dict[str, dict[str, float]]
    litert_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def arm(self, name: str) -> ArmResult:
        """Returns the arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def read(study_dir: str | os.PathLike[str]) -> StudyResult:
    """Reads a study's directory and checks that its parts fit together.

    Args:
        study_dir: path to the directory that holds `study.json`, or to a `.json` file that `condense` wrote, whose
            cells have no history.

    Returns:
        The study.

    Raises:
        BrokenStudyError: a file is missing, unreadable or incomplete, a comparison names an arm that does not exist,
            or compared arms have different seeds.

    Example:
        ```python
        from distill import studies

        study = studies.read("runs/compare")
        print(study.arm("distilled").values(studies.ACCURACY))
        ```
    """
    path = Path(study_dir)
    path = path if path.suffix == ".json" else path / "study.json"
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
        seeds = {arm.name: [cell.seed for cell in arm.cells] for arm in study.arms}
        if strangers := set(study.primary) - set(study.comparisons):
            raise ValueError(f"{sorted(strangers)} are primary, but no comparisons")
        for baseline, arm in study.comparisons:
            if seeds[baseline] != seeds[arm]:
                raise ValueError(f"{baseline} has seeds {seeds[baseline]}, but {arm} has {seeds[arm]}")
    return study


def read_cell(folder: Path, measures: Sequence[Measure] = CLASSIFICATION) -> CellResult:
    """Reads the directory of a finished cell, whose scores are those of the measures.

    Raises:
        BrokenStudyError: a file is missing, unreadable or incomplete.
    """
    log = folder / "metrics.jsonl"
    with _naming(log):
        history = tuple(dict(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines())
    result = folder / "result.json"
    with _naming(result):
        return _cell(json.loads(result.read_text(encoding="utf-8")), measures, history)


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
        read_cell(folder / cell, measures) if isinstance(cell, str) else _cell(cell, measures, history=())
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
    raw: Mapping[str, Any], measures: Sequence[Measure], history: tuple[dict[str, float], ...]
) -> CellResult:
    epochs = ("last",) if raw["selected_epoch"] is None else ("last", "selected")
    return CellResult(
        arm=raw["arm"],
        seed=int(raw["seed"]),
        selected_epoch=None if raw["selected_epoch"] is None else int(raw["selected_epoch"]),
        epochs=int(raw["epochs"]),
        seconds=float(raw["seconds"]),
        test={epoch: _scores(raw["test"][epoch], measures) for epoch in epochs},
        dev={epoch: _scores(raw["dev"][epoch], measures) for epoch in epochs},
        cost={
            **{key: raw["cost"][key] for key in ("parameters", "macs", "file_bytes")},
            **{key: raw["cost"].get(key) for key in ("nonzero", "gzip_bytes")},
        },
        history=history,
        extra=_others(raw, CellResult),
    )


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
