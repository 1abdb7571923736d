"""How many weights of a CNN can go, and what decides it: when to prune, what to keep, or how to recover?

A CNN learns 3,000 digits (mnist5k). From 50 to 98 % of its weights are then set to zero, by magnitude over all layers:
at once, or little by little; recovering on the labels, or with the unpruned network as the teacher; going on from the
trained weights, or from those after the first epoch (the lottery ticket, rewound). Zeros at random places are the
baseline for where, and the unpruned network trained for as long is the one for how long. Test is read once.

Command: scripts/study sparsity. 8 seeds, 256 cells, 42 minutes on two cores.
Expected, accuracy on test: 98.0 % unpruned; at 95 % zeros one-shot 97.1, gradual 97.1, lottery 97.4, distilled 96.7,
    random 43; at 98 % 90.5, 93.2, 93.3, 92.3, 12. With --scope layer, where every kernel is as sparse as the others and
    the first layer keeps 7 of its 144 weights, when and how matter more: at 95 % one-shot 53.6, gradual 71.9, distilled
    72.8, lottery 58.4, random 30.2.
"""

import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import RenderableType

from experiments import sparsity_report
from experiments.runner import Cell, Runner
from experiments.settings import Network, Surroundings
from experiments.study import Arm, command, conclude, require_training

Scope = Literal["layer", "global"]

# In the order of the tables.
METHODS = {
    "one-shot": "Pruned at once by magnitude, then trained on.",
    "gradual": "Pruned by magnitude little by little, in the first two thirds of the further training.",
    "distilled": "As gradual, with the unpruned network as the teacher.",
    "lottery": "Pruned at once by magnitude, rewound to the first epoch's end, trained from there.",
    "random": "As one-shot, with zeros at random places.",
}


@dataclasses.dataclass(frozen=True)
class Pruning:
    """All that a cell's result depends on but its seed.

    Attributes:
        dataset: a name for `distill.data.load`.
        network: what is trained and pruned.
        epochs: passes over the training split before pruning.
        batch_size: examples a step.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        method: one of `METHODS`, "dense" for the unpruned network, or "longer" for that trained on.
        sparsity: share of the kernels' weights that is zero in the end.
        scope: where weights compete, as for `distill.pruning.prune`.
        dense: the cell of the unpruned network.
        further_epochs: passes after pruning began.
        further_rate: of Adam at the start of them; it falls to 0 along a cosine.
        temperature: of the soft targets.
        student_loss_weight: of the labels beside them.
    """

    dataset: str
    network: Network
    epochs: int
    batch_size: int
    learning_rate: float
    method: str
    sparsity: float = 0.0
    scope: Scope = "global"
    dense: str | None = None
    further_epochs: int = 0
    further_rate: float = 0.0
    temperature: float = 0.0
    student_loss_weight: float = 0.0

    @property
    def ramp_epochs(self) -> int:
        """Epochs after which gradual pruning has reached its sparsity."""
        return 2 * self.further_epochs // 3


@dataclasses.dataclass(frozen=True)
class Sparsities:
    """Compares ways to prune single weights, at several sparsities.

    Attributes:
        out: the run directories, the report and the lock go to OUT/sparsity (OUT/sparsity-smoke with --smoke).
        smoke: change the defaults so that everything takes a minute or two, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on.
        dataset: mnist1d, mnist5k, digits, or another set of tfds that lies on this machine.
        sparsities: shares of zeros, ascending.
        scope: where weights compete: all together, or those of each kernel for themselves.
        judged: the sparsity at which methods are compared by test, one of the others.
        epochs: passes over the training split before pruning.
        further_epochs: passes after pruning began; a rewound network makes all but one of `epochs` instead.
        batch_size: examples a step.
        learning_rate: of Adam at the start, before pruning; it falls to 0 along a cosine.
        further_rate: of Adam at the start of the further training.
        temperature: of the soft targets.
        student_loss_weight: of the labels beside them.
        network: what is trained and pruned.
        surroundings: where data lie, and where numbers go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 8
    dataset: str = "mnist5k"
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    scope: Scope = "global"
    judged: float = 0.95
    epochs: int = 30
    further_epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 6e-3
    further_rate: float = 2e-3
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    network: Network = Network(filters=(16, 32), units=64, dropout=0.4)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Sparsities(
    smoke=True, seeds=2, dataset="digits", sparsities=(0.5, 0.9), judged=0.9, epochs=2, further_epochs=3
)


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table."""
    return command(
        "sparsity",
        arguments,
        default=Sparsities(),
        smoke=SMOKE,
        prog="scripts/study sparsity",
        description=__doc__,
        check=_check,
        work=functools.partial(_study, shlex.join(["scripts/study", "sparsity", *arguments])),
    )


