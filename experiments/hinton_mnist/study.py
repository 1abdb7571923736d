"""The arms of the repetition, and the run from cells to study.json."""

import functools

from rich.console import RenderableType

from distill import data
from distill.studies import Arm, Cell, Runner, conclude
from experiments.hinton_mnist import report
from experiments.hinton_mnist.cell import train
from experiments.hinton_mnist.config import Hinton, Training


def arms(study: Hinton) -> list[Arm]:
    """The students, with the settings that the options give them."""
    distilled = {"temperature": study.temperature, "student_loss_weight": study.student_loss_weight}
    omitted = {"omitted": study.omitted}
    targets = f"T = {study.temperature:g}, label weight {study.student_loss_weight:g}"
    all_digits, without = "all digits", f"without the digit {study.omitted}"
    return [
        Arm("alone", all_digits, "alone", "The student on the labels.", {}),
        Arm("distilled", all_digits, f"distilled, {targets}", "On labels and soft targets.", distilled),
        Arm(
            "omitted-distilled",
            without,
            f"distilled {without}, {targets}",
            f"As distilled, but no image of a {study.omitted} is shown: all it can know of them is what "
            "the teacher says of other digits. Its bias is as trained.",
            {**distilled, **omitted},
        ),
        Arm("omitted-alone", without, f"alone {without}", "The same images, labels only.", omitted),
    ]


def teacher_cell(study: Hinton, seed: int) -> Cell:
    """The teacher of one seed; every distilled student of that seed has it."""
    return Cell("hinton_mnist", "teacher", seed, Training(study.dataset, study.teacher, study.batch_size))


def student_cell(study: Hinton, arm: Arm, seed: int) -> Cell:
    """One student of an arm."""
    changes = dict(arm.changes)
    if "temperature" in changes:
        changes["teacher"] = teacher_cell(study, seed).name
    return Cell(
        "hinton_mnist", arm.name, seed, Training(study.dataset, study.student, study.batch_size, **changes)
    )


def check(study: Hinton) -> None:
    """Raises ValueError for options that cannot work."""
    rules = [
        (study.seeds >= 1, "A study needs a seed or more", f"--seeds {study.seeds}"),
        (study.jobs >= 1, "Cells are run by one process or more", f"--jobs {study.jobs}"),
        (study.batch_size >= 1, "A step needs an example or more", f"--batch-size {study.batch_size}"),
        (study.omitted in range(10), "A digit from 0 to 9 is left out", f"--omitted {study.omitted}"),
        (study.temperature > 0, "A temperature is above 0", f"--temperature {study.temperature:g}"),
        (
            0 <= study.student_loss_weight <= 1,
            "The labels' weight is from 0 to 1",
            f"--student-loss-weight {study.student_loss_weight:g}",
        ),
    ]
    for name, learner in (("teacher", study.teacher), ("student", study.student)):
        rules += [
            (learner.units >= 1, "A layer needs a unit or more", f"--{name}.units {learner.units}"),
            (learner.epochs >= 1, "A network needs an epoch or more", f"--{name}.epochs {learner.epochs}"),
            (
                0 <= learner.dropout < 1,
                "Dropout is a share from 0 to below 1",
                f"--{name}.dropout {learner.dropout:g}",
            ),
            (
                learner.learning_rate > 0,
                "A learning rate is above 0",
                f"--{name}.learning-rate {learner.learning_rate:g}",
            ),
            (learner.jitter >= 0, "A shift is of 0 pixels or more", f"--{name}.jitter {learner.jitter}"),
        ]
    for kept, rule, received in rules:
        if not kept:
            raise ValueError(f"{rule}. Received: {received}.")


def run(study: Hinton, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet and writes study.json and the report; returns what to print."""
    try:
        runner.pool.submit(_prepare, study).result()
    except FileNotFoundError as error:  # it says how to get the files
        raise RuntimeError(str(error)) from error
    seeds, students = range(study.seeds), arms(study)
    work = functools.partial(train, study.surroundings)
    cells_of = {"teacher": [teacher_cell(study, seed) for seed in seeds]}
    runner.run(cells_of["teacher"], work, "teachers")
    cells_of |= {arm.name: [student_cell(study, arm, seed) for seed in seeds] for arm in students}
    runner.run([cells_of[arm.name][seed] for seed in seeds for arm in students], work, "students")
    teacher = Arm(
        "teacher", students[0].group, "teacher", "The large network, on jittered images and labels."
    )
    conclude(
        runner.study_dir,
        [(arm, cells_of[arm.name]) for arm in (teacher, *students)],
        study="hinton_mnist",
        title="Hinton, Vinyals and Dean 2015 on MNIST",
        question="Does a teacher of jittered images make a student better that never sees one, "
        "and can it teach a digit that the student never sees?",
        command=typed,
        smoke=study.smoke,
        notes=[],
        comparisons=[],  # two seeds against numbers of a paper: there is nothing to test
        tuning=[],
        latency_ms={},
        omitted=study.omitted,
    )
    return report.write(runner.study_dir)


def _prepare(study: Hinton) -> None:
    data.load(study.dataset, data_dir=study.surroundings.data_dir, manual_dir=study.surroundings.manual_dir)
