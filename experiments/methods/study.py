"""The arms of the study of methods, their tuning on dev, and the run from cells to study.json."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, choose, conclude, require_datasets, require_training
from experiments.methods import report
from experiments.methods.cell import train
from experiments.methods.config import ENSEMBLE, Learning, Methods

TUNING_SEEDS = (1000, 1001)  # never those of the comparison
TUNING_TEACHERS = (*TUNING_SEEDS, 1002)  # as many as a method may learn from


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train a student.

    Attributes:
        name: of its arm.
        family: under which tables list it.
        knob: what is chosen on dev.
        trials: the values that are tried.
        teachers: how many large networks it learns from.
    """

    name: str
    family: str
    knob: str
    trials: tuple[float, ...]
    teachers: int = 1


def _published(name: str, family: str, weight: float) -> Method:
    return Method(name, family, "weight", (weight / 10, weight, weight * 10))


ALONE, LOGITS, FEATURES, RELATIONS, SCHEMES = "no teacher", "logits", "features", "relations", "schemes"
METHODS = (
    Method("alone", ALONE, "weight decay", (0.0, 1e-3, 1e-2)),
    Method("smoothing", ALONE, "smoothing", (0.05, 0.1, 0.2)),
    Method("virtual-teacher", ALONE, "weight", (0.1, 0.5, 0.9)),
    _published("kd", LOGITS, 0.9),
    _published("logit-mse", LOGITS, 0.9),
    _published("hard-labels", LOGITS, 0.9),
    _published("standardized-kd", LOGITS, 9.0),
    _published("dkd", LOGITS, 1.0),
    _published("dist", LOGITS, 2.0),
    _published("jsd", LOGITS, 0.9),
    _published("reverse-kl", LOGITS, 0.9),
    _published("mlkd", LOGITS, 9.0),
    _published("ctkd", LOGITS, 0.9),
    _published("hint", FEATURES, 100.0),
    _published("attention", FEATURES, 1000.0),
    _published("vid", FEATURES, 1.0),
    _published("nst", FEATURES, 50.0),
    _published("ofd", FEATURES, 1.0),
    _published("similarity", RELATIONS, 3000.0),
    _published("rkd", RELATIONS, 1.0),
    _published("pkt", RELATIONS, 30000.0),
    _published("crd", RELATIONS, 0.8),
    dataclasses.replace(_published("three-teachers", SCHEMES, 0.9), teachers=3),
    _published("mutual", SCHEMES, 1.0),
    _published("born-again", SCHEMES, 0.9),
    _published("assistant", SCHEMES, 0.9),
    Method("function-matching", SCHEMES, "mixup alpha", (0.3, 1.0, 3.0)),
    Method("unlabelled", SCHEMES, "temperature", (1.0, 4.0, 8.0)),
)


def check(study: Methods) -> None:
    """Raises ValueError for options that cannot work."""
    require_training(study, "learning_rate")
    require_datasets(study.datasets)
    if not 1 <= study.trials <= 3:
        raise ValueError(f"Each method has three settings to try. Received: --trials {study.trials}.")
    names = [method.name for method in METHODS]
    if unknown := [name for name in study.methods if name not in names]:
        raise ValueError(f"No such method. Received: {unknown}. There are: {', '.join(names)}.")
    needed = max(method.teachers for method in chosen_methods(study))
    if study.seeds < needed:
        raise ValueError(
            f"A method of {needed} teachers borrows those of other seeds. Received: --seeds {study.seeds}. Take more, "
            "or leave the method out by naming the others: --methods."
        )


def chosen_methods(study: Methods) -> list[Method]:
    """The methods of a study, with the baselines that all are compared with."""
    names = {*study.methods, *report.BASELINES} if study.methods else {m.name for m in METHODS}
    return [method for method in METHODS if method.name in names]


def teacher_cell(study: Methods, dataset: str, seed: int) -> Cell:
    """The teacher of one seed."""
    config = Learning(dataset, study.teacher, study.epochs, study.batch_size, study.learning_rate, "teacher")
    return Cell("methods", f"{dataset}-teacher", seed, config)


def student_cell(
    study: Methods, dataset: str, method: Method, setting: float, seed: int, lenders: Sequence[int]
) -> Cell:
    """One student; methods of several teachers borrow those of the next seeds among `lenders`."""
    first = lenders.index(seed)
    seeds = [lenders[(first + i) % len(lenders)] for i in range(method.teachers)]
    teachers = [teacher_cell(study, dataset, lender) for lender in seeds]
    config = dataclasses.replace(
        teachers[0].config,
        network=study.student,
        method=method.name,
        setting=setting,
        teachers=tuple(teacher.name for teacher in teachers),
        assistant=study.assistant if method.name == "assistant" else None,
    )
    return Cell("methods", f"{dataset}-{method.name}", seed, config)


def ensemble_cell(generations: Cell) -> Cell:
    """The ensemble of the networks that a born-again cell has trained."""
    config = dataclasses.replace(generations.config, method=ENSEMBLE, generations=generations.name)
    return Cell("methods", f"{generations.config.dataset}-{ENSEMBLE}", generations.seed, config)


