"""The arms of the comparison, the search for their settings on dev, and the run from cells to report."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, choose, conclude, require
from experiments.compare import report, shipping
from experiments.compare.cell import train
from experiments.compare.config import Compare, Training

TUNING_SEEDS = (1000, 1001, 1002)  # never those of the comparison
FULL, FEW, INTEGERS = "all labels", "few labels", "int8 files"

# What --tune tries on dev, as changes to the options: four trials for each tuned arm.
TRIALS: dict[str, list[dict[str, float]]] = {
    "smoothing": [{"smoothing": value} for value in (0.05, 0.1, 0.2, 0.3)],
    "distilled": [{"temperature": t, "student_loss_weight": w} for t in (2.0, 4.0) for w in (0.1, 0.5)],
    "few-hard": [{"low_smoothing": value} for value in (0.0, 0.05, 0.1, 0.2)],
    "few-soft": [{"low_temperature": value} for value in (1.0, 2.0, 4.0, 8.0)],
}

# Arms that are also exported to int8.
INT8 = ("teacher", "distilled", "channels")

# Baseline first; each pair answers one question. The primary ones answer the study's.
PRIMARY = [("alone", "distilled"), ("smoothing", "distilled")]
COMPARISONS = [
    *PRIMARY,
    ("distilled", "pruned"),
    ("distilled", "channels"),
    ("few-alone", "few-soft"),
    ("few-hard", "few-soft"),
]

TEACHERS = [
    Arm("teacher", group=FULL, label="teacher", description="The large network, trained on the labels."),
    Arm(
        "deep", group=FULL, label="deep", description="A network with residual blocks, trained on the labels."
    ),
]


def student_arms(options: Compare) -> list[Arm]:
    """The students to compare, with the settings that the options give them."""
    few = {"labels": options.labels}
    soft = {"temperature": options.temperature, "student_loss_weight": options.student_loss_weight}
    settings = f"T = {options.temperature:g}, label weight {options.student_loss_weight:g}"
    return [
        Arm("alone", group=FULL, label="alone", description="The student, trained on the labels."),
        Arm(
            "smoothing",
            group=FULL,
            label=f"label smoothing {options.smoothing:g}",
            description="The student, trained on smoothed labels, which need no teacher.",
            changes={"label_smoothing": options.smoothing},
        ),
        Arm(
            "distilled",
            group=FULL,
            label=f"distilled, {settings}",
            description="The student, trained on the labels and the teacher's soft targets.",
            changes=soft,
        ),
        Arm(
            "pruned",
            group=FULL,
            label=f"teacher with {100 * options.sparsity:g}% zeros, {settings}",
            description="A copy of the teacher: most of its weights are pruned while it learns from the teacher.",
            changes={**soft, "network": options.teacher, "sparsity": options.sparsity},
        ),
        Arm(
            "channels",
            group=FULL,
            label=f"teacher with channels for {100 * options.channels:g}% of its MACs, {settings}",
            description="The teacher without most of its channels; what remains learns from the teacher.",
            changes={**soft, "network": options.teacher, "macs": options.channels},
        ),
        Arm(
            "layers",
            group=FULL,
            label=f"deep without {options.layers} blocks or layers, {settings}",
            description="The deep network without the residual blocks, or convolutions in them, that it needs least; "
            "what remains learns from the deep network.",
            changes={**soft, "network": options.deep, "layers": options.layers},
        ),
        Arm(
            "few-alone",
            group=FEW,
            label=f"alone, {options.labels} labels",
            description="The student, trained on the few labels for as many steps as the other arms.",
            changes=few,
        ),
        Arm(
            "few-hard",
            group=FEW,
            label=f"hard pseudo-labels, smoothing {options.low_smoothing:g}",
            description="The student, trained on the few labels and, for all other images, on the class that the "
            "teacher predicts.",
            changes={**few, "pseudo_labels": True, "label_smoothing": options.low_smoothing},
        ),
        Arm(
            "few-soft",
            group=FEW,
            label=f"distilled without labels, T = {options.low_temperature:g}",
            description="The student, trained on the teacher's soft targets for all images, without any label.",
            changes={**few, "temperature": options.low_temperature, "student_loss_weight": 0.0},
        ),
    ]


def int8_arm(arm: Arm) -> Arm:
    """The arm of another arm's int8 files."""
    description = (
        "The finished network as an int8 file, with ranges measured on training images; nothing is trained."
    )
    return Arm(f"{arm.name}-int8", group=INTEGERS, label=f"{arm.label}, int8", description=description)


