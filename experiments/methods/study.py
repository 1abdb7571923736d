"""The methods and their settings, the search on dev, and the run from cells to report."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, choose, conclude, require, require_datasets, require_training
from experiments.methods import report
from experiments.methods.cell import train
from experiments.methods.config import ENSEMBLE, Learning, Methods

TUNING_SEEDS = (1000, 1001)  # never those of the comparison
TUNING_TEACHERS = (*TUNING_SEEDS, 1002)  # as many as a method may learn from


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train a student.

    Attributes:
        name: name of the method, and last part of its arms' names.
        family: kind of the method.
        knob: name of the setting that is chosen on dev.
        trials: values that are tried.
        teachers: number of large networks that it learns from.
    """

    name: str
    _: dataclasses.KW_ONLY
    family: str
    knob: str
    trials: tuple[float, float, float]
    teachers: int = 1


def _published(name: str, weight: float, *, family: str, teachers: int = 1) -> Method:
    trials = (weight / 10, weight, weight * 10)
    return Method(name, family=family, knob="weight", trials=trials, teachers=teachers)


ALONE, LOGITS, FEATURES, RELATIONS, SCHEMES = "no teacher", "logits", "features", "relations", "schemes"
METHODS = (
    Method("alone", family=ALONE, knob="weight decay", trials=(0.0, 1e-3, 1e-2)),
    Method("smoothing", family=ALONE, knob="smoothing", trials=(0.05, 0.1, 0.2)),
    Method("virtual-teacher", family=ALONE, knob="weight", trials=(0.1, 0.5, 0.9)),
    _published("kd", 0.9, family=LOGITS),
    _published("logit-mse", 0.9, family=LOGITS),
    _published("hard-labels", 0.9, family=LOGITS),
    _published("standardized-kd", 9.0, family=LOGITS),
    _published("dkd", 1.0, family=LOGITS),
    _published("dist", 2.0, family=LOGITS),
    _published("jsd", 0.9, family=LOGITS),
    _published("reverse-kl", 0.9, family=LOGITS),
    _published("mlkd", 9.0, family=LOGITS),
    _published("ctkd", 0.9, family=LOGITS),
    _published("hint", 100.0, family=FEATURES),
    _published("attention", 1000.0, family=FEATURES),
    _published("vid", 1.0, family=FEATURES),
    _published("nst", 50.0, family=FEATURES),
    _published("ofd", 1.0, family=FEATURES),
    _published("similarity", 3000.0, family=RELATIONS),
    _published("rkd", 1.0, family=RELATIONS),
    _published("pkt", 30000.0, family=RELATIONS),
    _published("crd", 0.8, family=RELATIONS),
    _published("three-teachers", 0.9, family=SCHEMES, teachers=3),
    _published("mutual", 1.0, family=SCHEMES),
    _published("born-again", 0.9, family=SCHEMES),
    _published("assistant", 0.9, family=SCHEMES),
    Method("function-matching", family=SCHEMES, knob="mixup alpha", trials=(0.3, 1.0, 3.0)),
    Method("unlabelled", family=SCHEMES, knob="temperature", trials=(1.0, 4.0, 8.0)),
)


def check(options: Methods) -> None:
    """Raises ValueError for options that cannot work."""
    require_training(options, "learning_rate")
    require_datasets(options.datasets)
    names = [method.name for method in METHODS]
    unknown = [name for name in options.methods if name not in names]
    require(
        (1 <= options.trials <= 3, "--trials must lie between 1 and 3", f"--trials {options.trials}"),
        (not unknown, f"--methods must name some of {', '.join(names)}", f"--methods {' '.join(unknown)}"),
    )
    needed = max(method.teachers for method in chosen_methods(options))
    if options.seeds < needed:
        raise ValueError(
            f"A method with {needed} teachers borrows teachers from other seeds, so it needs at least {needed} seeds. "
            f"Received: --seeds {options.seeds}. Use more seeds, or leave the method out by naming the others with "
            "--methods."
        )


def chosen_methods(options: Methods) -> list[Method]:
    """The methods of a study, with the baselines that all are compared with."""
    names = {*options.methods, *report.BASELINES} if options.methods else {m.name for m in METHODS}
    return [method for method in METHODS if method.name in names]


def teacher_cell(options: Methods, dataset: str, seed: int) -> Cell:
    """The teacher of one seed."""
    config = Learning(
        dataset=dataset,
        network=options.teacher,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        method="teacher",
    )
    return Cell(study="methods", arm=f"{dataset}-teacher", seed=seed, config=config)


def student_cell(
    options: Methods, dataset: str, method: Method, *, setting: float, seed: int, lenders: Sequence[int]
) -> Cell:
    """One student; a method with several teachers borrows those of the next seeds among `lenders`."""
    first = lenders.index(seed)
    seeds = [lenders[(first + i) % len(lenders)] for i in range(method.teachers)]
    teachers = [teacher_cell(options, dataset, lender) for lender in seeds]
    config = dataclasses.replace(
        teachers[0].config,
        network=options.student,
        method=method.name,
        setting=setting,
        teachers=tuple(teacher.name for teacher in teachers),
        assistant=options.assistant if method.name == "assistant" else None,
    )
    return Cell(study="methods", arm=f"{dataset}-{method.name}", seed=seed, config=config)


def ensemble_cell(generations: Cell) -> Cell:
    """The ensemble of the networks that a born-again cell has trained."""
    config = dataclasses.replace(generations.config, method=ENSEMBLE, generations=generations.name)
    arm = f"{generations.config.dataset}-{ENSEMBLE}"
    return Cell(study="methods", arm=arm, seed=generations.seed, config=config)