def run(study: Methods, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet and writes study.json and the report; returns what to print."""
    seeds = tuple(range(study.seeds))
    _run(study, runner, "teachers", [
        teacher_cell(study, dataset, seed)
        for dataset in study.datasets
        for seed in (*(TUNING_TEACHERS if study.trials > 1 else ()), *seeds)
    ])  # fmt: skip
    tuning = _tune(study, runner)
    settings = {choice["arm"]: next(iter(choice["chosen"].values())) for choice in tuning}
    cells: dict[str, list[Cell]] = {}
    for dataset in study.datasets:
        cells[f"{dataset}-teacher"] = [teacher_cell(study, dataset, seed) for seed in seeds]
        for method in chosen_methods(study):
            arm = f"{dataset}-{method.name}"
            cells[arm] = [student_cell(study, dataset, method, settings[arm], seed, seeds) for seed in seeds]
    # Seed by seed, so that what a stopped study has is paired.
    ordered = [arm_cells[seed] for seed in seeds for arm_cells in cells.values()]
    _run(study, runner, "students", ordered)
    ensembles = {
        f"{dataset}-{ENSEMBLE}": [ensemble_cell(cell) for cell in cells[f"{dataset}-born-again"]]
        for dataset in study.datasets
        if f"{dataset}-born-again" in cells
    }
    _run(study, runner, "ensembles", [cell for group in ensembles.values() for cell in group])
    arms = [
        (_arm(name, settings.get(name), dataset), arm_cells)
        for dataset in study.datasets
        for name, arm_cells in (cells | ensembles).items()
        if name.startswith(f"{dataset}-")
    ]
    conclude(
        runner.study_dir,
        arms,
        study="methods",
        title="Every method side by side",
        question="Does any published method beat plain distillation, or a tuned student without a teacher?",
        command=typed,
        smoke=study.smoke,
        notes=_notes(study),
        comparisons=[
            (f"{arm.group}-{baseline}", arm.name)
            for arm, _ in arms
            for baseline in report.BASELINES
            if arm.name not in (f"{arm.group}-teacher", f"{arm.group}-{baseline}")
        ],
        tuning=tuning,
        latency_ms={},
    )
    return report.write(runner.study_dir)


def _run(study: Methods, runner: Runner, label: str, cells: Iterable[Cell]) -> None:
    runner.run(list(cells), functools.partial(train, study.surroundings), label)


def _tune(study: Methods, runner: Runner) -> list[dict[str, Any]]:
    """Tries settings of each method on dev; where there is but one, nothing is trained."""
    if study.trials == 1:
        return [
            {
                "arm": f"{dataset}-{method.name}",
                "choices": [],
                "chosen": {method.knob: method.trials[1]},
            }
            for dataset in study.datasets
            for method in chosen_methods(study)
        ]
    trials = [
        (f"{dataset}-{method.name}", method.knob, setting, [
            student_cell(study, dataset, method, setting, seed, TUNING_TEACHERS) for seed in TUNING_SEEDS
        ])
        for dataset in study.datasets
        for method in chosen_methods(study)
        for setting in method.trials[: study.trials]
    ]  # fmt: skip
    runner.console.print(f"choosing on dev: {len(trials)} trials of {len(TUNING_SEEDS)} seeds")
    _run(study, runner, "trials", [cell for *_, cells in trials for cell in cells])
    tried: dict[str, list[tuple[dict[str, float], list[Cell]]]] = {}
    for arm, knob, setting, cells in trials:
        tried.setdefault(arm, []).append(({knob: setting}, cells))
    return choose(tried, runner.study_dir)


def _arm(name: str, setting: float | None, dataset: str) -> Arm:
    short = name.removeprefix(f"{dataset}-")
    known = {method.name: method for method in METHODS}
    if short == "teacher":
        return Arm(name, dataset, "teacher", "The large network, on the labels.")
    if short == ENSEMBLE:
        return Arm(
            name, dataset, "born-again networks together", "The mean probabilities of the three generations."
        )
    method = known[short]
    return Arm(name, dataset, short, f"{method.family}; {method.knob} {setting:g}.")


def _notes(study: Methods) -> list[str]:
    chosen = (
        f"Each method's setting is the best of {study.trials} on dev, mean of seeds "
        f"{', '.join(map(str, TUNING_SEEDS))}."
        if study.trials > 1
        else "Each method has its published or usual setting."
    )
    return [
        f"All networks: {study.epochs} epochs of steps of {study.batch_size} examples, AdamW from "
        f"{study.learning_rate:g} to 0 along a cosine. Within a seed: the same starting weights, data order, teacher.",
        f"{chosen} Weights are beside a label weight of 1, or of 0.1 (kd, logit-mse, hard-labels, standardized-kd, "
        "jsd, reverse-kl, mlkd, ctkd, three-teachers, born-again, assistant). The papers of logit-mse, jsd and "
        "reverse-kl have no labels, that of hard-labels half and half: here they weigh 0.1 and 0.9, as beside kd.",
        "assistant, born-again and mutual train two, three and two networks, each for as long as the others' one. "
        "three-teachers adds the teachers of the next two seeds. function-matching and unlabelled see no label.",
        "The ensemble has three networks, and three times the cost.",
    ]
