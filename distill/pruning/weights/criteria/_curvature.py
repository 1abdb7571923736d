"""Scores from the curvature of a loss on data."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill.pruning.weights._kernels import Kernel
from distill.pruning.weights._patterns import is_whole
from distill.pruning.weights.criteria._batches import put_back, require_finite
from distill.pruning.weights.criteria._differentiation import (
    as_loss,
    compiled,
    differentiated,
    require_gradients,
    with_labels,
)
from distill.pruning.weights.criteria._weights import Criterion, weights_of


def obd(data: Any, loss: Any = None, *, probes: int = 1, seed: int = 0) -> Criterion:
    """Optimal Brain Damage: how much a loss changes, to second order, if a weight goes at a minimum: h w² / 2.

    h is the Hessian's diagonal, of the mean loss over all examples. It is estimated by products of the Hessian with
    vectors v of random signs: the mean of v · Hv is h, exactly if the Hessian is diagonal, else with a variance that
    falls as 1 / (probes · batches). A Hessian's diagonal has either sign, and so have the scores. Behind ReLUs it is
    that of the linear piece that the weights are on.

    Args:
        data: see `snip`.
        loss: see `snip`.
        probes: vectors for each batch, >= 1; each costs about three gradients.
        seed: of the signs.

    Returns:
        A criterion with float64 scores; see `snip` for what it raises.

    Raises:
        ValueError: probes is not an integer >= 1; see `snip`.

    References:
        LeCun, Denker, Solla 1989: the saliency; Bekas, Kokiopoulou, Saad 2007: the estimate of the diagonal.
    """
    if not is_whole(probes) or probes < 1:
        raise ValueError(
            f"A diagonal is estimated from an integer >= 1 of vectors. Received: probes={probes!r}."
        )
    require_finite(data)
    loss = as_loss(loss)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        require_gradients(model, loss)
        rng = np.random.default_rng(seed)
        examples, step = 0, None
        sums = [np.zeros(kernel.variable.shape) for kernel in kernels]

        def products(signs: Sequence[Any], *batch: Any) -> list[Any]:
            return _products(model, kernels, loss, signs, batch)

        with put_back(model, model.non_trainable_variables):
            for count, batch in with_labels(data):
                examples += count
                for _ in range(int(probes)):
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
    model: keras.Model, kernels: Sequence[Kernel], loss: Any, signs: Sequence[Any], batch: Any
) -> list[Any]:
    """The Hessian of a batch's mean loss times a vector, in the parts that each kernel has."""
    import tensorflow as tf

    sources = [kernel.variable.value for kernel in kernels]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)
        gradients = differentiated(model, kernels, [], loss, batch, False)
        along = sum(ops.sum(gradient * sign) for gradient, sign in zip(gradients, signs, strict=True))
    # A loss that is linear in a kernel does not curve.
    return tape.gradient(along, sources, unconnected_gradients=tf.UnconnectedGradients.ZERO)
