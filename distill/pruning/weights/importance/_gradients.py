"""Scores from gradients of a loss on data."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._types import Data, Tensor
from distill.pruning._numbers import is_number, require_whole
from distill.pruning.weights._kernels import Kernel, weights_of
from distill.pruning.weights.importance._batches import put_back, require_data, require_finite
from distill.pruning.weights.importance._differentiation import (
    Loss,
    as_loss,
    compiled,
    differentiated,
    require_gradients,
    with_labels,
)
from distill.pruning.weights.importance._weights import Importance


def snip(data: Data, loss: Loss = None) -> Importance:
    """Scores weights by the first-order change of the loss without them: |w · g|, where g is the mean loss's gradient.

    The mean is over all examples: batches count by their number of examples. The paper divides the scores by their sum,
    which does not change their order. The model runs in inference mode and does not change; layers need not be
    trainable. Batches are read one by one and summed in float64. Gradients have the model's own precision and no loss
    scaling, so small ones are lost in float16.

    Args:
        data: batches (x, y) or (x, y, sample_weight) in a finite `tf.data.Dataset`, or in anything else that can be
            read repeatedly; or a tuple of arrays (x, y), which is split into batches of 128.
        loss: a `keras.losses.Loss`, its name, or a function of (y_true, y_pred) that returns a mean over examples or
            one value per example, which are averaged. `None` is the loss that the model was compiled with, as a mean
            over examples, with everything that training adds to it: the penalties of regularizers and of `add_loss`.

    Returns:
        An importance with float64 scores >= 0. It needs Keras' TensorFlow backend. It raises ValueError if there are
        no examples, no labels or no loss, and if the loss does not depend on a kernel.

    Raises:
        ValueError: the data can be read only once, never ends, or consists of arrays of different lengths; or the loss
            is a sum over examples.

    Example:
    ```python
    from distill import pruning
    from distill.pruning.weights import importance

    scores = importance.snip((x, y), "sparse_categorical_crossentropy")
    pruning.prune(model, 0.8, importance=scores)
    ```

    References:
        Lee, Ajanthan, Torr 2019, arXiv:1810.02340.
    """
    require_finite(data)
    loss = as_loss(loss)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        examples = 0
        sums = [np.zeros(kernel.variable.shape) for kernel in kernels]
        with put_back(model, model.non_trainable_variables):
            for count, gradients in _gradients(model, kernels, data, loss):
                examples += count
                for total, gradient in zip(sums, gradients, strict=True):
                    total += count * gradient.astype(np.float64)
        return [
            np.abs(weights_of(kernel) * total / examples) for kernel, total in zip(kernels, sums, strict=True)
        ]

    return scores


def taylor(data: Data, loss: Loss = None) -> Importance:
    """Scores weights by the squared first-order loss change without them: the mean over batches of (w · g)².

    g is the gradient of a batch's mean loss, and every batch counts the same, even a short last one. If the gradients
    of batches cancel out, the mean gradient of `snip` shows nothing, while this score does, so it depends on the batch
    size. Everything else is as for `snip`.

    Args:
        data: batches or arrays, as for `snip`.
        loss: loss, as for `snip`.

    Returns:
        An importance with float64 scores >= 0, which raises the same errors as that of `snip`.

    Raises:
        ValueError: as for `snip`.

    Example:
    ```python
    from distill import pruning
    from distill.pruning.weights import importance

    scores = importance.taylor((x, y), "sparse_categorical_crossentropy")
    pruning.prune(model, 0.8, importance=scores)
    ```

    References:
        Molchanov et al. 2019, arXiv:1906.10771: equation 8, for single weights.
    """
    require_finite(data)
    loss = as_loss(loss)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        seen = 0
        sums = [np.zeros(kernel.variable.shape) for kernel in kernels]
        with put_back(model, model.non_trainable_variables):
            for _, gradients in _gradients(model, kernels, data, loss):
                seen += 1
                for kernel, total, gradient in zip(kernels, sums, gradients, strict=True):
                    total += np.square(weights_of(kernel) * gradient.astype(np.float64))
        return [total / seen for total in sums]

    return scores


def movement(data: Data, loss: Loss = None, *, learning_rate: float, steps: int) -> Importance:
    """Scores weights by how far training moves them away from zero: S = −learning_rate · Σ_t w_t · g_t over SGD steps.

    The steps start at the present weights and run in training mode over the batches of `data`, repeatedly if needed.
    They move everything that is trainable; pruned weights stay at zero. Afterwards every variable is restored, even if
    something fails: weights, statistics of BatchNormalization, seeds and metrics. This takes a copy of them. In the
    paper, the model is pruned by the scores while they add up; here it trains as it is.

    Args:
        data: batches or arrays, as for `snip`; a dataset may never end.
        loss: loss, as for `snip`.
        learning_rate: learning rate of SGD, > 0.
        steps: number of batches to train on, >= 1.

    Returns:
        An importance with float64 scores of either sign, negative for weights that moved towards zero. It raises the
        same errors as that of `snip`.

    Raises:
        ValueError: a number is out of range; otherwise as for `snip`.

    Example:
    ```python
    from distill import pruning
    from distill.pruning.weights import importance

    scores = importance.movement((x, y), "sparse_categorical_crossentropy", learning_rate=0.01, steps=10)
    pruning.prune(model, 0.8, importance=scores)
    ```

    References:
        Sanh, Wolf, Rush 2020, arXiv:2005.07683.
    """
    if not is_number(learning_rate) or not 0 < learning_rate < np.inf:
        raise ValueError(
            f"learning_rate must be a number > 0. Received: learning_rate={learning_rate!r}. Schedules are not "
            "followed: pass one value."
        )
    steps = require_whole("steps", steps, 1)
    require_data(data)
    loss = as_loss(loss)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        moved = [np.zeros(kernel.variable.shape) for kernel in kernels]
        with put_back(model, model.variables):
            for products in _descent(model, kernels, data, loss, float(learning_rate), steps):
                for total, product in zip(moved, products, strict=True):
                    total -= learning_rate * product
        return moved

    return scores


def _gradients(
    model: keras.Model, kernels: Sequence[Kernel], data: Data, loss: Loss
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yields the number of examples and the kernels' gradients of every batch."""
    require_gradients(model, loss)
    step = None
    for count, batch in with_labels(data):
        if step is None:
            step = compiled(lambda *batch: differentiated(model, kernels, [], loss, batch, False), batch)
        yield count, [np.asarray(ops.convert_to_numpy(gradient)) for gradient in step(*batch)]


def _descent(
    model: keras.Model, kernels: Sequence[Kernel], data: Data, loss: Loss, learning_rate: float, steps: int
) -> Iterator[list[np.ndarray]]:
    """Trains by plain SGD, and yields the products of the kernels' weights and gradients at every step."""
    require_gradients(model, loss)
    trained = model.trainable_variables

    def descend(*batch: Any) -> list[Tensor]:
        gradients = differentiated(model, kernels, trained, loss, batch, True)
        own, others = gradients[: len(kernels)], gradients[len(kernels) :]
        products = [
            ops.cast(kernel.variable, "float64") * ops.cast(gradient, "float64")
            for kernel, gradient in zip(kernels, own, strict=True)
        ]
        for variable, gradient in zip(trained, others, strict=True):
            if gradient is None:
                continue
            variable.assign_sub(learning_rate * gradient)
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
        return products

    step, done = None, 0
    while True:
        for _, batch in with_labels(data):
            step = step or compiled(descend, batch)
            yield [np.asarray(ops.convert_to_numpy(product)) for product in step(*batch)]
            done += 1
            if done == steps:
                return