def teacher_cell(options: Compare, seed: int) -> Cell:
    """The teacher of all students with the same seed."""
    config = Training(
        dataset=options.dataset,
        network=options.teacher,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return Cell(study="compare", arm="teacher", seed=seed, config=config)


def deep_cell(options: Compare, seed: int) -> Cell:
    """The deep network of one seed."""
    config = dataclasses.replace(teacher_cell(options, seed).config, network=options.deep)
    return Cell(study="compare", arm="deep", seed=seed, config=config)


def student_cell(options: Compare, arm: Arm, seed: int) -> Cell:
    """One student of an arm."""
    teacher = (deep_cell if arm.name == "layers" else teacher_cell)(options, seed)
    changes = {"network": options.student, "teacher": teacher.name, **arm.changes}
    config = dataclasses.replace(teacher.config, **changes)
    return Cell(study="compare", arm=arm.name, seed=seed, config=config)


def int8_cell(source: Cell) -> Cell:
    """The int8 file of a finished cell's network."""
    config = dataclasses.replace(source.config, int8_of=source.name)
    return Cell(study="compare", arm=f"{source.arm}-int8", seed=source.seed, config=config)


def check(options: Compare) -> None:
    """Raises ValueError for options that cannot work."""
    require(
        (options.seeds >= 1, "--seeds must be at least 1", f"--seeds {options.seeds}"),
        (
            options.epochs >= 2,
            "--epochs must be at least 2, one to prune and one afterwards",
            f"--epochs {options.epochs}",
        ),
        (
            0 < options.sparsity < 1,
            "--sparsity must lie between 0 and 1, as a share of zeros",
            f"--sparsity {options.sparsity:g}",
        ),
        (
            0 < options.channels < 1,
            "--channels must lie between 0 and 1, as the share of the multiply-adds that remain",
            f"--channels {options.channels:g}",
        ),
        (
            1 <= options.layers <= options.deep.blocks,
            f"--layers must lie between 1 and {options.deep.blocks}, the number of the deep network's residual blocks",
            f"--layers {options.layers}",
        ),
        (
            options.labels >= 10,
            "--labels must be at least 10, one for each class",
            f"--labels {options.labels}",
        ),
    )


def run(options: Compare, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet, and writes study.json and the report; returns what to print."""
    tuning: list[dict[str, Any]] = []
    if options.tune:
        options, tuning = _tune(options, runner)
    seeds = range(options.seeds)
    students = student_arms(options)
    work = functools.partial(train, surroundings=options.surroundings)
    deep = [deep_cell(options, seed) for seed in seeds]
    runner.run(deep, work, label="deep networks")
    cells = [student_cell(options, arm, seed) for seed in seeds for arm in students]
    teachers = _train(options, cells, seeds, runner)
    exported = [int8_cell(cell) for cell in (*teachers, *cells) if cell.arm in INT8]
    runner.run(exported, work, label="int8 files")
    cells_of: dict[str, list[Cell]] = {}
    for cell in (*teachers, *deep, *cells, *exported):
        cells_of.setdefault(cell.arm, []).append(cell)
    runner.console.print("timing one example on one thread, all files in turns")
    files = {arm: runner.study_dir / own[0].folder / _file(arm) for arm, own in cells_of.items()}
    shipped = runner.pool.submit(shipping.ship, files, runner.study_dir / "litert", sparse=("pruned",))
    latency_ms, litert_bytes = shipped.result()
    small = [int8_arm(arm) for arm in (*TEACHERS, *students) if arm.name in INT8]
    conclude(
        runner.study_dir,
        [(arm, cells_of[arm.name]) for arm in (*TEACHERS, *students, *small)],
        study="compare",
        title="A student alone and a student distilled",
        question="Does a small network learn more from a teacher than from the labels alone?",
        command=typed,
        smoke=options.smoke,
        notes=_notes(options, tuned=bool(tuning)),
        comparisons=COMPARISONS,
        primary=PRIMARY,
        tuning=tuning,
        latency_ms=latency_ms,
        litert_bytes=litert_bytes,
    )
    return report.write(runner.study_dir)


def _train(options: Compare, students: Sequence[Cell], seeds: Iterable[int], runner: Runner) -> list[Cell]:
    """Trains the teachers of the seeds, then the students; returns the teachers."""
    teachers = [teacher_cell(options, seed) for seed in seeds]
    for label, cells in (("teachers", teachers), ("students", students)):
        runner.run(cells, functools.partial(train, surroundings=options.surroundings), label=label)
    return teachers


def _tune(options: Compare, runner: Runner) -> tuple[Compare, list[dict[str, Any]]]:
    """Tries settings of each tuned arm on dev; returns the options with the best, and everything that was tried."""
    count = sum(map(len, TRIALS.values()))
    runner.console.print(f"choosing on dev: {count} trials with {len(TUNING_SEEDS)} seeds each")
    tried: dict[str, list[tuple[dict[str, float], list[Cell]]]] = {}
    for name, trials in TRIALS.items():
        for settings in trials:
            changed = dataclasses.replace(options, **settings)
            arm = next(arm for arm in student_arms(changed) if arm.name == name)
            cells = [student_cell(changed, arm, seed) for seed in TUNING_SEEDS]
            tried.setdefault(name, []).append((settings, cells))
    students = [cell for trials in tried.values() for _, cells in trials for cell in cells]
    _train(options, students, TUNING_SEEDS, runner)
    tuning = choose(tried, runner.study_dir)
    for choice in tuning:
        options = dataclasses.replace(options, **choice["chosen"])
    return options, tuning


def _file(arm: str) -> str:
    """Name of the file in which a cell of an arm leaves its network."""
    if arm.endswith("-int8"):
        return "int8.tflite"
    return "teacher.keras" if arm in ("teacher", "deep") else "student.keras"


def _notes(options: Compare, *, tuned: bool) -> list[str]:
    chosen = (
        "Temperatures, label weight and smoothings were chosen on dev, each from four trials with seeds "
        f"{', '.join(map(str, TUNING_SEEDS))}."
        if tuned
        else "Temperatures, label weight and smoothings are options; their defaults were chosen on dev with --tune."
    )
    return [
        f"All arms train for {options.epochs} epochs with batches of {options.batch_size}. Adam's learning rate falls "
        f"from {options.learning_rate:g} to 0 along a cosine. Arms with the same seed have the same initial weights, "
        "data order and teacher.",
        "The arms pruned, channels and layers start from their trained teacher, which for layers is the deep network, "
        "so their weights are trained for twice as many steps as those of other arms. The sparsity of pruned, and that "
        "its weights compete over all layers, were chosen by hand on dev (seeds 0 and 1). The deep network was also "
        "tried as the teacher of all students, on dev: they were 0.9 points worse than with the shallower teacher.",
        chosen,
        "int8 files are made from the network of the last epoch, which both accuracy columns show. Their ranges "
        "were measured on 300 training images; nothing was trained. The agreement of teacher-int8 is with the "
        "float32 teacher. All other files are float32; zeros are left out of the file of pruned.",
        f"With few labels, the student sees {options.labels} of them, drawn by seed, equally many of each class. Its "
        "teacher learned from the labels of all training images.",
    ]
