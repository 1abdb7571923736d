"""Sparse training: where the weights are at first, and at which steps some of them change places."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from distill.pruning._numbers import is_number, is_whole, require_sparsity, require_whole
from distill.pruning.weights._choosing import kept_at
from distill.pruning.weights._kernels import Kernel, weights_of
from distill.pruning.weights._mask_callback import MaskCallback
from distill.pruning.weights._masks import kept_by
from distill.pruning.weights._patterns import keep_largest

Distribution = Literal["uniform", "erdos-renyi"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings that SET and RigL share.

    Attributes:
        sparsity: share of zeros in all kernels together, 0 <= sparsity < 1.
        frequency: steps from one exchange of weights to the next, >= 1.
        end_step: step before which all exchanges happen, > frequency.
        drop_fraction: share of a kernel's weights in an exchange, 0 < drop_fraction < 1.
        distribution: how the zeros are shared among kernels.
        seed: seed of the draws, >= 0.

    Raises:
        ValueError: a value out of range.
    """

    sparsity: float
    frequency: int
    end_step: int
    drop_fraction: float
    distribution: Distribution
    seed: int

    def __post_init__(self) -> None:
        require_sparsity(self.sparsity)
        require_whole("frequency", self.frequency, 1)
        if not is_whole(self.end_step) or self.end_step <= self.frequency:
            raise ValueError(
                "end_step must be an integer above frequency, so that weights are exchanged at least once. Received: "
                f"end_step={self.end_step!r}, frequency={self.frequency}."
            )
        if not is_number(self.drop_fraction) or not 0 < self.drop_fraction < 1:
            raise ValueError(
                "drop_fraction must be a share of the weights, 0 < drop_fraction < 1. Received: "
                f"drop_fraction={self.drop_fraction!r}."
            )
        if self.distribution not in ("uniform", "erdos-renyi"):
            raise ValueError(
                "distribution must be 'uniform' or 'erdos-renyi'. Received: "
                f"distribution={self.distribution!r}."
            )
        require_whole("seed", self.seed, 0)

    def follow(self, callback: MaskCallback, step: int) -> int | None:
        """Draws the first masks, or returns the step of the latest exchange that is due and not made yet."""
        if step <= callback.steps_done:
            return None  # training has ended, and nothing would train new weights
        # Read now and not when training begins, because only now has a backup been restored.
        moved = callback.last_move
        if moved == 0:
            callback.set_masks(step, self._first(callback))
            return None
        latest = min(step, self.end_step - 1) // self.frequency * self.frequency
        return latest if latest > moved else None

    def draw(self, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        """Returns random masks with the numbers of weights that the kernels are to keep."""
        shapes = [tuple(kernel.variable.shape) for kernel in kernels]
        rng = np.random.default_rng([self.seed, 0])
        scores = [rng.random(shape) for shape in shapes]
        if self.distribution == "uniform":
            counts = [kept_at(self.sparsity)(score) for score in scores]
        else:
            counts = erdos_renyi(shapes, self.sparsity)
        return [keep_largest(score, count) for score, count in zip(scores, counts, strict=True)]

    def _first(self, callback: MaskCallback) -> list[np.ndarray]:
        """Returns the masks to begin with: the present ones if they keep the right numbers, or new ones."""
        drawn, present = self.draw(callback.kernels), [kept_by(mask) for mask in callback.masks]
        wanted = [int(mask.sum()) for mask in drawn]
        if all(mask.all() for mask in present):
            weights = [int(np.count_nonzero(weights_of(kernel))) for kernel in callback.kernels]
            if self.sparsity and all(0 < found <= kept for found, kept in zip(weights, wanted, strict=True)):
                warnings.warn(
                    "Sparse training begins with new random masks, though the kernels have only "
                    f"{weights} weights that are not zero: files contain no masks. To continue with these weights, "
                    "call pruning.keep_zeros(model) before fit.",
                    stacklevel=2,
                )
            return drawn
        found = [int(mask.sum()) for mask in present]
        if found != wanted:
            raise ValueError(
                "Sparse training must begin with a dense model, or with masks of the same sparsity. Received: kernels "
                f"that keep {found} weights instead of {wanted}. Call strip_pruning(model) to begin anew."
            )
        return present


def require_trained(model: keras.Model, kernels: Sequence[Kernel]) -> None:
    """Raises ValueError if a kernel is frozen: its new weights would stay 0."""
    trained = {id(variable) for variable in model.trainable_variables}
    frozen = [kernel.name for kernel in kernels if id(kernel.variable) not in trained]
    if frozen:
        raise ValueError(
            f"Sparse training must train the weights that it adds. Received: frozen kernels: {', '.join(frozen)}. "
            "Leave them alone with exclude=, or set trainable = True and compile again."
        )


def erdos_renyi(shapes: Sequence[tuple[int, ...]], sparsity: float) -> list[int]:
    """Returns how many weights each kernel keeps: density ε · sum / product of its dimensions, but at most 1."""
    sizes = np.array([math.prod(shape) for shape in shapes])
    sums = np.array([sum(shape) for shape in shapes])
    kept = max(len(shapes), int(sizes.sum()) - round(int(sizes.sum()) * sparsity))
    dense = np.zeros(len(shapes), bool)
    wanted = sizes.astype(float)
    while not dense.all():
        epsilon = (kept - sizes[dense].sum()) / sums[~dense].sum()
        wanted[~dense] = epsilon * sums[~dense]
        if not (wanted > sizes).any():
            break
        # As in the authors' code, the densest kernels are capped first, which leaves more for the others.
        densities = np.where(dense, 0, wanted / sizes)
        capped = densities == densities.max()
        wanted[capped], dense = sizes[capped], dense | capped
    counts = np.clip(np.floor(wanted).astype(int), 1, sizes)
    while counts.sum() < kept:
        counts[np.argmax(np.where(counts < sizes, wanted - counts, -np.inf))] += 1
    while counts.sum() > kept:
        counts[np.argmin(np.where(counts > 1, wanted - counts, np.inf))] -= 1
    return counts.tolist()
