"""The options of the study of methods, and the config of its cells."""

import dataclasses
import os
from pathlib import Path

import tyro

from distill.studies import Surroundings
from experiments._networks import Network

ENSEMBLE = "ensemble"  # method of a cell whose network is the mean of born-again networks
GENERATIONS = 3


@dataclasses.dataclass(frozen=True)
class Learning:
    """Everything that a cell's result depends on, except its seed.

    A digest of these values is part of the cell's directory name, so a new or renamed field makes finished runs void.

    Attributes:
        dataset: name of a data set for `distill.data.load`.
        network: network to train.
        epochs: number of passes over the training split, for each network.
        batch_size: examples per step.
        learning_rate: AdamW's learning rate at the start; it falls to 0 along a cosine.
        method: name of a method of `experiments.methods.study`, "teacher", or `ENSEMBLE`.
        setting: value of the method's setting.
        teachers: names of the teachers' cells; agreement is measured with the first.
        assistant: network between teacher and student, for the method of that name.
        generations: name of the cell whose networks an ensemble consists of.
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
        out: folder for results; this study writes to OUT/methods, or OUT/methods-smoke with --smoke.
        smoke: check that everything runs, in a minute or two; this changes the defaults of the other options.
        jobs: number of cells to run at a time, each in a process with its share of the cores.
        seeds: number of seeds, counted from 0.
        trials: number of settings that each method may try on dev, at most three; with 1 it uses its published or usual
            one.
        datasets: mnist1d, mnist5k, digits, or other data sets of TensorFlow Datasets that are on this machine.
        methods: names of methods, to which the baselines are added; by default all methods.
        epochs: number of passes over the training split, the same for every method and network.
        batch_size: examples per step.
        learning_rate: AdamW's learning rate at the start, the same for every method; it falls to 0 along a cosine.
        teacher: the large network.
        assistant: the network between teacher and student.
        student: the small network.
        surroundings: where data sets are, and where metrics go besides the run directories.
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
