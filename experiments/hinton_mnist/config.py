"""The options of the repetition, and the config of its cells."""

import dataclasses
from pathlib import Path

import tyro

from distill.studies import Surroundings

# Origins of the bias of the digit that is left out.
TRAINED, ON_DEV, ON_TEST = "as trained", "bias by dev", "bias by test"


@dataclasses.dataclass(frozen=True)
class Learner:
    """A network of two dense layers, and how it is trained.

    Attributes:
        units: width of both layers.
        epochs: number of passes over the training images.
        learning_rate: Adam's learning rate at the start; it falls to 0 along a cosine.
        dropout: share of each layer's units that is dropped, in training only.
        jitter: largest shift of a training image in each direction, in pixels.
    """

    units: int
    epochs: int
    learning_rate: float
    dropout: float = 0.0
    jitter: int = 0


@dataclasses.dataclass(frozen=True)
class Training:
    """Everything that a cell's result depends on, except its seed.

    A digest of these values is part of the cell's directory name, so a new or renamed field makes finished runs void.

    Attributes:
        dataset: name of a data set for `distill.data.load`.
        learner: network to train, and how.
        batch_size: examples per step.
        teacher: name of the teacher's cell; `None` to train on labels alone.
        temperature: temperature of the soft targets.
        student_loss_weight: weight of the labels next to soft targets.
        omitted: digit that is left out of the training and may get another bias; `None` for none.
    """

    dataset: str
    learner: Learner
    batch_size: int
    teacher: str | None = None
    temperature: float = 20.0
    student_loss_weight: float = 0.1
    omitted: int | None = None


@dataclasses.dataclass(frozen=True)
class Hinton:
    """Repeats the MNIST experiments of Hinton et al. 2015.

    Attributes:
        out: folder for results; this study writes to OUT/hinton_mnist, or OUT/hinton_mnist-smoke with --smoke.
        smoke: check that everything runs, in seconds and without files; this changes the defaults of the other options.
        jobs: number of cells to run at a time, each in a process with its share of the cores.
        seeds: number of seeds, counted from 0.
        dataset: mnist, or another data set with images of the ten digits that is on this machine.
        batch_size: examples per step.
        temperature: temperature of the soft targets; the default is the paper's.
        student_loss_weight: weight of the labels next to the soft targets, from 0 to 1.
        omitted: digit that is left out.
        teacher: the large network.
        student: the small network, the same in every arm.
        surroundings: where data sets are, and where metrics go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = 2
    seeds: int = 2
    dataset: str = "mnist"
    batch_size: int = 256
    temperature: float = 20.0
    student_loss_weight: float = 0.1
    omitted: int = 3
    teacher: Learner = Learner(1200, epochs=60, learning_rate=1e-3, dropout=0.3, jitter=2)
    student: Learner = Learner(800, epochs=40, learning_rate=2.5e-3)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Hinton(
    smoke=True,
    seeds=1,
    dataset="mnist5k",
    batch_size=64,
    teacher=Learner(64, epochs=2, learning_rate=5e-3, dropout=0.1, jitter=2),
    student=Learner(32, epochs=2, learning_rate=5e-3),
)
