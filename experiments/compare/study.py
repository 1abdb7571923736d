"""Does a small student learn more from a teacher than from the labels alone?

A small CNN learns 3,000 digits (mnist5k): alone, alone with label smoothing, and distilled from a larger CNN. Its
rivals in size are the larger CNN itself with 95 % of its weights pruned, or without most of its channels; and a deeper
CNN loses layers. Of three of these there are int8 files. Then it may see 120 labels only: alone, with the
teacher's answers as hard labels for the rest, and distilled from the teacher without labels. Every arm has the same
seeds, data order, number of steps and optimizer, and but for the pruned ones the same starting weights; what was to
choose was chosen on dev, and the test split is read once.

Command: scripts/compare. 8 seeds, 112 cells: 24 minutes on two cores that had a test suite to run as well.
Choices: scripts/compare --tune repeats the search on dev that set the defaults below; each tuned arm has
    four trials on seeds of its own. As long again.
Expected: distilled above alone by about .5 points, level with tuned label smoothing but far better calibrated; the
    pruned teacher above distilled by .7, at as many bytes and three times the time; without channels, level with it;
    the table is in README.md.
"""

import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import RenderableType

from experiments import report, results, tables
from experiments.runner import Cell, Runner
from experiments.settings import Network, Surroundings, Training
from experiments.study import Arm, choose, command, conclude

TUNING_SEEDS = (1000, 1001, 1002)  # never those of the comparison
FULL, FEW, INTEGERS = "all labels", "few labels", "int8 files"


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compares students that learned alone with students that were distilled.

    Attributes:
        out: the run directories, the report and the lock go to OUT/compare (OUT/compare-smoke with --smoke).
        smoke: change the defaults so that everything takes seconds, to see that it runs.
        tune: first search temperatures, weights and smoothings on dev, and use what was best there.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on. With fewer than 6 no paired test can reach p < .05.
        dataset: mnist5k, digits, or another image set of tfds that lies on this machine.
        epochs: passes over the training split, the same for every arm.
        batch_size: examples a step.
        learning_rate: of Adam at the start, the same for every arm; it falls to 0 along a cosine.
        temperature: of the soft targets; chosen on dev.
        student_loss_weight: weight of the labels beside the soft targets; chosen on dev.
        smoothing: label smoothing of the rival without a teacher; chosen on dev.
        sparsity: share of zeros in the kernels of the pruned teacher; chosen by hand on dev.
        channels: share of its multiply-adds that the teacher keeps when channels are taken out of it; by default those
            of the student.
        layers: how many residual blocks, or convolutions in them, are left out of the deep network.
        labels: how many training labels the low-label arms may see.
        low_temperature: of the soft targets that replace labels; chosen on dev.
        low_smoothing: label smoothing of the hard pseudo-labels; chosen on dev.
        teacher: the large network.
        deep: the network that layers are taken out of; the teacher has none that could be left out.
        student: the small network.
        surroundings: where data lie, and where numbers go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    tune: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 8
    dataset: str = "mnist5k"
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 6e-3
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    smoothing: float = 0.2
    sparsity: float = 0.95
    channels: float = 0.0816
    layers: int = 2
    labels: int = 120
    low_temperature: float = 4.0
    low_smoothing: float = 0.2
    teacher: Network = Network(filters=(16, 32), units=64, dropout=0.4)
    deep: Network = Network(filters=(16, 32), units=64, dropout=0.4, blocks=2)
    student: Network = Network(filters=(4, 8), units=16)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Compare(smoke=True, seeds=2, dataset="digits", epochs=2, labels=40, channels=0.1)


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


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the tables."""
    return command(
        "compare",
        arguments,
        default=Compare(),
        smoke=SMOKE,
        prog="scripts/compare",
        description=__doc__,
        check=_check,
        work=functools.partial(_study, shlex.join(["scripts/compare", *arguments])),
    )


def _study(typed: str, study: Compare, runner: Runner) -> tuple[RenderableType, RenderableType]:
    tuning: list[dict[str, Any]] = []
    if study.tune:
        study, tuning = _tune(study, runner)
    _finish(study, runner, typed, tuning)
    finished = results.read(runner.study_dir)
    page = report.write(runner.study_dir)
    return tables.table(finished), f"The report: {page}"


def _check(study: Compare) -> None:
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


def _train(
    study: Compare, students: Sequence[Cell], seeds: Iterable[int], runner: Runner
) -> tuple[list[Path], list[Path]]:
    """Trains the teachers of the seeds, then the students; returns the directories of both."""
    work = functools.partial(_work, study.surroundings)
    folders = []
    for label, cells in (("teachers", [teacher_cell(study, seed) for seed in seeds]), ("students", students)):
        folders.append(runner.run(cells, work, label))
    return folders[0], folders[1]


def _work(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    from experiments import training  # TensorFlow is for the processes that train: --help answers at once

    return training.run(surroundings, cell, directory)


def _tune(study: Compare, runner: Runner) -> tuple[Compare, list[dict[str, Any]]]:
    """Tries every arm's options on dev; returns the study with the best, and what was tried."""
    runner.console.print(
        f"choosing on dev: {sum(map(len, TRIALS.values()))} trials of {len(TUNING_SEEDS)} seeds"
    )
    cells = {}
    for name, trials in TRIALS.items():
        for number, options in enumerate(trials):
            tried = dataclasses.replace(study, **options)
            arm = next(arm for arm in student_arms(tried) if arm.name == name)
            for seed in TUNING_SEEDS:
                cells[name, number, seed] = student_cell(tried, arm, seed)
    _, folders = _train(study, list(cells.values()), TUNING_SEEDS, runner)
    folder_of = dict(zip(cells, folders, strict=True))
    tuning = choose(
        {
            name: [
                (options, [folder_of[name, number, seed] for seed in TUNING_SEEDS])
                for number, options in enumerate(trials)
            ]
            for name, trials in TRIALS.items()
        },
        runner.study_dir,
    )
    for choice in tuning:
        study = dataclasses.replace(study, **choice["chosen"])
    return study, tuning


