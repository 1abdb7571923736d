"""The arms of the study of sparsities, and the run from cells to study.json."""

import dataclasses
import functools

from rich.console import RenderableType

from distill.studies import Arm, Cell, Runner, conclude, require_training
from experiments.sparsity import report
from experiments.sparsity.cell import train
from experiments.sparsity.config import Pruning, Sparsities

# In the order of the tables.
METHODS = {
    "one-shot": "Pruned at once by magnitude, then trained on.",
    "gradual": "Pruned by magnitude little by little, in the first two thirds of the further training.",
    "distilled": "As gradual, with the unpruned network as the teacher.",
    "lottery": "Pruned at once by magnitude, rewound to the first epoch's end, trained from there.",
    "random": "As one-shot, with zeros at random places.",
}


def check(study: Sparsities) -> None:
    """Raises ValueError for options that cannot work."""
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


def run(study: Sparsities, runner: Runner, typed: str) -> list[RenderableType]:
    """Runs what is not finished yet and writes study.json and the report; returns what to print."""
    seeds = range(study.seeds)
    work = functools.partial(train, study.surroundings)
    dense = [dense_cell(study, seed) for seed in seeds]
    runner.run(dense, work, "unpruned networks")
    grid = [("longer", 0.0), *((method, level) for level in study.sparsities for method in METHODS)]
    cells = {pair: [pruned_cell(study, *pair, seed) for seed in seeds] for pair in grid}
    # Seed by seed, so that what a stopped study has is paired.
    runner.run([cells[pair][seed] for seed in seeds for pair in grid], work, "pruned networks")
    conclude(
        runner.study_dir,
        [(_arm(*pair), members) for pair, members in {("dense", 0.0): dense, **cells}.items()],
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
    return report.write(runner.study_dir)


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
