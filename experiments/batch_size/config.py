"""Settings."""

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
        out: the run directories, the report and the lock go to OUT/batch_size (OUT/batch_size-smoke with --smoke).
        smoke: change the defaults so that everything takes seconds, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on. With fewer than 9 not all differences can be shown.
        dataset: mnist5k, digits, or another image set of tfds that lies on this machine.
        sizes: examples a step, ascending.
        reference: the size that the others are compared with, and from which the learning rate is scaled.
        epochs: passes over the training split, the same for every size.
        learning_rate: of Adam at the start, at the reference size; it falls to 0 along a cosine.
        scaling: how the scaled rate follows the size: with its square root, or with the size itself.
        target: accuracy on dev that is waited for; another one is looked up in the cells that are there.
        temperature: of the soft targets.
        student_loss_weight: weight of the labels beside the soft targets.
        rounds: timed runs of each size, of 8 steps.
        teacher: the large network; it trains at the reference size.
        student: the small network.
        surroundings: where data lie, and where numbers go besides the run directories.
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
    rounds: int = 20
    teacher: Network = Network(filters=(16, 32), units=64, dropout=0.4)
    student: Network = Network(filters=(4, 8), units=16)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = BatchSize(smoke=True, seeds=1, dataset="digits", sizes=(16, 64), epochs=2, target=0.3, rounds=2)
