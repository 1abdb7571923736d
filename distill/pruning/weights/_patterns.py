"""Patterns: the units that are pruned as a whole. Single weights, blocks, or N of every M along the inputs."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

import numpy as np

from distill.pruning._numbers import is_whole
from distill.pruning.weights._kernels import Kernel

# Where units compete: within each kernel, across all kernels, or within each output of a kernel.
Scope = Literal["layer", "global", "output"]
# Scores of the units that compete -> how many of them stay.
Amount = Callable[[np.ndarray], int]


class Pattern(Protocol):
    """A shape of the units that are pruned as a whole, and the rule that chooses among them."""

    def unfit(self, kernel: Kernel) -> str:
        """Returns why a kernel cannot be pruned by this pattern, or "" if it can."""

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """Returns a mask for each kernel, of its shape, true where weights stay."""


@dataclasses.dataclass(frozen=True)
class Elements:
    """Prunes single weights.

    Example:
    ```python
    from distill import pruning

    pruning.prune(model, 0.8, pattern=pruning.Elements())  # the default pattern
    ```
    """

    def unfit(self, kernel: Kernel) -> str:
        """Returns "": every kernel fits."""
        return ""

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """Keeps the largest scores of each kernel, of all kernels, or of each output of a kernel."""
        if scope == "output":
            return [
                _keep_by_output(kernel, part, amount) for kernel, part in zip(kernels, scores, strict=True)
            ]
        return _keep(scores, amount, scope)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Prunes blocks over the last two axes of a kernel: inputs × outputs of a dense layer or a convolution.

    Blocks at the far edges are smaller where the kernel's sizes are not multiples of the block's. Sparsity counts
    blocks, whatever their size.

    Args:
        shape: (rows, columns) of a block, both >= 1.
        pooling: how to make a block's score from the scores of its weights: "mean" or "max".

    Raises:
        ValueError: the shape is not two integers >= 1, or the pooling is unknown.

    Example:
    ```python
    from distill import pruning

    pruning.prune(model, 0.5, pattern=pruning.Blocks((4, 4)))
    ```
    """

    shape: tuple[int, int]
    _: dataclasses.KW_ONLY
    pooling: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        shape = tuple(self.shape) if isinstance(self.shape, (tuple, list)) else ()
        if len(shape) != 2 or not all(is_whole(size) and size >= 1 for size in shape):
            raise ValueError(
                f"A block's shape must be (rows, columns), both integers >= 1. Received: shape={self.shape!r}."
            )
        if self.pooling not in ("mean", "max"):
            raise ValueError(f"pooling must be 'mean' or 'max'. Received: pooling={self.pooling!r}.")

    def unfit(self, kernel: Kernel) -> str:
        """Returns a reason for kernels with fewer than two axes, which have no blocks."""
        return "" if len(kernel.variable.shape) > 1 else "it has one axis, and blocks need two"

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """Keeps the blocks with the largest scores of each kernel or of all kernels."""
        require_scope(scope, self)
        masks = []
        kept = _keep([self._pooled(part) for part in scores], amount, scope)
        for part, mask in zip(scores, kept, strict=True):
            for axis, size in zip((-2, -1), self.shape, strict=True):
                mask = np.repeat(mask, size, axis=axis)
            masks.append(mask[..., : part.shape[-2], : part.shape[-1]])
        return masks

    def _pooled(self, scores: np.ndarray) -> np.ndarray:
        # A block is pruned first only if all its weights are pruned already. In any other block, pruned weights count
        # as 0.
        gone = np.isneginf(scores)
        if not gone.any():
            return self._pool(scores, self.pooling)
        _require_numbers(scores)
        pooled = self._pool(np.where(gone, 0, scores), self.pooling)
        return np.where(self._pool(gone.astype(np.float32), "mean") == 1, -np.inf, pooled)

    def _pool(self, scores: np.ndarray, pooling: Literal["mean", "max"]) -> np.ndarray:
        rows, columns = self.shape
        return _pool(_pool(scores, rows, -2, pooling), columns, -1, pooling)


