"""The arms of the study of channels, and the run from cells to report."""

import dataclasses
import functools

from rich.console import RenderableType

from distill.studies import (
    Arm,
    Cell,
    Runner,
    conclude,
    latencies,
    require,
    require_datasets,
    require_training,
)
from experiments.structured import report
from experiments.structured.cell import train
from experiments.structured.config import Shrinking, Structured

# In the order of the tables.
METHODS = {
    "distilled": "Channels with small weights (l2) are removed; the rest learns from the whole network.",
    "fine-tuned": "The same channels are removed; the rest learns from the labels.",
    "scratch-distilled": "The same small network with new weights, which learns from the whole network.",
    "scratch": "The same small network with new weights, which learns from the labels.",
    "random": "Like distilled, but random channels are removed.",
    "fpgm": "Like distilled, but the channels that are closest to the others are removed (FPGM).",
    "taylor": "Like distilled, but the channels are removed that change the loss least, to first order (squared "
    "gradients).",
    "obd": "Like distilled, but the channels are removed that change the loss least, by its curvature (Optimal Brain "
    "Damage).",
    "activation": "Like distilled, but the least active channels are removed.",
}
BASELINES = ("random", "fine-tuned", "scratch-distilled")


def check(options: Structured) -> None:
    """Raises ValueError for options that cannot work."""
    require_training(options, "learning_rate", "further_rate", "scratch_rate")
    require_datasets(options.datasets)
    shares = options.removed
    shown = " ".join(f"{share:g}" for share in shares)
    ascending = bool(shares) and list(shares) == sorted(set(shares))
    require(
        (
            ascending and all(0 < share < 1 for share in shares),
            "--removed must be shares between 0 and 1, ascending",
            f"--removed {shown}",
        ),
        (
            options.judged in shares,
            "--judged must be one of --removed",
            f"--judged {options.judged:g} and --removed {shown}",
        ),
    )


def arm_name(dataset: str, method: str, removed: float) -> str:
    """The name of an arm, such as "mnist5k-distilled-80"."""
    return f"{dataset}-{method}-{100 * removed:g}"


def whole_cell(options: Structured, dataset: str, seed: int) -> Cell:
    """The whole network of one seed."""
    config = Shrinking(
        dataset=dataset,
        network=options.network,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        method="whole",
    )
    return Cell(study="structured", arm=f"{dataset}-whole", seed=seed, config=config)


def small_cell(options: Structured, dataset: str, method: str, removed: float, seed: int) -> Cell:
    """One small network after its training."""
    whole = whole_cell(options, dataset, seed)
    distilled = method not in ("fine-tuned", "scratch")
    config = dataclasses.replace(
        whole.config,
        learning_rate=options.scratch_rate if method.startswith("scratch") else options.further_rate,
        method=method,
        removed=removed,
        whole=whole.name,
        temperature=options.temperature if distilled else 0.0,
        student_loss_weight=options.student_loss_weight if distilled else 0.0,
    )
    return Cell(study="structured", arm=arm_name(dataset, method, removed), seed=seed, config=config)


def run(options: Structured, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet, and writes study.json and the report; returns what to print."""
    work = functools.partial(train, surroundings=options.surroundings)
    seeds = range(options.seeds)
    whole = {
        f"{dataset}-whole": [whole_cell(options, dataset, seed) for seed in seeds]
        for dataset in options.datasets
    }
    runner.run([cell for own in whole.values() for cell in own], work, label="whole networks")
    grid = [
        (dataset, method, share)
        for dataset in options.datasets
        for share in options.removed
        for method in METHODS
    ]
    small = {arm_name(*one): [small_cell(options, *one, seed) for seed in seeds] for one in grid}
    # Seed by seed, so that a study that is stopped has complete pairs.
    runner.run([own[seed] for seed in seeds for own in small.values()], work, label="small networks")
    runner.console.print("timing one example on one thread, all networks in turns")
    files = {name: runner.study_dir / own[0].folder / "teacher.keras" for name, own in whole.items()}
    for dataset in options.datasets:
        for share in options.removed:
            name = arm_name(dataset, "distilled", share)
            files[name] = runner.study_dir / small[name][0].folder / "student.keras"
    latency_ms = runner.pool.submit(latencies, files).result()
    conclude(
        runner.study_dir,
        [(_arm(own[0]), own) for own in (whole | small).values()],
        study="structured",
        title="How small a network can be made",
        question="Which channels should be removed, how should the rest recover, and is it better than a network that "
        "was small from the start?",
        command=typed,
        smoke=options.smoke,
        notes=_notes(options),
        comparisons=[
            (arm_name(dataset, baseline, options.judged), arm_name(dataset, "distilled", options.judged))
            for dataset in options.datasets
            for baseline in BASELINES
        ],
        latency_ms=latency_ms,
    )
    return report.write(runner.study_dir)


def _arm(cell: Cell) -> Arm:
    config: Shrinking = cell.config
    if config.method == "whole":
        label, description = "whole", "The whole network, trained on the labels."
    else:
        label = f"{config.method}, {100 * config.removed:g}% of the MACs removed"
        description = METHODS[config.method]
    return Arm(cell.arm, group=config.dataset, label=label, description=description)


def _notes(options: Structured) -> list[str]:
    return [
        f"All networks train for {options.epochs} epochs with batches of {options.batch_size}. AdamW's learning rate "
        f"falls to 0 along a cosine, from {options.learning_rate:g} for whole networks, from "
        f"{options.further_rate:g} for small networks that start from a whole network's weights, which are thus "
        f"trained for twice as many steps, and from {options.scratch_rate:g} for small networks with new weights. "
        "With the same seed, all start from the same whole network and have the same data order.",
        "Each group of channels loses the same share, so all small networks of one share have the same widths.",
        f"Distilled: T = {options.temperature:g}, label weight {options.student_loss_weight:g}.",
        "Latency was measured on one network of each size, in LiteRT on one thread.",
    ]