def _finish(study: Compare, runner: Runner, typed: str, tuning: list[dict[str, Any]]) -> None:
    """Trains all cells of the comparison, times one network of each arm, and writes study.json."""
    seeds = range(study.seeds)
    students = student_arms(study)
    cells = [student_cell(study, arm, seed) for seed in seeds for arm in students]
    work = functools.partial(_work, study.surroundings)
    deep = runner.run([deep_cell(study, seed) for seed in seeds], work, "deep networks")
    teachers, folders = _train(study, cells, seeds, runner)
    sources = [cell for cell in (*(teacher_cell(study, seed) for seed in seeds), *cells) if cell.arm in INT8]
    small = [int8_cell(cell) for cell in sources]
    written = runner.run(small, work, "int8 files")
    teacher = Arm("teacher", FULL, "teacher", "The large network, on the labels.", {})
    larger = Arm("deep", FULL, "deep", "A network with residual blocks, on the labels.", {})
    cells_of = {"teacher": teachers, "deep": deep}
    for cell, folder in zip((*cells, *small), (*folders, *written), strict=True):
        cells_of.setdefault(cell.arm, []).append(folder)
    shipped = [_int8_arm(arm) for arm in (teacher, *students) if arm.name in INT8]
    runner.console.print("timing one example on one thread, all files in turn")
    files = {name: runner.study_dir / folders[0] / _file(name) for name, folders in cells_of.items()}
    latency_ms, litert_bytes = runner.pool.submit(_ship, files, runner.study_dir / "litert").result()
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


def _ship(files: dict[str, Path], folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    from experiments import shipping  # as in `_work`

    return shipping.ship(files, folder, sparse=("pruned",))


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