@dataclasses.dataclass(frozen=True)
class NofM:
    """Keeps N of every M neighboring weights along a layer's inputs: the N:M sparsity of sparse tensor cores.

    `NofM(keep=2, of=4)` leaves half of the weights. (tfmot's `sparsity_m_by_n=(m, n)` counts zeros instead: m of n.)
    The inputs are the innermost axis that the layer sums over; for a convolution these are the input channels, as in
    tfmot and cuSPARSELt.

    Args:
        keep: N, the number of weights that stay in each group, 1 <= keep < of.
        of: M, the size of a group.

    Raises:
        ValueError: keep and of are not integers with 1 <= keep < of.

    Example:
    ```python
    from distill import pruning

    pruning.prune(model, pattern=pruning.NofM(2, 4))  # the pattern itself says how much
    ```
    """

    keep: int = 2
    of: int = 4

    def __post_init__(self) -> None:
        if not (is_whole(self.keep) and is_whole(self.of) and 1 <= self.keep < self.of):
            raise ValueError(
                f"keep and of must be integers, 1 <= keep < of. Received: keep={self.keep!r}, of={self.of!r}."
            )

    @property
    def sparsity(self) -> float:
        """Share of zeros, 0 to 1."""
        return 1 - self.keep / self.of

    def unfit(self, kernel: Kernel) -> str:
        """Returns a reason for kernels whose input channels are not a multiple of M."""
        if kernel.channel_axis is None:
            return "it does not sum over input channels"
        inputs = kernel.variable.shape[kernel.channel_axis]
        return "" if inputs % self.of == 0 else f"its {inputs} input channels are not a multiple of {self.of}"

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """Keeps the N largest scores of every M; `amount` and `scope` are not used."""
        return [
            self._mask(part, cast(int, kernel.channel_axis))
            for kernel, part in zip(kernels, scores, strict=True)
        ]

    def _mask(self, scores: np.ndarray, axis: int) -> np.ndarray:
        _require_numbers(scores)
        before, after = scores.shape[:axis], scores.shape[axis + 1 :]
        groups = scores.reshape(*before, -1, self.of, *after)
        members = [groups[(slice(None),) * (axis + 1) + (i,)] for i in range(self.of)]
        # A weight's rank is how many of its group come before it: larger scores, and equal ones at lower positions.
        ranks = np.zeros((self.of, *members[0].shape), np.int8 if self.of < 128 else np.int32)
        for i in range(self.of):
            for j in range(i):
                later_wins = members[i] > members[j]
                ranks[j] += later_wins
                ranks[i] += ~later_wins
        return np.moveaxis(ranks < self.keep, 0, axis + 1).reshape(scores.shape)


def require_scope(scope: Scope, pattern: Pattern) -> None:
    """Raises ValueError unless units of a pattern can compete in a scope."""
    if scope not in ("layer", "global", "output"):
        raise ValueError(f"scope must be 'layer', 'global' or 'output'. Received: scope={scope!r}.")
    if isinstance(pattern, Blocks) and scope == "output":
        raise ValueError(
            "Blocks span several outputs, so scope must be 'layer' or 'global'. Received: scope='output'."
        )


def _pool(
    scores: np.ndarray, size: int, axis: Literal[-2, -1], pooling: Literal["mean", "max"]
) -> np.ndarray:
    """Pools every `size` neighbours along an axis; the last group may be smaller.

    Many times faster than numpy's reduceat.
    """

    def nth(array: np.ndarray, start: int, step: int | None = None) -> np.ndarray:
        picked = slice(start, None, step)
        return array[..., picked, :] if axis == -2 else array[..., picked]

    pooled = nth(scores, 0, size).copy()
    for i in range(1, size):
        others = nth(scores, i, size)
        into = pooled[tuple(slice(length) for length in others.shape)]
        (np.maximum if pooling == "max" else np.add)(into, others, out=into)
    if pooling == "mean":
        whole = scores.shape[axis] // size
        pooled /= size
        if rest := scores.shape[axis] % size:
            nth(pooled, whole)[...] *= size / rest
    return pooled


def _keep(scores: Sequence[np.ndarray], amount: Amount, scope: Scope) -> list[np.ndarray]:
    if scope == "layer":
        return [keep_largest(part, amount(part)) for part in scores]
    together = np.concatenate([part.ravel() for part in scores])
    mask = keep_largest(together, amount(together))
    ends = np.cumsum([part.size for part in scores])
    return [m.reshape(part.shape) for m, part in zip(np.split(mask, ends[:-1]), scores, strict=True)]


def _keep_by_output(kernel: Kernel, scores: np.ndarray, amount: Amount) -> np.ndarray:
    if math.prod(scores.shape[axis] for axis in kernel.input_axes) == 1:
        return keep_largest(scores, amount(scores))  # each weight is an output of its own
    outputs = np.moveaxis(scores, kernel.output_axes, range(len(kernel.output_axes)))
    mask = np.empty(outputs.shape, bool)
    for i in np.ndindex(*outputs.shape[: len(kernel.output_axes)]):
        mask[i] = keep_largest(outputs[i], amount(outputs[i]))
    return np.moveaxis(mask, range(len(kernel.output_axes)), kernel.output_axes)


def keep_largest(scores: np.ndarray, kept: int) -> np.ndarray:
    """Returns a mask with exactly `kept` true entries, at the largest scores; of equal scores, the first win.

    Args:
        scores: array of any shape, without NaN.
        kept: number of entries to keep, 0 to the number of scores.

    Returns:
        bool array of the same shape.

    Raises:
        ValueError: a score is NaN.
    """
    _require_numbers(scores)
    flat = scores.ravel()
    if kept in (0, flat.size):
        return np.full(scores.shape, kept > 0)
    # A partition takes linear time; ties at the threshold are decided by position. numpy's partition is ten times
    # slower among many equal values, so the smallest value is left out: all that is pruned already has it.
    smallest = flat.min()
    above = flat[flat > smallest]
    threshold = np.partition(above, above.size - kept)[above.size - kept] if kept <= above.size else smallest
    mask = flat > threshold
    ties = np.flatnonzero(flat == threshold)
    mask[ties[: kept - np.count_nonzero(mask)]] = True
    return mask.reshape(scores.shape)


def _require_numbers(scores: np.ndarray) -> None:
    if scores.size and np.isnan(scores.max()):
        raise ValueError(
            "Scores must be numbers, because they decide what is pruned. Received: NaN. Check the weights: training "
            "may have diverged."
        )
