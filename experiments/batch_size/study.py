"""What does the batch size do: to speed, memory, gradient noise, number of updates, and to what is learned?

The student of `scripts/compare` learns 3,000 digits (mnist5k) with 8 to 1,024 examples a step, alone and distilled,
at one learning rate for all sizes and at one that grows with the size. All train for the same number of epochs, so
small batches make many more updates: 11,250 at size 8, 90 at 1,024. No choice was made for a size of its own; the
learning rate is the one that `scripts/compare` uses at 64.

For Adam the rate grows with the square root of the size [1]: it divides the mean gradient by the root of the mean
square, most of which is noise, and noise falls with the root of the size. --scaling linear is the rule for SGD.

Command: scripts/study batch_size. 9 seeds, 279 cells: 67 minutes on two cores that had as much other work; the timing
    at the end, 1 minute, on a quiet machine. Nine seeds, since with five no paired difference can reach p < .05, and
    with fewer than nine none of eight adjusted ones.
Found: speed grows to the end, 12 times from 8 to 1,024 alone and 8 times distilled, most of it up to 128. At a
    constant rate accuracy falls from 96.4 to 91.7 % alone and from 97.0 to 89.7 % distilled, since there are ever fewer
    updates; with the square root of the size it falls to 94.7 and 94.1 %. Dev accuracy of 94 % is there soonest at 64
    to 256. Distilling helps at 8 to 64 and harms at 1,024, where it has too few updates.

[1] Malladi, Lyu, Panigrahi, Arora 2022, arXiv:2205.10287.
"""

import contextlib
import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import RenderableType

from experiments import batch_report, tables
from experiments.runner import Cell, Runner, workers
from experiments.settings import Network, Surroundings, Training
from experiments.study import Arm, command, conclude