def run(options: Methods, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet, and writes study.json and the report; returns what to print."""
    seeds = tuple(range(options.seeds))
    all_seeds = (*(TUNING_TEACHERS if options.trials > 1 else ()), *seeds)
    teachers = [teacher_cell(options, dataset, seed) for dataset in options.datasets for seed in all_seeds]
    _run(options, runner, teachers, label="teachers")
    tuning = _tune(options, runner)
    settings = {choice["arm"]: next(iter(choice["chosen"].values())) for choice in tuning}
    cells: dict[str, list[Cell]] = {}
    for dataset in options.datasets:
        cells[f"{dataset}-teacher"] = [teacher_cell(options, dataset, seed) for seed in seeds]
        for method in chosen_methods(options):
            arm = f"{dataset}-{method.name}"
            cells[arm] = [
                student_cell(options, dataset, method, setting=settings[arm], seed=seed, lenders=seeds)
                for seed in seeds
            ]
    # Seed by seed, so that a study that is stopped has complete pairs.
    _run(options, runner, [own[seed] for seed in seeds for own in cells.values()], label="students")
    ensembles = {
        f"{dataset}-{ENSEMBLE}": [ensemble_cell(cell) for cell in cells[f"{dataset}-born-again"]]
        for dataset in options.datasets
        if f"{dataset}-born-again" in cells
    }
    _run(options, runner, [cell for own in ensembles.values() for cell in own], label="ensembles")
    arms = [
        (_arm(name, settings.get(name), dataset), own)
        for dataset in options.datasets
        for name, own in (cells | ensembles).items()
        if name.startswith(f"{dataset}-")
    ]
    conclude(
        runner.study_dir,
        arms,
        study="methods",
        title="Every method side by side",
        question="Is any published method better than plain distillation, or than a tuned student without a teacher?",
        command=typed,
        smoke=options.smoke,
        notes=_notes(options),
        comparisons=[
            (f"{arm.group}-{baseline}", arm.name)
            for arm, _ in arms
            for baseline in report.BASELINES
            if arm.name not in (f"{arm.group}-teacher", f"{arm.group}-{baseline}")
        ],
        tuning=tuning,
    )
    return report.write(runner.study_dir)


def _run(options: Methods, runner: Runner, cells: Iterable[Cell], *, label: str) -> None:
    work = functools.partial(train, surroundings=options.surroundings)
    runner.run(list(cells), work, label=label)


def _tune(options: Methods, runner: Runner) -> list[dict[str, Any]]:
    """Tries settings of each method on dev; if each has only one, nothing is trained."""
    pairs = [(dataset, method) for dataset in options.datasets for method in chosen_methods(options)]
    if options.trials == 1:
        return [
            {"arm": f"{dataset}-{method.name}", "choices": [], "chosen": {method.knob: method.trials[1]}}
            for dataset, method in pairs
        ]
    tried = {
        f"{dataset}-{method.name}": [
            (
                {method.knob: setting},
                [
                    student_cell(
                        options, dataset, method, setting=setting, seed=seed, lenders=TUNING_TEACHERS
                    )
                    for seed in TUNING_SEEDS
                ],
            )
            for setting in method.trials[: options.trials]
        ]
        for dataset, method in pairs
    }
    count = sum(map(len, tried.values()))
    runner.console.print(f"choosing on dev: {count} trials with {len(TUNING_SEEDS)} seeds each")
    cells = [cell for trials in tried.values() for _, own in trials for cell in own]
    _run(options, runner, cells, label="trials")
    return choose(tried, runner.study_dir)


def _arm(name: str, setting: float | None, dataset: str) -> Arm:
    short = name.removeprefix(f"{dataset}-")
    if short == "teacher":
        return Arm(
            name,
            group=dataset,
            label="teacher",
            description="The large network, trained on the labels.",
        )
    if short == ENSEMBLE:
        label, description = (
            "ensemble of the born-again networks",
            "The mean probabilities of the three generations.",
        )
        return Arm(name, group=dataset, label=label, description=description)
    method = next(method for method in METHODS if method.name == short)
    description = f"{method.family}; {method.knob} {setting:g}."
    return Arm(name, group=dataset, label=short, description=description)


def _notes(options: Methods) -> list[str]:
    chosen = (
        f"Each method's setting is the best of {options.trials} on dev, by the mean of seeds "
        f"{', '.join(map(str, TUNING_SEEDS))}."
        if options.trials > 1
        else "Each method has its published or usual setting."
    )
    return [
        f"All networks train for {options.epochs} epochs with batches of {options.batch_size}. AdamW's learning rate "
        f"falls from {options.learning_rate:g} to 0 along a cosine. With the same seed, methods have the same initial "
        "weights, data order and teacher.",
        f"{chosen} Weights are relative to a label weight of 1, or of 0.1 for kd, logit-mse, hard-labels, "
        "standardized-kd, jsd, reverse-kl, mlkd, ctkd, three-teachers, born-again and assistant. The papers of "
        "logit-mse, jsd and reverse-kl use no labels, and that of hard-labels gives both half the weight; here labels "
        "weigh 0.1 and the loss 0.9, as for kd.",
        "assistant, born-again and mutual train two, three and two networks, each for as long as the other methods "
        "train one. three-teachers adds the teachers of the next two seeds. function-matching and unlabelled see no "
        "label.",
        "The ensemble consists of three networks and costs three times as much.",
    ]
