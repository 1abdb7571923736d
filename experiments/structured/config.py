"""Settings."""

import dataclasses
import os
from pathlib import Path

import tyro

from distill.studies import Surroundings
from experiments._networks import Network


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
