"""Scores that need nothing but the weights."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from distill.pruning.weights._kernels import Kernel

# A model and some of its kernels -> for each an array of its shape; the larger, the sooner a weight stays.
Criterion = Callable[[keras.Model, Sequence[Kernel]], Sequence[np.ndarray]]


def magnitude(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
    """The weights' absolute values, exact whatever their dtype."""
    scores = []
    for kernel in kernels:
        value = weights_of(kernel)
        # In place where it is a copy: fresh memory costs more than the arithmetic. Some backends share theirs.
        scores.append(np.abs(value, out=value if value.flags.owndata and value.flags.writeable else None))
    return scores


def random(seed: int) -> Criterion:
    """Scores that are drawn anew at each call, uniformly: the baseline that any criterion has to beat.

    Args:
        seed: of numpy's generator.
    """
    rng = np.random.default_rng(seed)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        return [rng.random(kernel.variable.shape, np.float32) for kernel in kernels]

    return scores


def weights_of(kernel: Kernel) -> np.ndarray:
    """A kernel's values as numpy numbers; half precision widened to float32, which loses nothing."""
    value = np.asarray(ops.convert_to_numpy(kernel.variable))
    return value if value.dtype in (np.float32, np.float64) else value.astype(np.float32)
