"""Settings."""

import dataclasses
import os
from pathlib import Path

import tyro

from distill.studies import Surroundings
from experiments._networks import Network

ENSEMBLE = "ensemble"  # the method of cells whose network is the mean of others
GENERATIONS = 3


@dataclasses.dataclass(frozen=True)
class Learning:
    """All that a cell's result depends on but its seed.

    Attributes:
        dataset: a name for `distill.data.load`.
        network: what is trained.
        epochs: passes over the training split, of each network.
        batch_size: examples a step.
        learning_rate: of AdamW at the start; it falls to 0 along a cosine.
        method: the name of a `Method`, or "teacher".
        setting: its knob.
        teachers: cells; the agreement is with the first.
        assistant: the network between teacher and student, for the method of that name.
        generations: the cell whose networks an ensemble is made of.
    """

    dataset: str
    network: Network
    epochs: int
    batch_size: int
    learning_rate: float
    method: str
    setting: float = 0.0
    teachers: tuple[str, ...] = ()
    assistant: Network | None = None
    generations: str | None = None


@dataclasses.dataclass(frozen=True)
class Methods:
    """Compares every method with a student alone, with label smoothing and with plain distillation.

    Attributes:
        out: the run directories, the report and the lock go to OUT/methods (OUT/methods-smoke with --smoke).
        smoke: change the defaults so that everything takes a minute or two, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on.
        trials: settings that each method may try on dev, at most three; 1 takes the published or usual one.
        datasets: mnist1d, mnist5k, digits, or other sets of tfds that lie on this machine.
        methods: names of methods, to which the baselines are added; all if none is given.
        epochs: passes over the training split, the same for every method and network.
        batch_size: examples a step.
        learning_rate: of AdamW at the start, the same for every method; it falls to 0 along a cosine.
        teacher: the large network.
        assistant: the network between.
        student: the small network.
        surroundings: where data lie, and where numbers go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 5
    trials: int = 3
    datasets: tuple[str, ...] = ("mnist1d", "mnist5k")
    methods: tuple[str, ...] = ()
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 4e-3
    teacher: Network = Network(filters=(16, 32), units=64, dropout=0.2)
    assistant: Network = Network(filters=(10, 20), units=40)
    student: Network = Network(filters=(6, 12), units=24)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Methods(smoke=True, seeds=2, trials=1, datasets=("digits",), methods=("born-again",), epochs=1)
