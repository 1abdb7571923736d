"""What a finished study left on disk, read and checked; neither Keras nor TensorFlow is needed.

A study directory holds `study.json`, which names its arms and comparisons, and a directory for each cell, one
arm with one seed: `result.json` and `metrics.jsonl`, a line an epoch.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill.studies._statistics import Comparison, compare, holm

EPOCHS = ("last", "selected")


class BrokenStudyError(ValueError):
    """A study directory of which something is missing or broken."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One way to score a model, and how to print it.

    Attributes:
        key: its name in `result.json`.
        name: its name in tables.
        unit: of the printed numbers.
        scale: what a stored value is multiplied by to be printed.
        digits: decimals to print.
        lower_is_better: as for errors.
    """

    key: str
    name: str
    unit: str
    scale: float = 1.0
    digits: int = 2
    lower_is_better: bool = False


ACCURACY = Measure("accuracy", "accuracy", "points", scale=100)
NLL = Measure("nll", "NLL", "nats", digits=3, lower_is_better=True)
ECE = Measure("ece", "ECE", "points", scale=100, digits=1, lower_is_better=True)
AGREEMENT = Measure("agreement", "agreement", "points", scale=100)
MEASURES = (ACCURACY, NLL, ECE, AGREEMENT)


@dataclasses.dataclass(frozen=True)
class CellResult:
    """One trained model: an arm with one seed.

    Attributes:
        arm: name of its arm.
        seed: what initialisation and data order came from.
        selected_epoch: the epoch, from 0, that was chosen on dev.
        epochs: epochs trained.
        seconds: training time.
        test: "last" and "selected" to the scores on test, by `Measure.key`; agreement may be `None`.
        dev: the same on dev.
        cost: "parameters", "macs", "file_bytes", "nonzero" and "gzip_bytes"; `None` where unknown, as the last two are
            in results of before they were measured.
        history: what was logged at each epoch, in order.
        extra: what else a study put into `result.json`, by its key.
    """

    arm: str
    seed: int
    selected_epoch: int
    epochs: int
    seconds: float
    test: dict[str, dict[str, float | None]]
    dev: dict[str, dict[str, float | None]]
    cost: dict[str, int | None]
    history: tuple[dict[str, float], ...]
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """One way to train, and its cells in the order of their seeds."""

    name: str
    label: str
    description: str
    group: str
    cells: tuple[CellResult, ...]

    def values(self, measure: Measure, epoch: str = "last") -> list[float] | None:
        """Test scores by seed in printed units; `None` where the arm does not have the measure."""
        scores = [cell.test[epoch][measure.key] for cell in self.cells]
        known = [measure.scale * score for score in scores if score is not None]
        return known if len(known) == len(scores) else None


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What was tried for one arm: settings with the dev accuracy they gave, and the settings taken."""

    arm: str
    choices: tuple[tuple[dict[str, Any], float], ...]
    chosen: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """A finished study; the fields are those of `study.json`.

    Attributes:
        name: which study it is, such as "compare".
        title: a line.
        question: what it set out to answer.
        command: what was typed to run it.
        created: ISO time.
        versions: package to version.
        git_commit: `None` outside a repository.
        smoke: whether it only proved that the code runs.
        notes: what a reader must know.
        arms: in the order of the tables.
        comparisons: names of baseline and arm.
        tuning: what was tried on dev, arm by arm.
        latency_ms: arm to "median", "low" and "high"; not every arm need be timed.
        litert_bytes: arm to the size of its LiteRT file; empty where none was written.
        extra: what else a study put into `study.json`, by its key.
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
    comparisons: tuple[tuple[str, str], ...]
    tuning: tuple[Tuning, ...]
    latency_ms: dict[str, dict[str, float]]
    litert_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def arm(self, name: str) -> ArmResult:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


@dataclasses.dataclass(frozen=True)
class Judged:
    """One of a study's comparisons.

    Attributes:
        baseline: name of the baseline arm.
        arm: name of the arm compared with it.
        raw: the comparison by itself.
        adjusted: the same with p adjusted for the number of comparisons; its verdict counts.
        differences: arm − baseline by seed.
    """

    baseline: str
    arm: str
    raw: Comparison
    adjusted: Comparison
    differences: tuple[float, ...]


def judge(study: StudyResult, measure: Measure = ACCURACY, epoch: str = "last") -> list[Judged]:
    """The study's comparisons on test, adjusted together by Holm's method.

    Comparisons of which one arm lacks the measure are left out.

    Args:
        study: a study.
        measure: what to compare.
        epoch: "last" or "selected".

    Returns:
        One `Judged` a comparison, in the study's order.
    """
    pairs = [
        (names, before, after)
        for names in study.comparisons
        if (before := study.arm(names[0]).values(measure, epoch)) is not None
        and (after := study.arm(names[1]).values(measure, epoch)) is not None
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


def read(study_dir: str | Path) -> StudyResult:
    """Reads a study directory and checks that its parts fit together.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        The study.

    Raises:
        BrokenStudyError: a file is missing, unreadable or incomplete, a comparison names no arm, or
            compared arms were run with different seeds; the message names the file.
    """
    path = Path(study_dir) / "study.json"
    with _naming(path):
        raw = json.loads(path.read_text(encoding="utf-8"))
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
            arms=tuple(_arm(path.parent, arm) for arm in raw["arms"]),
            comparisons=tuple((baseline, arm) for baseline, arm in raw["comparisons"]),
            tuning=tuple(_tuning(tuning) for tuning in raw["tuning"]),
            latency_ms={
                arm: {key: float(times[key]) for key in ("median", "low", "high")}
                for arm, times in raw["latency_ms"].items()
            },
            litert_bytes={arm: int(size) for arm, size in raw.get("litert_bytes", {}).items()},
            extra=_extra(raw, StudyResult, "study"),
        )
        seeds = {arm.name: [cell.seed for cell in arm.cells] for arm in study.arms}
        for baseline, arm in study.comparisons:
            if seeds[baseline] != seeds[arm]:
                raise ValueError(f"{baseline} has seeds {seeds[baseline]}, but {arm} has {seeds[arm]}")
    return study


def _arm(folder: Path, raw: Mapping[str, Any]) -> ArmResult:
    cells = [read_cell(folder / cell) for cell in raw["cells"]]
    strangers = [cell.arm for cell in cells if cell.arm != raw["name"]]
    if strangers or not cells:
        raise ValueError(f"arm {raw['name']} lists {len(cells)} cells, of which some are of {strangers}")
    return ArmResult(
        name=str(raw["name"]),
        label=str(raw["label"]),
        description=str(raw["description"]),
        group=str(raw["group"]),
        cells=tuple(sorted(cells, key=lambda cell: cell.seed)),
    )


def read_cell(folder: Path) -> CellResult:
    """Reads a finished cell; raises `BrokenStudyError` where a file is missing or broken."""
    log = folder / "metrics.jsonl"
    with _naming(log):
        history = tuple(dict(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines())
    result = folder / "result.json"
    with _naming(result):
        raw = json.loads(result.read_text(encoding="utf-8"))
        return CellResult(
            arm=raw["arm"],
            seed=int(raw["seed"]),
            selected_epoch=int(raw["selected_epoch"]),
            epochs=int(raw["epochs"]),
            seconds=float(raw["seconds"]),
            test={epoch: _scores(raw["test"][epoch]) for epoch in EPOCHS},
            dev={epoch: _scores(raw["dev"][epoch]) for epoch in EPOCHS},
            cost={
                **{key: raw["cost"][key] for key in ("parameters", "macs", "file_bytes")},
                **{key: raw["cost"].get(key) for key in ("nonzero", "gzip_bytes")},
            },
            history=history,
            extra=_extra(raw, CellResult, "study"),
        )


def _scores(raw: Mapping[str, Any]) -> dict[str, float | None]:
    scores = {measure.key: raw[measure.key] for measure in MEASURES}
    for key, score in scores.items():
        # Only agreement may be missing: the teacher has no one to agree with.
        if not (key == AGREEMENT.key and score is None) and not math.isfinite(score):
            raise ValueError(f"{key} is {score}")
    return scores


def _extra(raw: Mapping[str, Any], known: type[Any], *names: str) -> dict[str, Any]:
    """What a file holds besides the fields of the class that is made of it."""
    fields = {field.name for field in dataclasses.fields(known)}
    return {key: value for key, value in raw.items() if key not in fields.union(names)}


def _tuning(raw: Mapping[str, Any]) -> Tuning:
    return Tuning(
        arm=str(raw["arm"]),
        choices=tuple((dict(c["settings"]), float(c["dev_accuracy"])) for c in raw["choices"]),
        chosen=dict(raw["chosen"]),
    )


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while a file is read into an error that names the file."""
    try:
        yield
    except BrokenStudyError:
        raise
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BrokenStudyError(
            "A report needs every file of a finished study. "
            f"Received: {path}, which cannot be used ({type(error).__name__}: {error}). "
            "Run the study's command again: it redoes what is missing or broken."
        ) from error
