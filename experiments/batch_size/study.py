"""The arms and questions of the batch-size study, and the run from cells to report."""

import contextlib
import dataclasses
import functools
from typing import Any

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, conclude, require, workers
from experiments.batch_size import report
from experiments.batch_size.cell import speeds, train
from experiments.batch_size.config import BatchSize
from experiments.compare.config import Training

KINDS, RULES = ("alone", "distilled"), ("constant", "scaled")
TEACHER = Arm(
    "teacher", group="teacher", label="teacher", description="The large network, trained on the labels."
)


def learning_rate(options: BatchSize, size: int, rule: str) -> float:
    """Adam's learning rate at the start, for one batch size.

    Args:
        options: options of the study.
        size: examples per step.
        rule: "constant" or "scaled".

    Returns:
        The rate at the reference size, times (size / reference)^½ or size / reference if the rule is "scaled".
    """
    power = {"constant": 0.0, "scaled": {"sqrt": 0.5, "linear": 1.0}[options.scaling]}[rule]
    return options.learning_rate * (size / options.reference) ** power


def student_arm(options: BatchSize, kind: str, rule: str, size: int) -> Arm:
    """The arm of one batch size; at the reference size, both rules are the same arm."""
    rate = learning_rate(options, size, rule)
    soft = {"temperature": options.temperature, "student_loss_weight": options.student_loss_weight}
    return Arm(
        f"{kind}-{size}" if size == options.reference else f"{kind}-{size}-{rule}",
        group=kind,
        label=f"{kind}, batches of {size}, learning rate {rate:.2g}",
        description=f"The student {kind}, with {size} examples per step.",
        changes={"batch_size": size, "learning_rate": rate, **(soft if kind == "distilled" else {})},
    )


def student_arms(options: BatchSize) -> list[Arm]:
    """All arms of students, each once."""
    made = [
        student_arm(options, kind, rule, size) for kind in KINDS for size in options.sizes for rule in RULES
    ]
    return list({arm.name: arm for arm in made}.values())


def teacher_cell(options: BatchSize, seed: int) -> Cell:
    """The teacher of all students with the same seed."""
    config = Training(
        dataset=options.dataset,
        network=options.teacher,
        epochs=options.epochs,
        batch_size=options.reference,
        learning_rate=options.learning_rate,
    )
    return Cell(study="batch_size", arm="teacher", seed=seed, config=config)


def student_cell(options: BatchSize, arm: Arm, seed: int) -> Cell:
    """One student of an arm."""
    teacher = teacher_cell(options, seed)
    config = dataclasses.replace(teacher.config, network=options.student, teacher=teacher.name, **arm.changes)
    return Cell(study="batch_size", arm=arm.name, seed=seed, config=config)


def questions(options: BatchSize) -> dict[str, list[tuple[str, str]]]:
    """All comparisons, as pairs of baseline and arm, by the question that they answer together."""
    asked = {}
    for kind in KINDS:
        for rule in RULES:
            baseline = student_arm(options, kind, rule, options.reference).name
            asked[f"{kind}, {rule} rate, against batches of {options.reference}"] = [
                (baseline, student_arm(options, kind, rule, size).name)
                for size in options.sizes
                if size != options.reference
            ]
    for rule in RULES:
        asked[f"distilled against alone, {rule} rate"] = [
            (
                student_arm(options, "alone", rule, size).name,
                student_arm(options, "distilled", rule, size).name,
            )
            for size in options.sizes
        ]
    return asked


def check(options: BatchSize) -> None:
    """Raises ValueError for options that cannot work."""
    sizes = options.sizes
    require(
        (options.seeds >= 1, "--seeds must be at least 1", f"--seeds {options.seeds}"),
        (options.epochs >= 1, "--epochs must be at least 1", f"--epochs {options.epochs}"),
        (options.runs >= 1, "--runs must be at least 1", f"--runs {options.runs}"),
        (
            len(sizes) > 1 and min(sizes) >= 1 and list(sizes) == sorted(set(sizes)),
            "--sizes must be two or more ascending integers, each at least 1",
            f"--sizes {' '.join(map(str, sizes))}",
        ),
        (
            options.reference in sizes,
            "--reference must be one of --sizes",
            f"--reference {options.reference}",
        ),
        (
            0 < options.target <= 1,
            "--target must be an accuracy above 0 and at most 1",
            f"--target {options.target:g}",
        ),
        (
            options.learning_rate > 0,
            "--learning-rate must be above 0",
            f"--learning-rate {options.learning_rate:g}",
        ),
        (options.temperature > 0, "--temperature must be above 0", f"--temperature {options.temperature:g}"),
        (
            0 < options.student_loss_weight <= 1,
            "--student-loss-weight must be above 0 and at most 1",
            f"--student-loss-weight {options.student_loss_weight:g}",
        ),
    )