def _check(study: Sparsities) -> None:
    require_training(study, "learning_rate", "further_rate")
    levels = study.sparsities
    if not levels or list(levels) != sorted(set(levels)) or not all(0 < level < 1 for level in levels):
        raise ValueError(f"Sparsities are shares of zeros between 0 and 1, ascending. Received: {levels}.")
    if study.judged not in levels:
        raise ValueError(
            f"Methods are judged at one of the sparsities. Received: --judged {study.judged:g} of {levels}."
        )
    if study.epochs < 2 or study.further_epochs < 3:
        raise ValueError(
            "Rewinding needs two epochs, and pruning little by little three. Received: "
            f"--epochs {study.epochs}, --further-epochs {study.further_epochs}."
        )


def dense_cell(study: Sparsities, seed: int) -> Cell:
    """The unpruned network of one seed."""
    config = Pruning(
        study.dataset, study.network, study.epochs, study.batch_size, study.learning_rate, "dense"
    )
    return Cell("sparsity", "dense", seed, config)


def pruned_cell(study: Sparsities, method: str, sparsity: float, seed: int) -> Cell:
    """One network after its further training."""
    dense = dense_cell(study, seed)
    distilled = method == "distilled"
    config = dataclasses.replace(
        dense.config,
        method=method,
        sparsity=sparsity,
        scope=study.scope,
        dense=dense.name,
        further_epochs=study.further_epochs,
        further_rate=study.further_rate,
        temperature=study.temperature if distilled else 0.0,
        student_loss_weight=study.student_loss_weight if distilled else 0.0,
    )
    return Cell("sparsity", arm_name(method, sparsity), seed, config)


def arm_name(method: str, sparsity: float) -> str:
    """Such as "gradual-95"; of unpruned networks the method alone."""
    return f"{method}-{100 * sparsity:g}" if sparsity else method


def _study(typed: str, study: Sparsities, runner: Runner) -> Sequence[RenderableType]:
    seeds = range(study.seeds)
    dense = [dense_cell(study, seed) for seed in seeds]
    _run(study, runner, "unpruned networks", dense)
    grid = [("longer", 0.0), *((method, level) for level in study.sparsities for method in METHODS)]
    cells = {pair: [pruned_cell(study, *pair, seed) for seed in seeds] for pair in grid}
    # Seed by seed, so that what a stopped study has is paired.
    _run(study, runner, "pruned networks", [cells[pair][seed] for seed in seeds for pair in grid])
    cells = {("dense", 0.0): dense, **cells}
    conclude(
        runner.study_dir,
        [
            (_arm(method, sparsity), [Path("cells") / cell.name for cell in members])
            for (method, sparsity), members in cells.items()
        ],
        study="sparsity",
        title="How many weights can go",
        question="What decides how much a pruned network loses: when, where, or how it recovers?",
        command=typed,
        smoke=study.smoke,
        notes=_notes(study),
        comparisons=[
            (arm_name(baseline, study.judged), arm_name(method, study.judged))
            for baseline, method in (
                ("random", "one-shot"),
                ("one-shot", "gradual"),
                ("one-shot", "lottery"),
                ("gradual", "distilled"),
            )
        ],
        tuning=[],
        latency_ms={},
    )
    return sparsity_report.write(runner.study_dir)


def _run(study: Sparsities, runner: Runner, label: str, cells: Iterable[Cell]) -> list[Path]:
    work = functools.partial(_work, study.surroundings)
    return runner.run(list(cells), work, label)


def _work(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    # TensorFlow is for the processes that train: --help answers at once.
    from experiments import sparsity_training

    return sparsity_training.run(surroundings, cell, directory)


def _arm(method: str, sparsity: float) -> Arm:
    descriptions = {
        "dense": "The network, unpruned.",
        "longer": "The same, trained on for as long as the pruned.",
    }
    group = f"{100 * sparsity:g} % zeros" if sparsity else "no zeros"
    return Arm(arm_name(method, sparsity), group, method, METHODS.get(method) or descriptions[method])


def _notes(study: Sparsities) -> list[str]:
    return [
        f"All networks first have {study.epochs} epochs of steps of {study.batch_size} examples, Adam from "
        f"{study.learning_rate:g} to 0 along a cosine, then {study.further_epochs} from {study.further_rate:g} to 0. "
        f"Lottery tickets have {study.epochs - 1} epochs from the first one's end in place of the latter, which is "
        "more. Within a seed: the same unpruned network and data order.",
        f"Sparsity is of {'all kernels together' if study.scope == 'global' else 'each kernel'}; biases are left. "
        "Masks that move do so once an epoch, up to "
        f"{2 * study.further_epochs // 3} epochs after pruning began; epochs before are not selected on dev.",
        f"Distilled: T = {study.temperature:g}, label weight {study.student_loss_weight:g}. No setting was tuned.",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
