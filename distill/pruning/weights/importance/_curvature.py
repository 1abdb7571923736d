"""Scores from the curvature of a loss on data."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._types import Data, Tensor
from distill.pruning._numbers import require_whole
from distill.pruning.weights._kernels import Kernel, weights_of
from distill.pruning.weights.importance._batches import Batch, put_back, require_finite
from distill.pruning.weights.importance._differentiation import (
    Loss,
    as_loss,
    compiled,
    differentiated,
    require_gradients,
    with_labels,
)
from distill.pruning.weights.importance._weights import Importance


def obd(data: Data, loss: Loss = None, *, probes: int = 1, seed: int = 0) -> Importance:
    """Optimal Brain Damage: scores weights by the second-order loss change if they are removed at a minimum, h w² / 2.

    h is the diagonal of the Hessian of the mean loss over all examples. It is estimated from products of the Hessian
    with vectors v of random signs: the mean of v · Hv is h. The estimate is exact if the Hessian is diagonal; otherwise
    its variance falls as 1 / (probes · batches). The diagonal of a Hessian may have either sign, and so may the scores.
    With ReLUs, h is the diagonal for the linear piece that the weights are on.

    Args:
        data: batches or arrays, as for `snip`.
        loss: loss, as for `snip`.
        probes: vectors per batch, >= 1; each costs about as much as three gradients.
        seed: seed of the random signs.

    Returns:
        An importance with float64 scores, which raises the same errors as that of `snip`.

    Raises:
        ValueError: probes is not an integer >= 1; otherwise as for `snip`.

    Example:
    ```python
    from distill import pruning
    from distill.pruning.weights import importance

    scores = importance.obd((x, y), "sparse_categorical_crossentropy", probes=2)
    pruning.prune(model, 0.8, importance=scores)
    ```

    References:
        LeCun, Denker, Solla 1989: the saliency; Bekas, Kokiopoulou, Saad 2007: the estimate of the diagonal.
    """
    probes = require_whole("probes", probes, 1)
    require_finite(data)
    loss = as_loss(loss)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        require_gradients(model, loss)
        rng = np.random.default_rng(seed)
        examples, step = 0, None
        sums = [np.zeros(kernel.variable.shape) for kernel in kernels]

        def products(signs: Sequence[Tensor], *batch: Any) -> list[Tensor]:
            return _products(model, kernels, loss, signs, batch)

        with put_back(model, model.non_trainable_variables):
            for count, batch in with_labels(data):
                examples += count
                for _ in range(probes):
                    signs = [rng.choice((-1.0, 1.0), total.shape) for total in sums]
                    signs = [
                        ops.cast(sign, kernel.variable.dtype)
                        for sign, kernel in zip(signs, kernels, strict=True)
                    ]
                    step = step or compiled(products, (signs, *batch))
                    for total, sign, product in zip(sums, signs, step(signs, *batch), strict=True):
                        total += count * np.asarray(ops.convert_to_numpy(sign * product), np.float64)
        return [
            np.square(weights_of(kernel)) * total / (2 * examples * probes)
            for kernel, total in zip(kernels, sums, strict=True)
        ]

    return scores


def _products(
    model: keras.Model, kernels: Sequence[Kernel], loss: Loss, signs: Sequence[Tensor], batch: Batch
) -> list[Tensor]:
    """Returns the Hessian of a batch's mean loss times a vector, one part per kernel."""
    import tensorflow as tf

    sources = [kernel.variable.value for kernel in kernels]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        gradients = differentiated(model, kernels, [], loss, batch, False)
        along = sum(ops.sum(gradient * sign) for gradient, sign in zip(gradients, signs, strict=True))
    # A loss that is linear in a kernel has no curvature.
    return tape.gradient(along, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
