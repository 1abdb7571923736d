"""The arms and questions of the batch-size study, and the run from cells to study.json."""

import contextlib
import dataclasses
import functools
from typing import Any

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, conclude, workers
from experiments.batch_size import report
from experiments.batch_size.cell import speeds, train
from experiments.batch_size.config import BatchSize
from experiments.compare.config import Training

KINDS, RULES = ("alone", "distilled"), ("constant", "scaled")


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


def check(study: BatchSize) -> None:
    """Raises ValueError for options that cannot work."""
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


def run(study: BatchSize, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet and writes study.json and the report; returns what to print."""
    seeds, students = range(study.seeds), arms(study)
    work = functools.partial(train, study.surroundings)
    cells_of = {"teacher": [teacher_cell(study, seed) for seed in seeds]}
    runner.run(cells_of["teacher"], work, "teachers")
    cells_of |= {arm.name: [student_cell(study, arm, seed) for seed in seeds] for arm in students}
    runner.run([cells_of[arm.name][seed] for seed in seeds for arm in students], work, "students")
    asked = questions(study)
    teacher = Arm("teacher", "teacher", "teacher", "The large network, on the labels.")
    conclude(
        runner.study_dir,
        [(arm, cells_of[arm.name]) for arm in (teacher, *students)],
        study="batch_size",
        title="What the batch size does",
        question="How fast does a student train, how soon does it learn and how well, by the size of its batches?",
        command=typed,
        smoke=study.smoke,
        notes=_notes(study),
        comparisons=list(dict.fromkeys(pair for pairs in asked.values() for pair in pairs)),
        tuning=[],
        latency_ms={},
        # What follows is read by this study's report alone.
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
    return report.write(runner.study_dir)


def _speeds(study: BatchSize, runner: Runner) -> dict[str, list[dict[str, Any]]]:
    """Times training alone, then distilled, each in a process of its own: memory that one frees stays with it."""
    runner.console.print("timing training steps, all batch sizes in turn")
    timed = {}
    with contextlib.ExitStack() as pools:
        for kind in KINDS:
            cell = student_cell(study, arm(study, kind, "constant", study.reference), 0)
            pool = pools.enter_context(workers(1, runner.study_dir))
            timed[kind] = pool.submit(
                speeds, study.surroundings, cell, runner.study_dir, study.sizes, study.rounds
            )
            if not study.smoke:  # whose numbers mean nothing: there both may run at once
                timed[kind].result()
        return {kind: future.result() for kind, future in timed.items()}


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
