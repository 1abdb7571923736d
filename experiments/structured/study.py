"""How small can a network be made by taking channels out, and what decides how good it then is?

A CNN learns 3,000 digits (mnist5k) and 4,000 series (mnist1d). Channels are then taken out until a given share of its
multiply-adds is gone. What is asked of the small networks, all of one size: does it matter which channels go, should
what is left learn from the labels or from the whole network, and is any of this better than the honest baselines, the
same small network from new weights, alone or distilled? All small networks are trained for as long. Test is read once.

The rates of small networks were chosen on dev by hand, of four for each start, at 80 % (seeds 1000 and 1001), the same
for both sets. No other setting was tuned.

Command: scripts/study structured. 8 seeds, 592 cells, 90 minutes on two cores with other work beside it.
Found, at 80 %: on mnist1d labels recover more than the whole network as the teacher does (1.11 ± 0.64 points, Holm's
    p = .047; on mnist5k 0.39 ± 0.31, p = .078). That large networks, or these channels, are the better start is not
    shown. Criteria differ before the training and hardly after it.
"""

import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import RenderableType

from experiments import structured_report
from experiments.runner import Cell, Runner
from experiments.settings import Network, Surroundings
from experiments.study import Arm, command, conclude, require_datasets, require_training

# In the order of the tables.
METHODS = {
    "distilled": "Channels of small weights (l2) go; what is left learns from the whole network.",
    "fine-tuned": "The same channels go; what is left learns from the labels.",
    "scratch-distilled": "The same small network from new weights, with the whole one as its teacher.",
    "scratch": "The same small network from new weights, on the labels.",
    "random": "As distilled, of channels drawn at random.",
    "fpgm": "As distilled, of channels nearest to the others (FPGM).",
    "taylor": "As distilled, of channels without which the loss changes least, to first order (squared gradients).",
    "obd": "As distilled, of channels without which the loss changes least, by its curvature (Optimal Brain Damage).",
    "activation": "As distilled, of channels that are least active.",
}


