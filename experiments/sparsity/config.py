"""Settings."""

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
    """All that a cell's result depends on but its seed.

    Attributes:
        dataset: a name for `distill.data.load`.
        network: what is trained and pruned.
        epochs: passes over the training split before pruning.
        batch_size: examples a step.
        learning_rate: of Adam at the start; it falls to 0 along a cosine.
        method: one of `METHODS`, "dense" for the unpruned network, or "longer" for that trained on.
        sparsity: share of the kernels' weights that is zero in the end.
        scope: where weights compete, as for `distill.pruning.prune`.
        dense: the cell of the unpruned network.
        further_epochs: passes after pruning began.
        further_rate: of Adam at the start of them; it falls to 0 along a cosine.
        temperature: of the soft targets.
        student_loss_weight: of the labels beside them.
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
        """Epochs after which gradual pruning has reached its sparsity."""
        return 2 * self.further_epochs // 3


@dataclasses.dataclass(frozen=True)
class Sparsities:
    """Compares ways to prune single weights, at several sparsities.

    Attributes:
        out: the run directories, the report and the lock go to OUT/sparsity (OUT/sparsity-smoke with --smoke).
        smoke: change the defaults so that everything takes a minute or two, to see that it runs.
        jobs: cells at once, each in a process with its share of the cores.
        seeds: how many seeds, from 0 on.
        dataset: mnist1d, mnist5k, digits, or another set of tfds that lies on this machine.
        sparsities: shares of zeros, ascending.
        scope: where weights compete: all together, or those of each kernel for themselves.
        judged: the sparsity at which methods are compared by test, one of the others.
        epochs: passes over the training split before pruning.
        further_epochs: passes after pruning began; a rewound network makes all but one of `epochs` instead.
        batch_size: examples a step.
        learning_rate: of Adam at the start, before pruning; it falls to 0 along a cosine.
        further_rate: of Adam at the start of the further training.
        temperature: of the soft targets.
        student_loss_weight: of the labels beside them.
        network: what is trained and pruned.
        surroundings: where data lie, and where numbers go besides the run directories.
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
