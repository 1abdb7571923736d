"""Scores from gradients of a loss on data."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill.pruning.weights._kernels import Kernel
from distill.pruning.weights.criteria._batches import put_back, require_data, require_finite
from distill.pruning.weights.criteria._differentiation import (
    as_loss,
    compiled,
    differentiated,
    require_gradients,
    with_labels,
)
from distill.pruning.weights.criteria._weights import Criterion, weights_of


def snip(data: Any, loss: Any = None) -> Criterion:
    """How much a loss changes, to first order, if a weight goes: |w · g| with g the gradient of the mean loss.

    The mean is over all examples: batches count by their number of examples. The paper divides the scores by their
    sum, which changes no order. The model runs in inference mode, nothing of it is changed, and a layer need not be
    trainable. Batches are looked at one by one; what is added up is kept in float64. Gradients are those of the model's
    own precision, without loss scaling: under float16 small ones are lost.

    Args:
        data: a finite `tf.data.Dataset`, or anything else that can be gone through again and again, of batches
            (x, y) or (x, y, sample_weight); or a tuple of arrays (x, y), cut in batches of 128.
        loss: a `keras.losses.Loss`, its name, or a function of (y_true, y_pred) that returns a mean over examples, or
            one value for each, whose mean is taken. `None` is the loss that the model was compiled with, taken as a
            mean over examples, with all that training adds to it: the penalties of regularizers and of `add_loss`.

    Returns:
        A criterion with float64 scores >= 0. It needs Keras' TensorFlow backend. It raises a ValueError if there are
        no examples or no labels, if there is no loss, and if the loss does not depend on a kernel.

    Raises:
        ValueError: the data can be gone through only once, never end, or are arrays of several lengths; the loss is a
            sum over examples.

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


def taylor(data: Any, loss: Any = None) -> Criterion:
    """The squared change of a loss, to first order, if a weight goes: the mean over batches of (w · g)².

    g is the gradient of a batch's mean loss, and every batch counts the same, a short last one too. Where gradients of
    batches cancel out, the mean gradient of `snip` sees nothing and this does; so it depends on the batch size. All
    else is as for `snip`.

    Args:
        data: see `snip`.
        loss: see `snip`.

    Returns:
        A criterion with float64 scores >= 0; see `snip` for what it raises.

    Raises:
        ValueError: see `snip`.

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


def movement(data: Any, loss: Any = None, *, learning_rate: float, steps: int) -> Criterion:
    """How far training moves weights away from zero: S = −learning_rate · Σ_t w_t · g_t over some steps of plain SGD.

    The steps begin at the present weights, run in training mode over the batches of `data`, again and again if need
    be, and move all that is trainable; what was pruned stays at zero. Afterwards every variable is put back as it was:
    weights, statistics of BatchNormalization, seeds and metrics, also if something fails. That takes a copy of them.
    Unlike the paper's, these scores come from training the model as it is, not one that is pruned by them meanwhile.

    Args:
        data: see `snip`; a dataset may go on forever.
        loss: see `snip`.
        learning_rate: of SGD, > 0.
        steps: how many batches, >= 1.

    Returns:
        A criterion with float64 scores of either sign, below zero where weights moved towards it; see `snip` for what
        it raises.

    Raises:
        ValueError: a number is out of range; see `snip`.

    References:
        Sanh, Wolf, Rush 2020, arXiv:2005.07683.
    """
    if not isinstance(learning_rate, (int, float, np.number)) or not 0 < learning_rate < np.inf:
        raise ValueError(
            f"A learning rate is a number > 0. Received: learning_rate={learning_rate!r}. A schedule of it is not "
            "followed: give its value."
        )
    if not isinstance(steps, (int, np.integer)) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"Movement is seen over steps, an integer >= 1. Received: steps={steps!r}.")
    require_data(data)
    loss = as_loss(loss)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        moved = [np.zeros(kernel.variable.shape) for kernel in kernels]
        with put_back(model, model.variables):
            for products in _descent(model, kernels, data, loss, float(learning_rate), int(steps)):
                for total, product in zip(moved, products, strict=True):
                    total -= learning_rate * product
        return moved

    return scores


def _gradients(
    model: keras.Model, kernels: Sequence[Kernel], data: Any, loss: Any
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The number of examples and the kernels' gradients of every batch."""
    require_gradients(model, loss)
    step = None
    for count, batch in with_labels(data):
        if step is None:
            step = compiled(lambda *batch: differentiated(model, kernels, [], loss, batch, False), batch)
        yield count, [np.asarray(ops.convert_to_numpy(gradient)) for gradient in step(*batch)]


def _descent(
    model: keras.Model, kernels: Sequence[Kernel], data: Any, loss: Any, learning_rate: float, steps: int
) -> Iterator[list[np.ndarray]]:
    """Trains by plain SGD; of every step the products of the kernels' weights and gradients."""
    require_gradients(model, loss)
    trained = model.trainable_variables

    def descend(*batch: Any) -> list[Any]:
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
