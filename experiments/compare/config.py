"""Settings."""

import dataclasses
import os
from pathlib import Path

import tyro

from distill.studies import Surroundings
from experiments._networks import Network


@dataclasses.dataclass(frozen=True)
class Training:
    """All that a cell's result depends on but its seed; its digest is part of the cell's name.

    Attributes:
        dataset: a name for `distill.data.load`.
        network: what is trained.
        epochs: passes over the training split's number of examples.
        batch_size: examples a step.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        teacher: the teacher's cell, or `None` for the teacher itself.
        temperature: of the soft targets, or `None` to train on labels alone.
        student_loss_weight: weight of the labels beside soft targets; at 0 no label is looked at.
        label_smoothing: share of each label spread evenly over all classes.
        labels: how many training labels may be seen, the same number of each class; `None` for all.
        pseudo_labels: train on the teacher's answers where labels may not be seen.
        sparsity: above 0, the network starts as the teacher, and this share of its kernels' weights is pruned by
            magnitude, over all kernels, little by little in the first half of the training.
        macs: below 1, the network starts as the teacher without channels, and this share of its multiply-adds is left.
        layers: how many layers and residual blocks of the teacher are left out; above 0, the network starts as the
            teacher without them.
        int8_of: the cell whose network is written in int8 in place of a training; all else is as it was there.
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
    """Compares students that learned alone with students that were distilled.

    Attributes:
        out: the run directories, the report and the lock go to OUT/compare (OUT/compare-smoke with --smoke).
        smoke: change the defaults so that everything takes seconds, to see that it runs.
        tune: first search temperatures, weights and smoothings on dev, and use what was best there.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on. With fewer than 6 no paired test can reach p < .05.
        dataset: mnist5k, digits, or another image set of tfds that lies on this machine.
        epochs: passes over the training split, the same for every arm.
        batch_size: examples a step.
        learning_rate: of Adam at the start, the same for every arm; it falls to 0 along a cosine.
        temperature: of the soft targets; chosen on dev.
        student_loss_weight: weight of the labels beside the soft targets; chosen on dev.
        smoothing: label smoothing of the rival without a teacher; chosen on dev.
        sparsity: share of zeros in the kernels of the pruned teacher; chosen by hand on dev.
        channels: share of its multiply-adds that the teacher keeps when channels are taken out of it; by default those
            of the student.
        layers: how many residual blocks, or convolutions in them, are left out of the deep network.
        labels: how many training labels the low-label arms may see.
        low_temperature: of the soft targets that replace labels; chosen on dev.
        low_smoothing: label smoothing of the hard pseudo-labels; chosen on dev.
        teacher: the large network.
        deep: the network that layers are taken out of; the teacher has none that could be left out.
        student: the small network.
        surroundings: where data lie, and where numbers go besides the run directories.
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
