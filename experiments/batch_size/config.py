"""The options of the batch-size study; the config of its cells is `experiments.compare.config.Training`."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

import tyro

from distill.studies import Surroundings
from experiments._networks import Network


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """Trains a student with many batch sizes, alone and distilled.

    Attributes:
        out: folder for results; this study writes to OUT/batch_size, or OUT/batch_size-smoke with --smoke.
        smoke: check that everything runs, in seconds; this changes the defaults of the other options.
        jobs: number of cells to run at a time, each in a process with its share of the cores.
        seeds: number of seeds, counted from 0. With fewer than 9, not every difference can be shown.
        dataset: mnist5k, digits, or another image data set of TensorFlow Datasets that is on this machine.
        sizes: batch sizes, ascending.
        reference: batch size that the others are compared with, and from which the learning rate is scaled.
        epochs: number of passes over the training split, the same for every size.
        learning_rate: Adam's learning rate at the start, at the reference size; it falls to 0 along a cosine.
        scaling: growth of the scaled learning rate, with the square root of the batch size or with the size itself.
        target: dev accuracy for the table's "to target" columns; another one is evaluated without training again.
        temperature: temperature of the soft targets.
        student_loss_weight: weight of the labels next to the soft targets.
        runs: number of timed runs of each size, of 8 steps each.
        teacher: the large network; it is trained at the reference size.
        student: the small network.
        surroundings: where data sets are, and where metrics go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 9
    dataset: str = "mnist5k"
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024)
    reference: int = 64
    epochs: int = 30
    learning_rate: float = 6e-3
    scaling: Literal["sqrt", "linear"] = "sqrt"
    target: float = 0.94
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    runs: int = 20
    teacher: Network = Network(filters=(16, 32), units=64, dropout=0.4)
    student: Network = Network(filters=(4, 8), units=16)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = BatchSize(smoke=True, seeds=1, dataset="digits", sizes=(16, 64), epochs=2, target=0.3, runs=2)
