"""The options of the study of channels, and the config of its cells."""

import dataclasses
import os
from pathlib import Path

import tyro

from distill.studies import Surroundings
from experiments._networks import Network


@dataclasses.dataclass(frozen=True)
class Shrinking:
    """Everything that a cell's result depends on, except its seed.

    A digest of these values is part of the cell's directory name, so a new or renamed field makes finished runs void.

    Attributes:
        dataset: name of a data set for `distill.data.load`.
        network: the whole network.
        epochs: number of passes over the training split, for the whole network and for the small ones.
        batch_size: examples per step.
        learning_rate: AdamW's learning rate at the start; it falls to 0 along a cosine.
        method: name of a method of `experiments.structured.study`, or "whole".
        removed: share of the multiply-adds that is removed.
        whole: name of the whole network's cell.
        temperature: temperature of the soft targets; 0 without them.
        student_loss_weight: weight of the labels next to them.
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
    """Compares ways to remove channels, and networks that were small from the start.

    Attributes:
        out: folder for results; this study writes to OUT/structured, or OUT/structured-smoke with --smoke.
        smoke: check that everything runs, in a minute or two; this changes the defaults of the other options.
        jobs: number of cells to run at a time, each in a process with its share of the cores.
        seeds: number of seeds, counted from 0.
        datasets: mnist1d, mnist5k, digits, or other data sets of TensorFlow Datasets that are on this machine.
        removed: shares of the multiply-adds to remove, ascending.
        judged: share at which methods are compared by a test; one of --removed.
        epochs: number of passes over the training split, for the whole network and again for the small ones.
        batch_size: examples per step.
        learning_rate: AdamW's learning rate at the start for the whole network; it falls to 0 along a cosine.
        further_rate: the same for small networks that start from the whole network's weights.
        scratch_rate: the same for small networks that start from new weights.
        temperature: temperature of the soft targets.
        student_loss_weight: weight of the labels next to the soft targets.
        network: the whole network.
        surroundings: where data sets are, and where metrics go besides the run directories.
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