KINDS, RULES = ("alone", "distilled"), ("constant", "scaled")


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """Trains a student with many batch sizes, alone and distilled.

    Attributes:
        out: the run directories, the report and the lock go to OUT/batch_size (OUT/batch_size-smoke with --smoke).
        smoke: change the defaults so that everything takes seconds, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on. With fewer than 9 not all differences can be shown.
        dataset: mnist5k, digits, or another image set of tfds that lies on this machine.
        sizes: examples a step, ascending.
        reference: the size that the others are compared with, and from which the learning rate is scaled.
        epochs: passes over the training split, the same for every size.
        learning_rate: of Adam at the start, at the reference size; it falls to 0 along a cosine.
        scaling: how the scaled rate follows the size: with its square root, or with the size itself.
        target: accuracy on dev that is waited for; another one is looked up in the cells that are there.
        temperature: of the soft targets.
        student_loss_weight: weight of the labels beside the soft targets.
        rounds: timed runs of each size, of 8 steps.
        teacher: the large network; it trains at the reference size.
        student: the small network.
        surroundings: where data lie, and where numbers go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 9
    dataset: str = "mnist5k"
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    reference: int = 64
    epochs: int = 30
    learning_rate: float = 6e-3
    scaling: Literal["sqrt", "linear"] = "sqrt"
    target: float = 0.94
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    rounds: int = 20
    teacher: Network = Network(filters=(16, 32), units=64, dropout=0.4)
    student: Network = Network(filters=(4, 8), units=16)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = BatchSize(smoke=True, seeds=1, dataset="digits", sizes=(16, 64), epochs=2, target=0.3, rounds=2)


def learning_rate(study: BatchSize, size: int, rule: str) -> float:
    """Adam's rate at the start for one batch size.

    Args:
        study: the options.
        size: examples a step.
        rule: "constant" or "scaled".

    Returns:
        The reference rate, times (size / reference)^½ or size / reference where the rule is "scaled".
    """
    power = {"constant": 0.0, "scaled": {"sqrt": 0.5, "linear": 1.0}[study.scaling]}[rule]
    return study.learning_rate * (size / study.reference) ** power


def arm(study: BatchSize, kind: str, rule: str, size: int) -> Arm:
    """The cells of one batch size; at the reference size both rules are one arm."""
    rate = learning_rate(study, size, rule)
    distilled = {"temperature": study.temperature, "student_loss_weight": study.student_loss_weight}
    return Arm(
        f"{kind}-{size}" if size == study.reference else f"{kind}-{size}-{rule}",
        kind,
        f"{kind}, batches of {size}, learning rate {rate:.2g}",
        f"The student {kind}, {size} examples a step.",
        {"batch_size": size, "learning_rate": rate, **(distilled if kind == "distilled" else {})},
    )


def arms(study: BatchSize) -> list[Arm]:
    """All arms, each once."""
    made = [arm(study, kind, rule, size) for kind in KINDS for size in study.sizes for rule in RULES]
    return list({arm.name: arm for arm in made}.values())


def teacher_cell(study: BatchSize, seed: int) -> Cell:
    """The teacher of one seed; every student of that seed has it."""
    config = Training(
        dataset=study.dataset,
        network=study.teacher,
        epochs=study.epochs,
        batch_size=study.reference,
        learning_rate=study.learning_rate,
    )
    return Cell("batch_size", "teacher", seed, config)


def student_cell(study: BatchSize, arm: Arm, seed: int) -> Cell:
    """One student of an arm."""
    teacher = teacher_cell(study, seed)
    config = dataclasses.replace(teacher.config, network=study.student, teacher=teacher.name, **arm.changes)
    return Cell("batch_size", arm.name, seed, config)


def questions(study: BatchSize) -> dict[str, list[tuple[str, str]]]:
    """Baseline and arm of every comparison, by the question that they answer together."""
    asked = {}
    for kind in KINDS:
        for rule in RULES:
            baseline = arm(study, kind, rule, study.reference).name
            asked[f"{kind}, {rule} rate: against batches of {study.reference}"] = [
                (baseline, arm(study, kind, rule, size).name)
                for size in study.sizes
                if size != study.reference
            ]
    for rule in RULES:
        asked[f"{rule} rate: distilled against alone"] = [
            (arm(study, "alone", rule, size).name, arm(study, "distilled", rule, size).name)
            for size in study.sizes
        ]
    return asked


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table."""
    return command(
        "batch_size",
        arguments,
        default=BatchSize(),
        smoke=SMOKE,
        prog="scripts/study batch_size",
        description=__doc__,
        check=_check,
        work=functools.partial(_study, shlex.join(["scripts/study", "batch_size", *arguments])),
    )


def _check(study: BatchSize) -> None:
    sizes = study.sizes
    rules = [
        (study.seeds >= 1, "A study needs a seed or more", f"--seeds {study.seeds}"),
        (study.jobs >= 1, "Cells are run by one process or more", f"--jobs {study.jobs}"),
        (study.epochs >= 1, "A study needs an epoch or more", f"--epochs {study.epochs}"),
        (study.rounds >= 1, "A speed needs a timed round or more", f"--rounds {study.rounds}"),
        (
            len(sizes) > 1 and min(sizes) >= 1 and list(sizes) == sorted(set(sizes)),
            "Batch sizes are two or more integers >= 1, ascending",
            f"--sizes {' '.join(map(str, sizes))}",
        ),
        (study.reference in sizes, "The reference is one of the sizes", f"--reference {study.reference}"),
        (0 < study.target <= 1, "The target is an accuracy above 0, at most 1", f"--target {study.target:g}"),
        (study.learning_rate > 0, "A learning rate is above 0", f"--learning-rate {study.learning_rate:g}"),
        (study.temperature > 0, "A temperature is above 0", f"--temperature {study.temperature:g}"),
        (
            0 < study.student_loss_weight <= 1,
            "The labels' weight is above 0, at most 1",
            f"--student-loss-weight {study.student_loss_weight:g}",
        ),
    ]
    for kept, rule, received in rules:
        if not kept:
            raise ValueError(f"{rule}. Received: {received}.")


