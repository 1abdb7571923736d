"""Settings."""

import dataclasses
from pathlib import Path

import tyro

from distill.studies import Surroundings

# Where the bias of the digit that was left out comes from.
TRAINED, ON_DEV, ON_TEST = "as trained", "bias by dev", "bias by test"


@dataclasses.dataclass(frozen=True)
class Learner:
    """A network of two dense layers, and how it is trained.

    Attributes:
        units: width of both layers.
        epochs: passes over the training images.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        dropout: share of each layer's units dropped, in training only.
        jitter: pixels by which a training image is shifted at most, in each direction.
    """

    units: int
    epochs: int
    learning_rate: float
    dropout: float = 0.0
    jitter: int = 0


@dataclasses.dataclass(frozen=True)
class Training:
    """All that a cell's result depends on but its seed.

    Attributes:
        dataset: a name for `distill.data.load`.
        learner: what is trained, and how.
        batch_size: examples a step.
        teacher: the teacher's cell, or `None` to train on labels alone.
        temperature: of the soft targets.
        student_loss_weight: weight of the labels beside soft targets.
        omitted: the digit that is left out of training and may get another bias; `None` for none.
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
        out: the run directories, the report and the lock go to OUT/hinton_mnist (OUT/hinton_mnist-smoke with --smoke).
        smoke: change the defaults so that everything takes seconds and needs no files, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on.
        dataset: mnist, or another set of images of the ten digits that lies on this machine.
        batch_size: examples a step.
        temperature: of the soft targets, as in the paper.
        student_loss_weight: weight of the labels beside the soft targets, from 0 to 1.
        omitted: the digit that is left out.
        teacher: the large network.
        student: the small network, the same in every arm.
        surroundings: where data lie, and where numbers go besides the run directories.
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