def run(options: BatchSize, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet, and writes study.json and the report; returns what to print."""
    seeds, students = range(options.seeds), student_arms(options)
    work = functools.partial(train, surroundings=options.surroundings)
    cells_of = {"teacher": [teacher_cell(options, seed) for seed in seeds]}
    runner.run(cells_of["teacher"], work, label="teachers")
    cells_of |= {arm.name: [student_cell(options, arm, seed) for seed in seeds] for arm in students}
    # Seed by seed, so that a study that is stopped has complete pairs.
    runner.run([cells_of[arm.name][seed] for seed in seeds for arm in students], work, label="students")
    asked = questions(options)
    conclude(
        runner.study_dir,
        [(arm, cells_of[arm.name]) for arm in (TEACHER, *students)],
        study="batch_size",
        title="What the batch size changes",
        question="How does the batch size change how fast a student trains, how soon it learns, and how well?",
        command=typed,
        smoke=options.smoke,
        notes=_notes(options),
        comparisons=list(dict.fromkeys(pair for pairs in asked.values() for pair in pairs)),
        # The rest is for this study's own report.
        questions=asked,
        target=options.target,
        lines=[
            {"kind": kind, "rule": rule, "size": size, "arm": student_arm(options, kind, rule, size).name}
            for kind in KINDS
            for rule in RULES
            for size in options.sizes
        ],
        speeds=_speeds(options, runner),
    )
    return report.write(runner.study_dir)


def _speeds(options: BatchSize, runner: Runner) -> dict[str, list[dict[str, Any]]]:
    """Times training alone, then distilled. Each has a process of its own, since freed memory stays with a process."""
    runner.console.print("timing training steps, all batch sizes in turns")
    timed = {}
    with contextlib.ExitStack() as pools:
        for kind in KINDS:
            cell = student_cell(options, student_arm(options, kind, "constant", options.reference), 0)
            pool = pools.enter_context(workers(runner.study_dir, jobs=1))
            timed[kind] = pool.submit(
                speeds,
                cell,
                runner.study_dir,
                surroundings=options.surroundings,
                sizes=options.sizes,
                runs=options.runs,
            )
            if not options.smoke:  # the numbers of a smoke run mean nothing, so there both may run at once
                timed[kind].result()
        return {kind: future.result() for kind, future in timed.items()}


def _notes(options: BatchSize) -> list[str]:
    rates = ", ".join(f"{learning_rate(options, size, 'scaled'):.2g} at {size}" for size in options.sizes)
    return [
        f"All sizes train for {options.epochs} epochs, so their numbers of updates differ. Nothing was tuned for a "
        f"single size: Adam's learning rate starts at {options.learning_rate:g} for every size (constant), or at a "
        f"rate that grows with the size ({options.scaling} rule: {rates}), and falls to 0 along a cosine. Its other "
        "settings are Keras' defaults.",
        f"Dev is measured after each epoch, so the steps to {100 * options.target:g}% are exact only to an epoch. "
        "Epochs, steps and seconds are medians over seeds; a dash means that at least half of the seeds did not get "
        "that far. Seconds are computed from the measured speed, without validation.",
        "Speed and memory are those of training steps on all cores, each size on a single batch, in a process that "
        "does nothing else. In the study itself, cells share the cores. Peak memory is that of the whole process, "
        "TensorFlow included.",
        "Intervals are 95% t intervals of the mean over seeds. They cover initial weights, data order and teacher, but "
        "not the choice of test images. With the same seed, all sizes have the same initial weights and teacher.",
        "Each estimate of gradient noise uses 3,000 examples, drawn with replacement, in batches of 50. Variances and "
        "squared gradients are averaged over seeds before they are divided. Scales far above 3,000 are rough.",
    ]
