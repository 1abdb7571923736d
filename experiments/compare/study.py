"""The arms of the comparison, what is chosen for them on dev, and the run from cells to study.json."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, choose, conclude
from experiments.compare import report, shipping
from experiments.compare.cell import train
from experiments.compare.config import Compare, Training

TUNING_SEEDS = (1000, 1001, 1002)  # never those of the comparison
FULL, FEW, INTEGERS = "all labels", "few labels", "int8 files"


# What --tune tries on dev: changes to the options above, four for every arm that has something to choose.
TRIALS: dict[str, list[dict[str, float]]] = {
    "smoothing": [{"smoothing": value} for value in (0.05, 0.1, 0.2, 0.3)],
    "distilled": [{"temperature": t, "student_loss_weight": w} for t in (2.0, 4.0) for w in (0.1, 0.5)],
    "few-hard": [{"low_smoothing": value} for value in (0.0, 0.05, 0.1, 0.2)],
    "few-soft": [{"low_temperature": value} for value in (1.0, 2.0, 4.0, 8.0)],
}

# Arms that are written in int8 once they are trained.
INT8 = ("teacher", "distilled", "channels")

# Baseline first; each asks one question.
COMPARISONS = [
    ("alone", "distilled"),
    ("smoothing", "distilled"),
    ("distilled", "pruned"),
    ("distilled", "channels"),
    ("few-alone", "few-soft"),
    ("few-hard", "few-soft"),
]


def student_arms(study: Compare) -> list[Arm]:
    """The students that a study compares, with the settings that its options give them."""
    few = {"labels": study.labels}
    soft = {"temperature": study.temperature, "student_loss_weight": study.student_loss_weight}
    learns = f"T = {study.temperature:g}, label weight {study.student_loss_weight:g}"
    return [
        Arm("alone", FULL, "alone", "The student on the labels.", {}),
        Arm(
            "smoothing",
            FULL,
            f"label smoothing {study.smoothing:g}",
            "The student on smoothed labels, which need no teacher.",
            {"label_smoothing": study.smoothing},
        ),
        Arm(
            "distilled",
            FULL,
            f"distilled, {learns}",
            "The student on the labels and the teacher's soft targets.",
            soft,
        ),
        Arm(
            "pruned",
            FULL,
            f"teacher with {100 * study.sparsity:g} % zeros, {learns}",
            "The teacher itself, most of whose weights are pruned while it learns from what it was.",
            {**soft, "network": study.teacher, "sparsity": study.sparsity},
        ),
        Arm(
            "channels",
            FULL,
            f"teacher with channels for {100 * study.channels:g} % of its MACs, {learns}",
            "The teacher itself without most of its channels; what is left learns from what it was.",
            {**soft, "network": study.teacher, "macs": study.channels},
        ),
        Arm(
            "layers",
            FULL,
            f"deep without {study.layers} blocks or layers, {learns}",
            "The deep network without the residual blocks, or convolutions in them, that it misses least; what is left "
            "learns from what it was.",
            {**soft, "network": study.deep, "layers": study.layers},
        ),
        Arm(
            "few-alone",
            FEW,
            f"alone, {study.labels} labels",
            "The student on the few labels, for as many steps as the others.",
            few,
        ),
        Arm(
            "few-hard",
            FEW,
            f"hard pseudo-labels, smoothing {study.low_smoothing:g}",
            "The few labels, and the teacher's most likely class for all other images.",
            {**few, "pseudo_labels": True, "label_smoothing": study.low_smoothing},
        ),
        Arm(
            "few-soft",
            FEW,
            f"distilled without labels, T = {study.low_temperature:g}",
            "The teacher's soft targets for all images, and no label at all.",
            {**few, "temperature": study.low_temperature, "student_loss_weight": 0.0},
        ),
    ]


def teacher_cell(study: Compare, seed: int) -> Cell:
    """The teacher of one seed; every student of that seed has it."""
    config = Training(
        dataset=study.dataset,
        network=study.teacher,
        epochs=study.epochs,
        batch_size=study.batch_size,
        learning_rate=study.learning_rate,
    )
    return Cell("compare", "teacher", seed, config)


def deep_cell(study: Compare, seed: int) -> Cell:
    """The deep network of one seed."""
    config = dataclasses.replace(teacher_cell(study, seed).config, network=study.deep)
    return Cell("compare", "deep", seed, config)


def student_cell(study: Compare, arm: Arm, seed: int) -> Cell:
    """One student of an arm."""
    teacher = (deep_cell if arm.name == "layers" else teacher_cell)(study, seed)
    changes = {"network": study.student, "teacher": teacher.name, **arm.changes}
    config = dataclasses.replace(teacher.config, **changes)
    return Cell("compare", arm.name, seed, config)


def int8_cell(source: Cell) -> Cell:
    """A finished cell's network as an int8 file."""
    config = dataclasses.replace(source.config, int8_of=source.name)
    return Cell("compare", f"{source.arm}-int8", source.seed, config)


def check(study: Compare) -> None:
    """Raises ValueError for options that cannot work."""
    if study.seeds < 1:
        raise ValueError(f"A study needs a seed or more. Received: --seeds {study.seeds}.")
    if study.epochs < 2:
        raise ValueError(
            f"A study needs two epochs or more: one to prune, one after it. Received: --epochs {study.epochs}."
        )
    if not 0 < study.sparsity < 1:
        raise ValueError(f"Of the pruned teacher a part is zero. Received: --sparsity {study.sparsity:g}.")
    if not 0 < study.channels < 1:
        raise ValueError(
            f"Of the teacher's multiply-adds a part is left. Received: --channels {study.channels:g}."
        )
    if not 1 <= study.layers <= study.deep.blocks:
        raise ValueError(
            "As many blocks or layers are left out as the deep network has residual blocks, or fewer. Received: "
            f"--layers {study.layers} of {study.deep.blocks}."
        )
    if study.labels < 10:
        raise ValueError(
            f"The few labels are ten or more, one of each class. Received: --labels {study.labels}."
        )


