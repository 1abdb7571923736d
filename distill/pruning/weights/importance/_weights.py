"""Scores that need nothing but the weights."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from distill.pruning.weights._kernels import Kernel, weights_of

# A model and some of its kernels -> one array of scores per kernel, in its shape; the highest scores are kept first.
Importance = Callable[[keras.Model, Sequence[Kernel]], Sequence[np.ndarray]]


def magnitude(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
    """Scores weights by their absolute values, which are exact in every dtype.

    Args:
        model: model that the kernels belong to.
        kernels: kernels to score.

    Returns:
        One array of scores >= 0 per kernel, in the kernel's shape; float32 or float64.

    Example:
    ```python
    from distill import pruning
    from distill.pruning.weights import importance

    pruning.prune(model, 0.8, importance=importance.magnitude)
    ```
    """
    scores = []
    for kernel in kernels:
        value = weights_of(kernel)
        # In place if it is a copy, because new memory costs more than the arithmetic. Some backends share theirs.
        scores.append(np.abs(value, out=value if value.flags.owndata and value.flags.writeable else None))
    return scores


def random(seed: int) -> Importance:
    """Scores weights by uniform random numbers, drawn anew at each call: the baseline for every other importance.

    Args:
        seed: seed of numpy's generator.

    Returns:
        An importance with float32 scores in [0, 1).

    Example:
    ```python
    from distill import pruning
    from distill.pruning.weights import importance

    pruning.prune(model, 0.8, importance=importance.random(0))
    ```
    """
    rng = np.random.default_rng(seed)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        return [rng.random(kernel.variable.shape, np.float32) for kernel in kernels]

    return scores
