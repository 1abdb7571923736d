"""The standardization of logits, shared by the losses that use it."""

from keras import ops

from distill._types import Tensor


def standardize(logits: Tensor) -> Tensor:
    """Returns (z − mean z) / (1e-7 + std z) of each row z, with the standard deviation over classes − 1."""
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    # The root of 0, where all logits are equal, has no finite gradient.
    spread = ops.where(variance > 0, ops.sqrt(ops.where(variance > 0, variance, 1.0)), 0.0)
    return centered / (1e-7 + spread)
