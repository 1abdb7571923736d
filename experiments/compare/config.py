"""The options of the comparison, and the config of its cells."""

import dataclasses
import os
from pathlib import Path

import tyro

from distill.studies import Surroundings
from experiments._networks import Network


@dataclasses.dataclass(frozen=True)
class Training:
    """Everything that a cell's result depends on, except its seed.

    A digest of these values is part of the cell's directory name, so a new or renamed field makes finished runs void.

    Attributes:
        dataset: name of a data set for `distill.data.load`.
        network: network to train.
        epochs: number of epochs. Each has as many steps as one pass over the training split.
        batch_size: examples per step.
        learning_rate: Adam's learning rate at the start; it falls to 0 along a cosine.
        teacher: name of the teacher's cell; `None` for the teacher itself.
        temperature: temperature of the soft targets; `None` to train on labels alone.
        student_loss_weight: weight of the labels next to soft targets; with 0, no label is used.
        label_smoothing: share of each label that is spread evenly over all classes.
        labels: number of training labels that may be seen, equally many of each class; `None` for all.
        pseudo_labels: whether to train on the teacher's answers where labels may not be seen.
        sparsity: share of the kernels' weights to prune. Above 0, the network starts as a copy of the teacher, and its
            weights are pruned by magnitude over all kernels, step by step in the first half of the training.
        macs: share of the teacher's multiply-adds to keep. Below 1, the network starts as the teacher without channels.
        layers: number of layers and residual blocks to remove. Above 0, the network starts as the teacher without them.
        int8_of: name of the cell whose network is exported to int8; nothing is trained then, and all other fields are
            those of that cell.
    """

    dataset: str
    network: Network
    epochs: int
    batch_size: int
    learning_rate: float
    teacher: str | None = None
    temperature: float | None = None
    student_loss_weight: float = 0.0
    label_smoothing: float = 0.0
    labels: int | None = None
    pseudo_labels: bool = False
    sparsity: float = 0.0
    macs: float = 1.0
    layers: int = 0
    int8_of: str | None = None


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compares students that learn alone with students that are distilled.

    Attributes:
        out: folder for results; this study writes to OUT/compare, or OUT/compare-smoke with --smoke.
        smoke: check that everything runs, in seconds; this changes the defaults of the other options.
        tune: search temperatures, weights and smoothings on dev first, and use the best ones.
        jobs: number of cells to run at a time, each in a process with its share of the cores.
        seeds: number of seeds, counted from 0. With fewer than 6, no paired test can reach p < .05.
        dataset: mnist5k, digits, or another image data set of TensorFlow Datasets that is on this machine.
        epochs: number of passes over the training split, the same for every arm.
        batch_size: examples per step.
        learning_rate: Adam's learning rate at the start, the same for every arm; it falls to 0 along a cosine.
        temperature: temperature of the soft targets; chosen on dev.
        student_loss_weight: weight of the labels next to the soft targets; chosen on dev.
        smoothing: label smoothing of the arm without a teacher; chosen on dev.
        sparsity: share of zeros in the kernels of the pruned teacher; chosen by hand on dev.
        channels: share of its multiply-adds that the teacher keeps when channels are removed; by default it is left
            with as many as the student has.
        layers: number of residual blocks, or convolutions in them, to remove from the deep network.
        labels: number of training labels in the arms with few labels.
        low_temperature: temperature of the soft targets that replace labels; chosen on dev.
        low_smoothing: label smoothing of the hard pseudo-labels; chosen on dev.
        teacher: the large network.
        deep: the network that layers are removed from; the teacher has no layer to spare.
        student: the small network.
        surroundings: where data sets are, and where metrics go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    tune: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 8
    dataset: str = "mnist5k"
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 6e-3
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    smoothing: float = 0.2
    sparsity: float = 0.95
    channels: float = 0.0816
    layers: int = 2
    labels: int = 120
    low_temperature: float = 4.0
    low_smoothing: float = 0.2
    teacher: Network = Network(filters=(16, 32), units=64, dropout=0.4)
    deep: Network = Network(filters=(16, 32), units=64, dropout=0.4, blocks=2)
    student: Network = Network(filters=(4, 8), units=16)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Compare(smoke=True, seeds=2, dataset="digits", epochs=2, labels=40, channels=0.1)