def run(study: Compare, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet and writes study.json and the report; returns what to print."""
    tuning: list[dict[str, Any]] = []
    if study.tune:
        study, tuning = _tune(study, runner)
    seeds = range(study.seeds)
    students = student_arms(study)
    cells = [student_cell(study, arm, seed) for seed in seeds for arm in students]
    deep = [deep_cell(study, seed) for seed in seeds]
    runner.run(deep, functools.partial(train, study.surroundings), "deep networks")
    teachers = _train(study, cells, seeds, runner)
    small = [int8_cell(source) for source in (*teachers, *cells) if source.arm in INT8]
    runner.run(small, functools.partial(train, study.surroundings), "int8 files")
    teacher = Arm("teacher", FULL, "teacher", "The large network, on the labels.", {})
    larger = Arm("deep", FULL, "deep", "A network with residual blocks, on the labels.", {})
    cells_of: dict[str, list[Cell]] = {}
    for one in (*teachers, *deep, *cells, *small):
        cells_of.setdefault(one.arm, []).append(one)
    shipped = [_int8_arm(arm) for arm in (teacher, *students) if arm.name in INT8]
    runner.console.print("timing one example on one thread, all files in turn")
    files = {name: runner.study_dir / own[0].folder / _file(name) for name, own in cells_of.items()}
    latency_ms, litert_bytes = runner.pool.submit(
        shipping.ship, files, runner.study_dir / "litert", sparse=("pruned",)
    ).result()
    conclude(
        runner.study_dir,
        [(arm, cells_of[arm.name]) for arm in (teacher, larger, *students, *shipped)],
        study="compare",
        title="A student alone and a student distilled",
        question="Does a small network learn more from a teacher than from the labels alone?",
        command=typed,
        smoke=study.smoke,
        notes=_notes(study, bool(tuning)),
        comparisons=COMPARISONS,
        tuning=tuning,
        latency_ms=latency_ms,
        litert_bytes=litert_bytes,
    )
    return report.write(runner.study_dir)


def _train(study: Compare, students: Sequence[Cell], seeds: Iterable[int], runner: Runner) -> list[Cell]:
    """Trains the teachers of the seeds, which it returns, then the students."""
    teachers = [teacher_cell(study, seed) for seed in seeds]
    for label, cells in (("teachers", teachers), ("students", students)):
        runner.run(cells, functools.partial(train, study.surroundings), label)
    return teachers


def _tune(study: Compare, runner: Runner) -> tuple[Compare, list[dict[str, Any]]]:
    """Tries every arm's options on dev; returns the study with the best, and what was tried."""
    runner.console.print(
        f"choosing on dev: {sum(map(len, TRIALS.values()))} trials of {len(TUNING_SEEDS)} seeds"
    )
    tried: dict[str, list[tuple[dict[str, float], list[Cell]]]] = {}
    for name, trials in TRIALS.items():
        for options in trials:
            changed = dataclasses.replace(study, **options)
            arm = next(arm for arm in student_arms(changed) if arm.name == name)
            cells = [student_cell(changed, arm, seed) for seed in TUNING_SEEDS]
            tried.setdefault(name, []).append((options, cells))
    students = [one for own in tried.values() for _, cells in own for one in cells]
    _train(study, students, TUNING_SEEDS, runner)
    tuning = choose(tried, runner.study_dir)
    for choice in tuning:
        study = dataclasses.replace(study, **choice["chosen"])
    return study, tuning


def _int8_arm(arm: Arm) -> Arm:
    description = (
        "The file of a finished network in int8, ranges measured on training images; nothing is trained."
    )
    return Arm(f"{arm.name}-int8", INTEGERS, f"{arm.label}, in int8", description)


def _file(arm: str) -> str:
    """What a cell of an arm leaves of its network."""
    if arm.endswith("-int8"):
        return "int8.tflite"
    return "teacher.keras" if arm in ("teacher", "deep") else "student.keras"


def _notes(study: Compare, tuned: bool) -> list[str]:
    chosen = (
        f"Temperatures, label weight and smoothings were chosen on dev, each from four trials of seeds "
        f"{', '.join(map(str, TUNING_SEEDS))}."
        if tuned
        else "Temperatures, label weight and smoothings are options; their defaults were chosen on dev by --tune."
    )
    return [
        f"All arms: {study.epochs} epochs' worth of steps of {study.batch_size} examples, Adam from "
        f"{study.learning_rate:g} to 0 along a cosine. Within a seed: the same starting weights, data order, teacher.",
        "pruned, channels and layers start from their trained teacher, of layers deep, so their weights have had twice "
        "the steps of the others. How many weights of pruned are zero, and that they compete over all layers, was "
        "chosen by hand on dev (seeds 0 and 1). The deep network as everybody's teacher was tried and left: on dev its "
        "students were .9 points worse than those of the shallower one.",
        chosen,
        "int8 files: ranges were measured on 300 training images, nothing was trained; of the last epoch's network, "
        "in both columns of accuracy. teacher-int8 agrees with the teacher. Of the other files, which are of float32, "
        "pruned's leaves zeros out.",
        f"With few labels, the student sees {study.labels}, drawn by seed, the same number of each class. Its teacher "
        "has learned from the labels of all training images.",
    ]
