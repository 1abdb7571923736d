"""The arms of the repetition, and the run from cells to report."""

import functools

from rich.console import RenderableType

from distill import data
from distill.studies import Arm, Cell, Runner, conclude, require
from experiments.hinton_mnist import report
from experiments.hinton_mnist.cell import train
from experiments.hinton_mnist.config import Hinton, Training

ALL_DIGITS = "all digits"
TEACHER = Arm(
    "teacher",
    group=ALL_DIGITS,
    label="teacher",
    description="The large network, trained on shifted images and labels.",
)


def student_arms(options: Hinton) -> list[Arm]:
    """The students, with the settings that the options give them."""
    soft = {"temperature": options.temperature, "student_loss_weight": options.student_loss_weight}
    omitted = {"omitted": options.omitted}
    settings = f"T = {options.temperature:g}, label weight {options.student_loss_weight:g}"
    without = f"without the digit {options.omitted}"
    return [
        Arm("alone", group=ALL_DIGITS, label="alone", description="The student, trained on the labels."),
        Arm(
            "distilled",
            group=ALL_DIGITS,
            label=f"distilled, {settings}",
            description="The student, trained on labels and soft targets.",
            changes=soft,
        ),
        Arm(
            "omitted-distilled",
            group=without,
            label=f"distilled {without}, {settings}",
            description=f"Trained like distilled, but without any image of a {options.omitted}: it can only know what "
            "the teacher's answers to other digits say about them. Its bias is as trained.",
            changes={**soft, **omitted},
        ),
        Arm(
            "omitted-alone",
            group=without,
            label=f"alone {without}",
            description="Trained on the same images with labels alone.",
            changes=omitted,
        ),
    ]


def teacher_cell(options: Hinton, seed: int) -> Cell:
    """The teacher of all distilled students with the same seed."""
    config = Training(options.dataset, options.teacher, options.batch_size)
    return Cell(study="hinton_mnist", arm="teacher", seed=seed, config=config)


def student_cell(options: Hinton, arm: Arm, seed: int) -> Cell:
    """One student of an arm."""
    changes = dict(arm.changes)
    if "temperature" in changes:
        changes["teacher"] = teacher_cell(options, seed).name
    config = Training(options.dataset, options.student, options.batch_size, **changes)
    return Cell(study="hinton_mnist", arm=arm.name, seed=seed, config=config)


def check(options: Hinton) -> None:
    """Raises ValueError for options that cannot work."""
    weight = options.student_loss_weight
    require(
        (options.seeds >= 1, "--seeds must be at least 1", f"--seeds {options.seeds}"),
        (options.batch_size >= 1, "--batch-size must be at least 1", f"--batch-size {options.batch_size}"),
        (
            options.omitted in range(10),
            "--omitted must be a digit from 0 to 9",
            f"--omitted {options.omitted}",
        ),
        (options.temperature > 0, "--temperature must be above 0", f"--temperature {options.temperature:g}"),
        (0 <= weight <= 1, "--student-loss-weight must lie in [0, 1]", f"--student-loss-weight {weight:g}"),
    )
    for name, learner in (("teacher", options.teacher), ("student", options.student)):
        rate = f"--{name}.learning-rate"
        require(
            (learner.units >= 1, f"--{name}.units must be at least 1", f"--{name}.units {learner.units}"),
            (learner.epochs >= 1, f"--{name}.epochs must be at least 1", f"--{name}.epochs {learner.epochs}"),
            (
                0 <= learner.dropout < 1,
                f"--{name}.dropout must be at least 0 and below 1",
                f"--{name}.dropout {learner.dropout:g}",
            ),
            (learner.learning_rate > 0, f"{rate} must be above 0", f"{rate} {learner.learning_rate:g}"),
            (learner.jitter >= 0, f"--{name}.jitter must be at least 0", f"--{name}.jitter {learner.jitter}"),
        )


def run(options: Hinton, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet, and writes study.json and the report; returns what to print."""
    try:
        runner.pool.submit(_prepare, options).result()
    except FileNotFoundError as error:  # its message says how to get the files
        raise RuntimeError(str(error)) from error
    seeds, students = range(options.seeds), student_arms(options)
    work = functools.partial(train, surroundings=options.surroundings)
    cells_of = {"teacher": [teacher_cell(options, seed) for seed in seeds]}
    runner.run(cells_of["teacher"], work, label="teachers")
    cells_of |= {arm.name: [student_cell(options, arm, seed) for seed in seeds] for arm in students}
    # Seed by seed, so that a study that is stopped has complete pairs.
    runner.run([cells_of[arm.name][seed] for seed in seeds for arm in students], work, label="students")
    conclude(
        runner.study_dir,
        [(arm, cells_of[arm.name]) for arm in (TEACHER, *students)],
        study="hinton_mnist",
        title="Hinton, Vinyals and Dean 2015 on MNIST",
        question="Does a teacher that learned from shifted images improve a student that never sees one, and can it "
        "teach a digit that the student never sees?",
        command=typed,
        smoke=options.smoke,
        # No comparisons: two seeds and the numbers of a paper leave nothing to test.
        omitted=options.omitted,
    )
    return report.write(runner.study_dir)


def _prepare(options: Hinton) -> None:
    """Prepares the data set, so that missing files are found before anything is trained."""
    where = options.surroundings
    data.load(options.dataset, data_dir=where.data_dir, manual_dir=where.manual_dir)
