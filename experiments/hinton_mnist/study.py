"""Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 3, on full MNIST.

A teacher of 2 × 1200 rectified units with dropout learns images shifted by up to two pixels. Students of 2 × 800
units, without any regularization, see the images as they are: alone, or on the labels (weight .1) and the teacher's
answers at T = 20 (weight .9). Then the digit 3 is left out of what a student sees, and the bias of its logit is raised
afterwards. That bias is chosen on dev; the paper chose it on test, which is shown beside it. The paper has no student
alone without 3s: it shows that labels cannot teach what the teacher's answers do.

Command: scripts/study hinton_mnist --manual-dir DIR, with the four files of MNIST in DIR. 2 seeds, 10 cells: 83 minutes
    on two cores that had as much other work again; about half an hour by the time the processor spent.
Found: test errors of the teacher 76 ± 2 (paper: 67), alone 150 ± 12 (146), distilled 96 ± 2 (74), without 3s 117 ± 8,
    of which 36 on 3s (206, of which 133), and with the better bias 106 ± 4 by dev or 102 ± 3 by test (109).
Unlike the paper: networks learn from 54,000 of the 60,000 training images, since dev is the other 6,000; the teacher
    has no weight constraint, and training takes 60 epochs of Adam, and 40 for students.
Why 96 and not 74: what was tried by hand, with the functions of this study and not by its command, so that test was
    not read again: errors on dev of seed 0, where the teacher makes 46 and the student 58. Not the
    length of its training (120 epochs at 1e-3: 56), nor its rate (5e-4: 64), nor Adam (SGD of momentum .9 at .02: 65,
    at .005: 77), nor the labels (without them: 55), nor the number of images (48,000: 55). But with a transfer set that
    is shifted as the teacher's images are, --student.jitter 2, it makes 47, as many as the teacher: on images as they
    are it already answers as the teacher does, and what it lacks is what the teacher knows of shifted ones. The paper's
    student has learned more of that, from the targets of a teacher that we do not have. The paper's rates of dropout,
    .5 and .2, and a weight constraint of 3 alone do not make it: 57 errors of the teacher after 80 of 100 epochs.
Choices, on dev with one seed: the teacher's dropout of .3 on hidden units makes 52 errors after 30 epochs; .5 with .2
    on pixels, the rates of the paper's reference, 65 after 40, since so short a training underfits (.7 % errors
    on its own images). Labels at weight .1 rather than 0: without 3s, 78 errors rather than 84 after the bias.
"""

import dataclasses
import functools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import RenderableType

from experiments import report, statistics, tables
from experiments.runner import Cell, Runner
from experiments.settings import Surroundings
from experiments.study import Arm, command, conclude

NOTHING = tables.NOTHING
# Where the bias of the digit that was left out comes from.
TRAINED, ON_DEV, ON_TEST = "as trained", "bias by dev", "bias by test"
# Arm, bias, and what the paper has: errors on test, and how many of them on 3s.
ROWS = (
    ("teacher", TRAINED, "67", NOTHING),
    ("alone", TRAINED, "146", NOTHING),
    ("distilled", TRAINED, "74", NOTHING),
    ("omitted-distilled", TRAINED, "206", "133"),
    ("omitted-distilled", ON_DEV, NOTHING, NOTHING),
    ("omitted-distilled", ON_TEST, "109", "14"),
    ("omitted-alone", TRAINED, NOTHING, NOTHING),
    ("omitted-alone", ON_DEV, NOTHING, NOTHING),
)


@dataclasses.dataclass(frozen=True)
class Learner:
    """A network of two dense layers, and how it is trained.

    Attributes:
        units: width of both layers.
        epochs: passes over the training images.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        dropout: share of each layer's units dropped, in training only.
        jitter: pixels by which a training image is shifted at most, in each direction.
    """

    units: int
    epochs: int
    learning_rate: float
    dropout: float = 0.0
    jitter: int = 0


@dataclasses.dataclass(frozen=True)
class Training:
    """All that a cell's result depends on but its seed.

    Attributes:
        dataset: a name for `distill.data.load`.
        learner: what is trained, and how.
        batch_size: examples a step.
        teacher: the teacher's cell, or `None` to train on labels alone.
        temperature: of the soft targets.
        student_loss_weight: weight of the labels beside soft targets.
        omitted: the digit that is left out of training and may get another bias; `None` for none.
    """

    dataset: str
    learner: Learner
    batch_size: int
    teacher: str | None = None
    temperature: float = 20.0
    student_loss_weight: float = 0.1
    omitted: int | None = None