@dataclasses.dataclass(frozen=True)
class Shrinking:
    """All that a cell's result depends on but its seed.

    Attributes:
        dataset: a name for `distill.data.load`.
        network: the whole network.
        epochs: passes over the training split, of the whole network and of the small ones.
        batch_size: examples a step.
        learning_rate: of AdamW at the start; it falls to 0 along a cosine.
        method: one of `METHODS`, or "whole".
        removed: share of the multiply-adds that is gone.
        whole: the cell of the whole network.
        temperature: of the soft targets; 0 where there are none.
        student_loss_weight: of the labels beside them.
    """

    dataset: str
    network: Network
    epochs: int
    batch_size: int
    learning_rate: float
    method: str
    removed: float = 0.0
    whole: str | None = None
    temperature: float = 0.0
    student_loss_weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class Structured:
    """Compares ways to take channels out, and small networks that were never large.

    Attributes:
        out: the run directories, the report and the lock go to OUT/structured (OUT/structured-smoke with --smoke).
        smoke: change the defaults so that everything takes a minute or two, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on.
        datasets: mnist1d, mnist5k, digits, or other sets of tfds that lie on this machine.
        removed: shares of the multiply-adds that go, ascending.
        judged: the share at which methods are compared by test, one of the others.
        epochs: passes over the training split, of the whole network and then of the small ones.
        batch_size: examples a step.
        learning_rate: of AdamW at the start, of the whole network; it falls to 0 along a cosine.
        further_rate: the same of small networks that start from its weights.
        scratch_rate: the same of small networks that start from new ones.
        temperature: of the soft targets.
        student_loss_weight: of the labels beside them.
        network: the whole network.
        surroundings: where data lie, and where numbers go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 8
    datasets: tuple[str, ...] = ("mnist5k", "mnist1d")
    removed: tuple[float, ...] = (0.3, 0.6, 0.8, 0.9)
    judged: float = 0.8
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 4e-3
    further_rate: float = 4e-3
    scratch_rate: float = 8e-3
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    network: Network = Network(filters=(16, 32), units=64, dropout=0.2)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Structured(smoke=True, seeds=2, datasets=("digits",), removed=(0.5, 0.8), epochs=1)


def main(arguments: Sequence[str]) -> int:
    """Runs what is not finished yet, writes the report and prints the table."""
    return command(
        "structured",
        arguments,
        default=Structured(),
        smoke=SMOKE,
        prog="scripts/study structured",
        description=__doc__,
        check=_check,
        work=functools.partial(_study, shlex.join(["scripts/study", "structured", *arguments])),
    )


def _check(study: Structured) -> None:
    require_training(study, "learning_rate", "further_rate", "scratch_rate")
    require_datasets(study.datasets)
    shares = study.removed
    if not shares or list(shares) != sorted(set(shares)) or not all(0 < share < 1 for share in shares):
        raise ValueError(f"Shares that go lie between 0 and 1, ascending. Received: --removed {shares}.")
    if study.judged not in shares:
        raise ValueError(
            f"Methods are judged at one of the shares. Received: --judged {study.judged:g} of {shares}."
        )


def whole_cell(study: Structured, dataset: str, seed: int) -> Cell:
    """The whole network of one seed."""
    config = Shrinking(dataset, study.network, study.epochs, study.batch_size, study.learning_rate, "whole")
    return Cell("structured", f"{dataset}-whole", seed, config)


def small_cell(study: Structured, dataset: str, method: str, removed: float, seed: int) -> Cell:
    """One small network after its training."""
    whole = whole_cell(study, dataset, seed)
    distilled = method not in ("fine-tuned", "scratch")
    config = dataclasses.replace(
        whole.config,
        learning_rate=study.scratch_rate if method.startswith("scratch") else study.further_rate,
        method=method,
        removed=removed,
        whole=whole.name,
        temperature=study.temperature if distilled else 0.0,
        student_loss_weight=study.student_loss_weight if distilled else 0.0,
    )
    return Cell("structured", arm_name(dataset, method, removed), seed, config)


def arm_name(dataset: str, method: str, removed: float) -> str:
    """Such as "mnist5k-distilled-80"."""
    return f"{dataset}-{method}-{100 * removed:g}"


def _study(typed: str, study: Structured, runner: Runner) -> Sequence[RenderableType]:
    work = functools.partial(_work, study.surroundings)
    seeds = range(study.seeds)
    whole = {
        f"{dataset}-whole": [whole_cell(study, dataset, seed) for seed in seeds] for dataset in study.datasets
    }
    runner.run([cell for members in whole.values() for cell in members], work, "whole networks")
    grid = [
        (dataset, method, share)
        for dataset in study.datasets
        for share in study.removed
        for method in METHODS
    ]
    small = {arm_name(*one): [small_cell(study, *one, seed) for seed in seeds] for one in grid}
    # Seed by seed, so that what a stopped study has is paired.
    runner.run([members[seed] for seed in seeds for members in small.values()], work, "small networks")
    runner.console.print("timing one example on one thread, all networks in turn")
    files = {
        name: runner.study_dir / "cells" / members[0].name / f"{kind}.keras"
        for kind, cells in (("teacher", whole), ("student", small))
        for name, members in cells.items()
        if kind == "teacher" or ("-distilled-" in name and "scratch" not in name)
    }
    latency_ms = runner.pool.submit(_latencies, files).result()
    conclude(
        runner.study_dir,
        [
            (_arm(members[0]), [Path("cells") / cell.name for cell in members])
            for members in (whole | small).values()
        ],
        study="structured",
        title="How small a network can be made",
        question="Which channels should go, how does what is left recover, and is it better than a network that was "
        "never large?",
        command=typed,
        smoke=study.smoke,
        notes=_notes(study),
        comparisons=[
            (arm_name(dataset, baseline, study.judged), arm_name(dataset, "distilled", study.judged))
            for dataset in study.datasets
            for baseline in ("random", "fine-tuned", "scratch-distilled")
        ],
        tuning=[],
        latency_ms=latency_ms,
    )
    return structured_report.write(runner.study_dir)


def _work(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    # TensorFlow is for the processes that train: --help answers at once
    from experiments import structured_training

    return structured_training.run(surroundings, cell, directory)


def _latencies(files: dict[str, Path]) -> dict[str, dict[str, float]]:
    from experiments import cells  # as in `_work`

    return cells.latencies(files)


def _arm(cell: Cell) -> Arm:
    config: Shrinking = cell.config
    if config.method == "whole":
        return Arm(cell.arm, config.dataset, "whole", "The whole network, on the labels.")
    label = f"{config.method}, {100 * config.removed:g} % of the MACs gone"
    return Arm(cell.arm, config.dataset, label, METHODS[config.method])


def _notes(study: Structured) -> list[str]:
    return [
        f"All networks have {study.epochs} epochs of steps of {study.batch_size} examples, AdamW from "
        f"{study.learning_rate:g} to 0 along a cosine, small ones from {study.further_rate:g} where they start from "
        "the whole network's weights, which have thus had twice the steps, and from "
        f"{study.scratch_rate:g} where weights are new. Within a seed: the same whole network and data order.",
        "Each group of channels gives the same share, so that all small networks of a level have the same widths.",
        f"Distilled: T = {study.temperature:g}, label weight {study.student_loss_weight:g}.",
        "Latency is of one network of each level, through LiteRT on one thread.",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
