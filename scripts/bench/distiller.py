"""What does distillation cost beyond what it must cost, a pass of the teacher and a step of the student?

Several ways of training a pair of networks take turns in random order, each for an epoch of a few batches; every round
gives a ratio of two times. A goal is met if the median meets it. It is missed if even the quartile nearest to the goal
lies beyond it. In between, the machine is too noisy to tell.

- "epochs": our Distiller live, with the teacher that `training.faster_teacher` chooses, and with cached answers;
  keras.distillation with its loss repaired; the recipe of keras.io as a hand-written `train_step`; the student's own
  `fit`; a bare compiled pass of the teacher; `evaluate`. The networks are dense, residual on 32 × 32, encoders of text,
  and ResNet50 with MobileNetV2 on 96 × 96. All train on noise, so nothing is learned.
- "teachers": a bare pass of the teacher that `training.faster_teacher` chooses, of one with its weights as constants
  and of one under XLA, each against a pass of the teacher as it is.
- "torch": the same in plain PyTorch, if `scripts/test-backends` or `scripts/bench/structured` has installed it.
- "scaling": dense networks by width of the teacher, batch size and number of classes.
- "memory": how much a process grows in training, beyond what the models and TensorFlow take.
- "startup": `import distill` against `import keras`; a Distiller's first step against that of the student's fit.
- "kernels": TensorFlow's own kernels against oneDNN's (TF_ENABLE_ONEDNN_OPTS), for the student of `compare`.
- "recording": `cache.record` against a bare compiled loop, and the bytes of the 64 largest of 49,152 logits.

Command: scripts/bench/distiller, on a machine that does nothing else; it took 46 minutes on the two threads of one core
of an AMD EPYC from 2021. --quick runs epochs, startup and recording of small dense networks: 65 seconds there, but its
ratios say little. --only PART chooses parts, --pairs NAME chooses pairs.
Expected: see docs/guides/speed.md. Exit status 1 if a goal is missed.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import distiller_pairs as pairs
import numpy as np
import rich.box
import tyro
from distiller_parts import PARTS
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Bench:
    """Times distillation.

    Attributes:
        only: parts to run, from epochs, teachers, torch, scaling, memory, startup, kernels and recording; by default
            all, or with --quick epochs, startup and recording.
        pairs: pairs to train, from MLP, ResNet, transformer and, except with --quick, ImageNet; by default all, or
            with --quick MLP.
        rounds: number of timed rounds.
        quick: use smaller networks and three rounds.
        clock: "cpu" counts the CPU seconds of this process's threads and not what it waits for; other programs on the
            machine disturb it less.
        plot: file for a picture of the ratios that have goals, such as speed.svg.
    """

    only: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    rounds: int = 9
    quick: bool = False
    clock: Literal["wall", "cpu"] = "wall"
    plot: Path | None = None

    @property
    def chosen(self):
        """The pairs by name."""
        known = pairs.QUICK if self.quick else pairs.PAIRS
        names = self.pairs or (("MLP",) if self.quick else tuple(known))
        return {name: pair for name, pair in known.items() if name in names}

    @property
    def parts(self):
        """The names of the parts."""
        return self.only or (("epochs", "startup", "recording") if self.quick else tuple(PARTS))


def draw(lines, path):
    """Draws the ratios that have goals."""
    from matplotlib import pyplot

    shown = [line for line in lines if line.goal and np.isfinite(line.ratios).all()][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.3 * len(shown) + 1), layout="constrained")
    colors = {"met": "tab:green", "missed": "tab:red", "not shown": "tab:gray"}
    for row, line in enumerate(shown):
        low, middle, high = line.quartiles
        axes.plot([low, high], [row, row], color=colors[line.verdict])
        axes.plot(middle, row, "o", color=colors[line.verdict])
        axes.plot(float(line.goal.split()[1]), row, "|", color="black", markersize=12)
    axes.set_yticks(range(len(shown)), [f"{line.subject}: {line.over} {line.goal}" for line in shown])
    axes.set_xscale("log")
    axes.set_xlabel("ratio: median and quartiles; a bar marks the goal")
    figure.savefig(path)


def main(options):
    """Prints the table; returns the exit status."""
    options = dataclasses.replace(options, rounds=3) if options.quick else options
    known = pairs.QUICK if options.quick else pairs.PAIRS
    if options.rounds < 1 or not set(options.parts) <= set(PARTS) or not set(options.pairs) <= set(known):
        raise SystemExit(
            f"only must be from {', '.join(PARTS)}, pairs from {', '.join(known)}, and rounds >= 1. "
            f"Received: {options}."
        )
    table = Table("of", "ratio", "median", "quartiles", "goal", "", box=rich.box.MARKDOWN)
    lines = []
    for name in PARTS:
        for line in PARTS[name](options) if name in options.parts else ():
            low, middle, high = line.quartiles
            goal = f"{line.goal} {line.verdict}".strip()
            digits = (f"{middle:.3g}", f"{low:.3g}–{high:.3g}") if np.isfinite(middle) else ("", "")
            table.add_row(line.subject, line.over, *digits, goal, line.note)
            print(
                f"{line.subject}, {line.over}: {middle:.3g} {goal} {line.note}", file=sys.stderr, flush=True
            )
            lines.append(line)
    Console(width=260).print(table)
    if options.plot is not None:
        draw(lines, options.plot)
    return int(any(line.verdict == "missed" for line in lines))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Bench, description=__doc__)))
