"""The arms of the study of sparsities, and the run from cells to report."""

import dataclasses
import functools

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, conclude, require, require_training
from experiments.sparsity import report
from experiments.sparsity.cell import train
from experiments.sparsity.config import Pruning, Sparsities

# In the order of the tables.
METHODS = {
    "one-shot": "Pruned at once by magnitude, then trained further.",
    "gradual": "Pruned by magnitude step by step, in the first two thirds of the further training.",
    "distilled": "Pruned like gradual, with the unpruned network as the teacher.",
    "lottery": "Pruned at once by magnitude, rewound to the end of the first epoch, and trained from there.",
    "random": "Pruned like one-shot, with zeros at random places.",
}
UNPRUNED = {
    "dense": "The network without pruning.",
    "longer": "The network without pruning, trained for as long as the pruned ones.",
}
# Baseline first.
COMPARISONS = (
    ("random", "one-shot"),
    ("one-shot", "gradual"),
    ("one-shot", "lottery"),
    ("gradual", "distilled"),
)


def check(options: Sparsities) -> None:
    """Raises ValueError for options that cannot work."""
    require_training(options, "learning_rate", "further_rate")
    levels = options.sparsities
    shown = " ".join(f"{level:g}" for level in levels)
    ascending = bool(levels) and list(levels) == sorted(set(levels))
    require(
        (
            ascending and all(0 < level < 1 for level in levels),
            "--sparsities must be shares between 0 and 1, ascending",
            f"--sparsities {shown}",
        ),
        (
            options.judged in levels,
            "--judged must be one of --sparsities",
            f"--judged {options.judged:g} and --sparsities {shown}",
        ),
        (
            options.epochs >= 2,
            "--epochs must be at least 2, since a lottery ticket is rewound to the end of the first",
            f"--epochs {options.epochs}",
        ),
        (
            options.further_epochs >= 3,
            "--further-epochs must be at least 3, two of them to prune step by step",
            f"--further-epochs {options.further_epochs}",
        ),
    )


def arm_name(method: str, sparsity: float) -> str:
    """The name of an arm, such as "gradual-95"; for unpruned networks, the method alone."""
    return f"{method}-{100 * sparsity:g}" if sparsity else method


def dense_cell(options: Sparsities, seed: int) -> Cell:
    """The unpruned network of one seed."""
    config = Pruning(
        dataset=options.dataset,
        network=options.network,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        method="dense",
    )
    return Cell(study="sparsity", arm="dense", seed=seed, config=config)


def further_cell(options: Sparsities, method: str, sparsity: float, seed: int) -> Cell:
    """One network after its further training, pruned or not."""
    dense = dense_cell(options, seed)
    distilled = method == "distilled"
    config = dataclasses.replace(
        dense.config,
        method=method,
        sparsity=sparsity,
        scope=options.scope,
        dense=dense.name,
        further_epochs=options.further_epochs,
        further_rate=options.further_rate,
        temperature=options.temperature if distilled else 0.0,
        student_loss_weight=options.student_loss_weight if distilled else 0.0,
    )
    return Cell(study="sparsity", arm=arm_name(method, sparsity), seed=seed, config=config)


def run(options: Sparsities, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet, and writes study.json and the report; returns what to print."""
    seeds = range(options.seeds)
    work = functools.partial(train, surroundings=options.surroundings)
    dense = [dense_cell(options, seed) for seed in seeds]
    runner.run(dense, work, label="unpruned networks")
    grid = [("longer", 0.0), *((method, level) for level in options.sparsities for method in METHODS)]
    cells = {pair: [further_cell(options, *pair, seed) for seed in seeds] for pair in grid}
    # Seed by seed, so that a study that is stopped has complete pairs.
    runner.run([cells[pair][seed] for seed in seeds for pair in grid], work, label="pruned networks")
    conclude(
        runner.study_dir,
        [(_arm(*pair), own) for pair, own in {("dense", 0.0): dense, **cells}.items()],
        study="sparsity",
        title="How many weights can be removed",
        question="What decides how much accuracy a pruned network loses: when it is pruned, where, or how it recovers?",
        command=typed,
        smoke=options.smoke,
        notes=_notes(options),
        comparisons=[
            (arm_name(baseline, options.judged), arm_name(method, options.judged))
            for baseline, method in COMPARISONS
        ],
    )
    return report.write(runner.study_dir)


def _arm(method: str, sparsity: float) -> Arm:
    group = f"{100 * sparsity:g}% zeros" if sparsity else "no zeros"
    description = (METHODS | UNPRUNED)[method]
    return Arm(arm_name(method, sparsity), group=group, label=method, description=description)


def _notes(options: Sparsities) -> list[str]:
    scope = "over all kernels together" if options.scope == "global" else "within each kernel"
    return [
        f"All networks first train for {options.epochs} epochs with batches of {options.batch_size}; Adam's learning "
        f"rate falls from {options.learning_rate:g} to 0 along a cosine. Then they train for "
        f"{options.further_epochs} epochs more, from {options.further_rate:g} to 0. Lottery tickets instead train "
        f"for {options.epochs - 1} epochs from the end of the first one, which is more. With the same seed, all "
        "start from the same unpruned network and have the same data order.",
        f"Weights compete {scope}; biases are not pruned. Gradual pruning updates its masks once per epoch, in the "
        f"first {2 * options.further_epochs // 3} epochs; earlier epochs cannot be selected on dev.",
        f"Distilled: T = {options.temperature:g}, label weight {options.student_loss_weight:g}. No setting was tuned.",
    ]
