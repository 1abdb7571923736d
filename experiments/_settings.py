"""The settings of a cell of `experiments.compare`: plain frozen values that other processes can read."""

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Network:
    """A small CNN.

    Attributes:
        filters: output channels of each 3×3 convolution; a 2×2 max pooling follows each.
        blocks: residual blocks after them, of two 3×3 convolutions each.
        units: width of the dense layer after them.
        dropout: share of values dropped before and after that layer, in training only.
    """

    filters: tuple[int, ...]
    units: int
    dropout: float = 0.0
    blocks: int = 0


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
class Surroundings:
    """What a cell needs and its result does not depend on.

    Attributes:
        data_dir: where prepared data sets are kept; `None` for the place tfds uses.
        manual_dir: a folder with files fetched by hand, for data sets that are not embedded.
        wandb: mode of Weights & Biases; `None` follows WANDB_MODE, or is offline.
        tensorboard: also write TensorBoard files.
    """

    data_dir: Path | None = None
    manual_dir: Path | None = None
    wandb: Literal["offline", "online", "disabled"] | None = None
    tensorboard: bool = False