def _study(typed: str, study: BatchSize, runner: Runner) -> Sequence[RenderableType]:
    seeds, students = range(study.seeds), arms(study)
    work = functools.partial(_work, study.surroundings)
    batches = {
        "teachers": [teacher_cell(study, seed) for seed in seeds],
        "students": [student_cell(study, arm, seed) for seed in seeds for arm in students],
    }
    folders: dict[str, list[Path]] = {}
    for label, cells in batches.items():
        done = runner.run(cells, work, label)
        for cell, folder in zip(cells, done, strict=True):
            folders.setdefault(cell.arm, []).append(folder)
    asked = questions(study)
    teacher = Arm("teacher", "teacher", "teacher", "The large network, on the labels.")
    conclude(
        runner.study_dir,
        [(arm, folders[arm.name]) for arm in (teacher, *students)],
        study="batch_size",
        title="What the batch size does",
        question="How fast does a student train, how soon does it learn and how well, by the size of its batches?",
        command=typed,
        smoke=study.smoke,
        notes=_notes(study),
        comparisons=list(dict.fromkeys(pair for pairs in asked.values() for pair in pairs)),
        tuning=[],
        latency_ms={},
        # What follows is read by `experiments.batch_report` alone.
        questions=asked,
        target=study.target,
        lines=[
            {"kind": kind, "rule": rule, "size": size, "arm": arm(study, kind, rule, size).name}
            for kind in KINDS
            for rule in RULES
            for size in study.sizes
        ],
        speeds=_speeds(study, runner),
    )
    page, shown = batch_report.write(runner.study_dir)
    return [*([tables.SMOKE] if study.smoke else []), *shown, f"The report: {page}"]


def _speeds(study: BatchSize, runner: Runner) -> dict[str, list[dict[str, Any]]]:
    """Times training alone, then distilled, each in a process of its own: memory that one frees stays with it."""
    runner.console.print("timing training steps, all batch sizes in turn")
    timed = {}
    with contextlib.ExitStack() as pools:
        for kind in KINDS:
            cell = student_cell(study, arm(study, kind, "constant", study.reference), 0)
            pool = pools.enter_context(workers(1, runner.study_dir))
            timed[kind] = pool.submit(
                _timed, study.surroundings, cell, runner.study_dir, study.sizes, study.rounds
            )
            if not study.smoke:  # whose numbers mean nothing: there both may run at once
                timed[kind].result()
        return {kind: future.result() for kind, future in timed.items()}


def _work(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    # TensorFlow is for the processes that train: --help answers at once.
    from experiments import batch_training

    return batch_training.run(surroundings, cell, directory)


def _timed(
    surroundings: Surroundings, cell: Cell, study_dir: Path, sizes: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    from experiments import batch_training  # as in `_work`

    return batch_training.speeds(surroundings, cell, study_dir, sizes, rounds)


def _notes(study: BatchSize) -> list[str]:
    rates = ", ".join(f"{learning_rate(study, size, 'scaled'):.2g} at {size}" for size in study.sizes)
    return [
        f"All sizes train for {study.epochs} epochs, so their numbers of updates differ. Nothing was chosen for a size "
        f"of its own: Adam starts from {study.learning_rate:g} at every size (constant), or from a rate that follows "
        f"it ({study.scaling} rule: {rates}), and falls to 0 along a cosine; its other settings are Keras' own.",
        f"Dev is looked at once an epoch, so steps to {100 * study.target:g} % are known to an epoch. Epochs, steps "
        "and seconds are medians over seeds; a dash means that half of them or more did not come so far. Seconds are "
        "those of that many examples at the measured speed, without validation.",
        "Speed and memory are of training steps on all cores, each size on one batch, in a process that does nothing "
        "else; training itself shares the cores between cells. Peak memory is of that process, TensorFlow included.",
        "An interval is of the mean over seeds (t, 95 %): of starting weights, data order and teacher, not of the test "
        "images. Within a seed all sizes share the starting weights and the teacher.",
        "Gradient noise is estimated from 3,000 examples a point, drawn with replacement, in batches of 50; variances "
        "and squares are averaged over seeds before they are divided. Far above that number a scale is rough.",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