@dataclasses.dataclass(frozen=True)
class Hinton:
    """Repeats the MNIST experiments of Hinton et al. 2015.

    Attributes:
        out: the run directories, the report and the lock go to OUT/hinton_mnist (OUT/hinton_mnist-smoke with --smoke).
        smoke: change the defaults so that everything takes seconds and needs no files, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on.
        dataset: mnist, or another set of images of the ten digits that lies on this machine.
        batch_size: examples a step.
        temperature: of the soft targets, as in the paper.
        student_loss_weight: weight of the labels beside the soft targets, from 0 to 1.
        omitted: the digit that is left out.
        teacher: the large network.
        student: the small network, the same in every arm.
        surroundings: where data lie, and where numbers go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = 2
    seeds: int = 2
    dataset: str = "mnist"
    batch_size: int = 256
    temperature: float = 20.0
    student_loss_weight: float = 0.1
    omitted: int = 3
    teacher: Learner = Learner(1200, epochs=60, learning_rate=1e-3, dropout=0.3, jitter=2)
    student: Learner = Learner(800, epochs=40, learning_rate=2.5e-3)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Hinton(
    smoke=True,
    seeds=1,
    dataset="mnist5k",
    batch_size=64,
    teacher=Learner(64, epochs=2, learning_rate=5e-3, dropout=0.1, jitter=2),
    student=Learner(32, epochs=2, learning_rate=5e-3),
)


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


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table of errors."""
    return command(
        "hinton_mnist",
        arguments,
        default=Hinton(),
        smoke=SMOKE,
        prog="scripts/study hinton_mnist",
        description=__doc__,
        check=_check,
        work=functools.partial(_study, shlex.join(["scripts/study", "hinton_mnist", *arguments])),
    )


def _check(study: Hinton) -> None:
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


def _study(typed: str, study: Hinton, runner: Runner) -> Sequence[RenderableType]:
    try:
        runner.pool.submit(_prepare, study).result()
    except FileNotFoundError as error:  # it says how to get the files
        raise RuntimeError(str(error)) from error
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
    grid = error_table(
        {
            name: [json.loads((runner.study_dir / folder / "result.json").read_text()) for folder in cells]
            for name, cells in folders.items()
        },
        study.omitted,
    )
    teacher = Arm(
        "teacher", students[0].group, "teacher", "The large network, on jittered images and labels."
    )
    conclude(
        runner.study_dir,
        [(arm, folders[arm.name]) for arm in (teacher, *students)],
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
    )
    page = report.write(runner.study_dir, [f"<p>{report.escaped(grid.title)}.</p>", report.grid(grid)])
    return [*([tables.SMOKE] if study.smoke else []), tables.terminal(grid), f"The report: {page}"]


def _prepare(study: Hinton) -> None:
    from distill import data  # TensorFlow is for other processes: --help answers at once

    data.load(study.dataset, data_dir=study.surroundings.data_dir, manual_dir=study.surroundings.manual_dir)


def _work(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    from experiments import hinton_training  # as in `_prepare`

    return hinton_training.run(surroundings, cell, directory)


def error_table(results: Mapping[str, Sequence[Mapping[str, Any]]], omitted: int) -> tables.Grid:
    """The errors on test beside those of the paper.

    Args:
        results: by arm, what `hinton_training.run` returned for each seed.
        omitted: the digit that was left out.

    Returns:
        A row for each arm and bias.
    """
    rows: list[tuple[str, ...]] = []
    for arm, source, paper, paper_on_digit in ROWS:
        scores = [result["errors"][source] for result in results[arm]]
        totals = [sum(score["test"]) for score in scores]
        on_digit = _spread([score["test"][omitted] for score in scores])
        bias = NOTHING if source == TRAINED else _spread([score["bias"] for score in scores], 1)
        name = arm if source == TRAINED else f"… {source}"
        by_seed = ", ".join(map(str, totals))
        rows.append((name, bias, _spread(totals), by_seed, paper, on_digit, paper_on_digit))
    first = results["teacher"]
    title = (
        f"Errors on {first[0]['test_examples']} test images, mean ± standard deviation over {len(first)} seeds; "
        "the paper's are on 10000, and it left out the digit 3"
    )
    headings = ("arm", "added\nbias", "errors", "by seed", "paper", f"on {omitted}s", "paper,\non 3s")
    return tables.Grid(title, headings, tuple(rows))


def _spread(values: Sequence[float], digits: int = 0) -> str:
    spread = statistics.spread(values)
    mean = f"{spread.mean:.{digits}f}"
    return mean if spread.n == 1 else f"{mean} ± {spread.deviation:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
