"""Does any published method beat plain distillation, a tuned baseline without a teacher, or nothing at all?

Small CNNs learn 4,000 series (mnist1d) and 3,000 digits (mnist5k) by every method of `distill`, side by side: the
same teachers, starting weights, data order, optimizer and number of steps. What each method has to choose, most
often the weight of its loss, is chosen on dev among three values of its own; for losses with a published weight
these are a tenth of it, the weight itself and ten times it. The test split is read once.

The networks and their learning rate were chosen on dev, by three arms alone (alone, smoothing, kd): so that teachers
train without collapse, and students are neither as good as they nor too small to follow them. Students of 4 and 8
filters lose by any soft targets on mnist1d (82 % against 87 % alone, dev): that is not what this study is about.

Command: scripts/study methods. 5 seeds, 642 cells, in parts, with other work beside it: 11 hours of one core. DKD was
    run again when it had got its warm-up, with the baselines, which came out the same.
Found: two of 28 methods beat the student alone on both sets, three teachers (+1.7 ± 1.7 and +0.6 ± 0.5 points) and an
    ensemble of three students (+4.1 ± 1.9, +0.6 ± 0.3); none but the ensemble beats label smoothing on either. Plain
    distillation: +0.9 ± 2.4 and +0.2 ± 0.2. mnist1d wants more seeds: half an interval is 1 to 4 points there.
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

from experiments import method_report
from experiments.runner import Cell, Runner
from experiments.settings import Network, Surroundings
from experiments.study import Arm, choose, command, conclude, require_datasets, require_training

TUNING_SEEDS = (1000, 1001)  # never those of the comparison
TUNING_TEACHERS = (*TUNING_SEEDS, 1002)  # as many as a method may learn from
ENSEMBLE = "ensemble"
GENERATIONS = 3


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


@dataclasses.dataclass(frozen=True)
class Learning:
    """All that a cell's result depends on but its seed.

    Attributes:
        dataset: a name for `distill.data.load`.
        network: what is trained.
        epochs: passes over the training split, of each network.
        batch_size: examples a step.
        learning_rate: of AdamW at the start; it falls to 0 along a cosine.
        method: the name of a `Method`, or "teacher".
        setting: its knob.
        teachers: cells; the agreement is with the first.
        assistant: the network between teacher and student, for the method of that name.
        generations: the cell whose networks an ensemble is made of.
    """

    dataset: str
    network: Network
    epochs: int
    batch_size: int
    learning_rate: float
    method: str
    setting: float = 0.0
    teachers: tuple[str, ...] = ()
    assistant: Network | None = None
    generations: str | None = None


@dataclasses.dataclass(frozen=True)
class Methods:
    """Compares every method with a student alone, with label smoothing and with plain distillation.

    Attributes:
        out: the run directories, the report and the lock go to OUT/methods (OUT/methods-smoke with --smoke).
        smoke: change the defaults so that everything takes a minute or two, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on.
        trials: settings that each method may try on dev, at most three; 1 takes the published or usual one.
        datasets: mnist1d, mnist5k, digits, or other sets of tfds that lie on this machine.
        methods: names of methods, to which the baselines are added; all if none is given.
        epochs: passes over the training split, the same for every method and network.
        batch_size: examples a step.
        learning_rate: of AdamW at the start, the same for every method; it falls to 0 along a cosine.
        teacher: the large network.
        assistant: the network between.
        student: the small network.
        surroundings: where data lie, and where numbers go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 5
    trials: int = 3
    datasets: tuple[str, ...] = ("mnist1d", "mnist5k")
    methods: tuple[str, ...] = ()
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 4e-3
    teacher: Network = Network(filters=(16, 32), units=64, dropout=0.2)
    assistant: Network = Network(filters=(10, 20), units=40)
    student: Network = Network(filters=(6, 12), units=24)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Methods(smoke=True, seeds=2, trials=1, datasets=("digits",), methods=("born-again",), epochs=1)


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table."""
    return command(
        "methods",
        arguments,
        default=Methods(),
        smoke=SMOKE,
        prog="scripts/study methods",
        description=__doc__,
        check=_check,
        work=functools.partial(_study, shlex.join(["scripts/study", "methods", *arguments])),
    )


def _check(study: Methods) -> None:
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
    names = {*study.methods, *method_report.BASELINES} if study.methods else {m.name for m in METHODS}
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


def _study(typed: str, study: Methods, runner: Runner) -> Sequence[RenderableType]:
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
        (_arm(name, settings.get(name), dataset), [Path("cells") / cell.name for cell in arm_cells])
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
            for baseline in method_report.BASELINES
            if arm.name not in (f"{arm.group}-teacher", f"{arm.group}-{baseline}")
        ],
        tuning=tuning,
        latency_ms={},
    )
    return method_report.write(runner.study_dir)


def _run(study: Methods, runner: Runner, label: str, cells: Iterable[Cell]) -> list[Path]:
    work = functools.partial(_work, study.surroundings)
    return runner.run(list(cells), work, label)


def _work(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    # TensorFlow is for the processes that train: --help answers at once.
    from experiments import method_training

    return method_training.run(surroundings, cell, directory)


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
    tried: dict[str, list[tuple[dict[str, float], list[Path]]]] = {}
    for arm, knob, setting, cells in trials:
        folders = [Path("cells") / cell.name for cell in cells]
        tried.setdefault(arm, []).append(({knob: setting}, folders))
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
