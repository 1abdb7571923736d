"""What is cut as a whole, and which of it stays: single weights, blocks, or N of every M along the inputs."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

import numpy as np

from distill.pruning.weights._kernels import Kernel

Scope = Literal["layer", "global", "output"]
Amount = Callable[[np.ndarray], int]  # scores of units -> how many of them stay


class Pattern(Protocol):
    """What is cut as a whole: a unit."""

    def unfit(self, kernel: Kernel) -> str:
        """Why a kernel cannot be cut this way; "" if it can."""

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """For each kernel a mask of its shape, true where weights stay."""


@dataclasses.dataclass(frozen=True)
class Elements:
    """Single weights."""

    def unfit(self, kernel: Kernel) -> str:
        """Every kernel fits."""
        return ""

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """Keeps the largest scores: of each kernel, of all kernels, or of each output of a kernel."""
        if scope == "output":
            return [
                _keep_by_output(kernel, part, amount) for kernel, part in zip(kernels, scores, strict=True)
            ]
        return _keep(scores, amount, scope)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Blocks over the last two axes of a kernel: inputs × outputs of a dense layer or a convolution.

    Blocks at the far edges are smaller where the sizes are no multiples. Sparsity counts blocks, large or small.

    Args:
        shape: rows and columns of a block, >= 1.
        pooling: a block's score is the "mean" or the "max" of its weights' scores.

    Raises:
        ValueError: the shape is not two integers >= 1, or the pooling another.
    """

    shape: tuple[int, int]
    pooling: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        shape = tuple(self.shape) if isinstance(self.shape, (tuple, list)) else ()
        if len(shape) != 2 or not all(is_whole(size) and size >= 1 for size in shape):
            raise ValueError(f"A block has rows and columns, both >= 1. Received: shape={self.shape!r}.")
        if self.pooling not in ("mean", "max"):
            raise ValueError(f"Blocks are pooled by 'mean' or 'max'. Received: pooling={self.pooling!r}.")

    def unfit(self, kernel: Kernel) -> str:
        """Kernels with fewer than two axes have no blocks."""
        return "" if len(kernel.variable.shape) > 1 else "blocks need two axes"

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """Keeps the blocks with the largest scores, of each kernel or of all."""
        if scope == "output":
            raise ValueError(
                "Blocks span several outputs. Received: scope='output'. Use 'layer' or 'global'."
            )
        masks = []
        kept = _keep([self._pooled(part) for part in scores], amount, scope)
        for part, mask in zip(scores, kept, strict=True):
            for axis, size in zip((-2, -1), self.shape, strict=True):
                mask = np.repeat(mask, size, axis=axis)
            masks.append(mask[..., : part.shape[-2], : part.shape[-1]])
        return masks

    def _pooled(self, scores: np.ndarray) -> np.ndarray:
        # A block goes first only if all of it is gone; else what is gone counts as nothing.
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
    """N weights stay of every M neighbours along a layer's inputs: what sparse tensor cores call N:M.

    `NofM(keep=2, of=4)` leaves half of the weights. (tfmot's `sparsity_m_by_n=(m, n)` counts zeros: m of n.)
    The inputs are the innermost summed axis: of a convolution its input channels, as tfmot and cuSPARSELt have it.

    Args:
        keep: N, from 1 to `of` - 1.
        of: M.

    Raises:
        ValueError: they are not integers with 1 <= keep < of.
    """

    keep: int = 2
    of: int = 4

    def __post_init__(self) -> None:
        if not (is_whole(self.keep) and is_whole(self.of) and 1 <= self.keep < self.of):
            raise ValueError(
                f"Of every M weights N stay, 1 <= N < M. Received: keep={self.keep!r}, of={self.of!r}."
            )

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return 1 - self.keep / self.of

    def unfit(self, kernel: Kernel) -> str:
        """The input channels must be a multiple of M."""
        if kernel.channel_axis is None:
            return "it sums over no input channels"
        inputs = kernel.variable.shape[kernel.channel_axis]
        return "" if inputs % self.of == 0 else f"its {inputs} input channels are no multiple of {self.of}"

    def masks(
        self, kernels: Sequence[Kernel], scores: Sequence[np.ndarray], amount: Amount, scope: Scope
    ) -> list[np.ndarray]:
        """Keeps the N largest of every M; the amount is the pattern's own."""
        return [
            self._mask(part, cast(int, kernel.channel_axis))
            for kernel, part in zip(kernels, scores, strict=True)
        ]

    def _mask(self, scores: np.ndarray, axis: int) -> np.ndarray:
        _require_numbers(scores)
        before, after = scores.shape[:axis], scores.shape[axis + 1 :]
        groups = scores.reshape(*before, -1, self.of, *after)
        members = [groups[(slice(None),) * (axis + 1) + (i,)] for i in range(self.of)]
        # How many of its group come before each: those with larger scores, and the earlier ones of the same.
        ranks = np.zeros((self.of, *members[0].shape), np.int8 if self.of < 128 else np.int32)
        for i in range(self.of):
            for j in range(i):
                later_wins = members[i] > members[j]
                ranks[j] += later_wins
                ranks[i] += ~later_wins
        return np.moveaxis(ranks < self.keep, 0, axis + 1).reshape(scores.shape)


def _pool(
    scores: np.ndarray, size: int, axis: Literal[-2, -1], pooling: Literal["mean", "max"]
) -> np.ndarray:
    """Pools `size` neighbours along an axis, the last ones fewer; many times faster than numpy's reduceat."""

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
    outputs = np.moveaxis(scores, kernel.output_axes, range(len(kernel.output_axes)))
    mask = np.empty(outputs.shape, bool)
    for i in np.ndindex(*outputs.shape[: len(kernel.output_axes)]):
        mask[i] = keep_largest(outputs[i], amount(outputs[i]))
    return np.moveaxis(mask, range(len(kernel.output_axes)), kernel.output_axes)


def keep_largest(scores: np.ndarray, kept: int) -> np.ndarray:
    """A mask of exactly `kept` true entries, where the largest scores are; of equal ones the first.

    Args:
        scores: any shape, without NaN.
        kept: from 0 to the number of scores.

    Returns:
        bool, of the shape of the scores.

    Raises:
        ValueError: there is a NaN.
    """
    _require_numbers(scores)
    flat = scores.ravel()
    if kept in (0, flat.size):
        return np.full(scores.shape, kept > 0)
    # Only part of an order is made, in linear time; who stays at the threshold itself is decided by position. Among
    # many equal ones numpy takes ten times as long, and the smallest are many: what is pruned already.
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
            "Scores decide what is pruned, so each is a number. Received: NaN. Look at the weights: has training "
            "diverged?"
        )


def is_whole(number: object) -> bool:
    """Whether it is an integer, Python's or numpy's."""
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)
