"""The arms of the study of channels, and the run from cells to study.json."""

import dataclasses
import functools

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, conclude, latencies, require_datasets, require_training
from experiments.structured import report
from experiments.structured.cell import train
from experiments.structured.config import Shrinking, Structured

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


def check(study: Structured) -> None:
    """Raises ValueError for options that cannot work."""
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


def run(study: Structured, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet and writes study.json and the report; returns what to print."""
    work = functools.partial(train, study.surroundings)
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
        name: runner.study_dir / members[0].folder / f"{kind}.keras"
        for kind, cells in (("teacher", whole), ("student", small))
        for name, members in cells.items()
        if kind == "teacher" or ("-distilled-" in name and "scratch" not in name)
    }
    latency_ms = runner.pool.submit(latencies, files).result()
    conclude(
        runner.study_dir,
        [(_arm(members[0]), members) for members in (whole | small).values()],
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
    return report.write(runner.study_dir)


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
