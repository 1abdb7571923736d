"""The options of the study of sparsities, and the config of its cells."""

import dataclasses
import os
from pathlib import Path
from typing import Literal

import tyro

from distill.studies import Surroundings
from experiments._networks import Network

Scope = Literal["layer", "global"]


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Everything that a cell's result depends on, except its seed.

    A digest of these values is part of the cell's directory name, so a new or renamed field makes finished runs void.

    Attributes:
        dataset: name of a data set for `distill.data.load`.
        network: network to train and prune.
        epochs: number of passes over the training split before pruning.
        batch_size: examples per step.
        learning_rate: Adam's learning rate at the start; it falls to 0 along a cosine.
        method: name of a method of `experiments.sparsity.study`, "dense" for the unpruned network, or "longer" for the
            unpruned network trained further.
        sparsity: final share of zeros among the kernels' weights.
        scope: where weights compete, as for `distill.pruning.prune`.
        dense: name of the unpruned network's cell.
        further_epochs: number of passes after pruning began.
        further_rate: Adam's learning rate at the start of these; it falls to 0 along a cosine.
        temperature: temperature of the soft targets.
        student_loss_weight: weight of the labels next to them.
    """

    dataset: str
    network: Network
    epochs: int
    batch_size: int
    learning_rate: float
    method: str
    sparsity: float = 0.0
    scope: Scope = "global"
    dense: str | None = None
    further_epochs: int = 0
    further_rate: float = 0.0
    temperature: float = 0.0
    student_loss_weight: float = 0.0

    @property
    def ramp_epochs(self) -> int:
        """Number of epochs after which gradual pruning has reached its sparsity."""
        return 2 * self.further_epochs // 3


@dataclasses.dataclass(frozen=True)
class Sparsities:
    """Compares ways to prune single weights, at several sparsities.

    Attributes:
        out: folder for results; this study writes to OUT/sparsity, or OUT/sparsity-smoke with --smoke.
        smoke: check that everything runs, in a minute or two; this changes the defaults of the other options.
        jobs: number of cells to run at a time, each in a process with its share of the cores.
        seeds: number of seeds, counted from 0.
        dataset: mnist1d, mnist5k, digits, or another data set of TensorFlow Datasets that is on this machine.
        sparsities: shares of zeros, ascending.
        scope: where weights compete: over all kernels, or within each kernel.
        judged: sparsity at which methods are compared by a test; one of --sparsities.
        epochs: number of passes over the training split before pruning.
        further_epochs: number of passes after pruning began; a rewound network makes all but one of --epochs instead.
        batch_size: examples per step.
        learning_rate: Adam's learning rate at the start, before pruning; it falls to 0 along a cosine.
        further_rate: Adam's learning rate at the start of the further training; it falls to 0 along a cosine.
        temperature: temperature of the soft targets.
        student_loss_weight: weight of the labels next to the soft targets.
        network: network to train and prune.
        surroundings: where data sets are, and where metrics go besides the run directories.
    """

    out: Path = Path("runs")
    smoke: bool = False
    jobs: int = os.cpu_count() or 1
    seeds: int = 8
    dataset: str = "mnist5k"
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
    scope: Scope = "global"
    judged: float = 0.95
    epochs: int = 30
    further_epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 6e-3
    further_rate: float = 2e-3
    temperature: float = 4.0
    student_loss_weight: float = 0.1
    network: Network = Network(filters=(16, 32), units=64, dropout=0.4)
    surroundings: tyro.conf.OmitArgPrefixes[Surroundings] = Surroundings()


SMOKE = Sparsities(
    smoke=True, seeds=2, dataset="digits", sparsities=(0.5, 0.9), judged=0.9, epochs=2, further_epochs=3
)
