"""Scores from gradients of a loss on data."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill.pruning.criteria.batches import batches, put_back, require_data, require_examples, require_finite
from distill.pruning.criteria.weights import Criterion, weights_of
from distill.pruning.kernels import Kernel


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
    loss = _as_loss(loss)

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
    loss = _as_loss(loss)

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
    loss = _as_loss(loss)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        moved = [np.zeros(kernel.variable.shape) for kernel in kernels]
        with put_back(model, model.variables):
            for products in _descent(model, kernels, data, loss, float(learning_rate), int(steps)):
                for total, product in zip(moved, products, strict=True):
                    total -= learning_rate * product
        return moved

    return scores


def _as_loss(loss: Any) -> Any:
    loss = None if loss is None else keras.losses.get(loss)
    if getattr(loss, "reduction", None) == "sum":
        raise ValueError(
            "A loss is a mean over examples or gives one value for each. Received: a loss with reduction='sum'. Use "
            "reduction='sum_over_batch_size'."
        )
    return loss


def _require_gradients(model: keras.Model, loss: Any) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Criteria on gradients run on Keras' TensorFlow backend. Received: the backend "
            f"{keras.backend.backend()!r}. Use magnitude or wanda."
        )
    if loss is None and not model.compiled:
        raise ValueError(
            f"Gradients are of a loss. Received: loss=None and {model.name!r}, which is not compiled. Pass loss=, or "
            "compile the model (of a Distiller: its student) with one."
        )


def _loss_of(model: keras.Model, loss: Any, batch: tuple[Any, Any, Any], training: bool) -> Any:
    """A batch's loss; differentiable."""
    x, y, sample_weight = batch
    y_pred = model(x, training=training)
    if loss is None:
        # Not `compute_loss`: that of a model written for older versions of Keras knows no `training`.
        return model._compute_loss(x, y, y_pred, sample_weight, training=training)
    if isinstance(loss, keras.losses.Loss):
        return ops.mean(loss(y, y_pred, sample_weight=sample_weight))
    values = ops.convert_to_tensor(loss(y, y_pred))
    if sample_weight is not None:
        if not len(values.shape):
            raise ValueError(
                "sample_weight needs a loss with a value for each example. Received: a function that returned a "
                "scalar, and sample_weight. Let it return one value for each, or leave the weights out."
            )
        weight = ops.cast(sample_weight, values.dtype)
        values *= ops.reshape(weight, (*ops.shape(weight), *[1] * (len(values.shape) - len(weight.shape))))
    return ops.mean(values)


def _differentiated(
    model: keras.Model,
    kernels: Sequence[Kernel],
    others: Sequence[keras.Variable],
    loss: Any,
    batch: Any,
    training: bool,
) -> list[Any]:
    """The loss' gradients to kernels, then to other variables, of which those without one have `None`."""
    import tensorflow as tf

    sources = [kernel.variable.value for kernel in kernels] + [variable.value for variable in others]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(sources)  # frozen ones too
        value = _loss_of(model, loss, batch, training)
    gradients = tape.gradient(value, sources)
    missing = [
        kernel.name
        for kernel, gradient in zip(kernels, gradients[: len(kernels)], strict=True)
        if gradient is None
    ]
    if missing:
        raise ValueError(
            f"The loss depends on every kernel that is scored. Received: {model.name!r}, whose loss does not depend on "
            f"{', '.join(missing)}. Exclude the layers."
        )
    # An embedding's gradient comes as the rows that were looked up.
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def _compiled(step: Callable[..., Any], batch: Any) -> Callable[..., Any]:
    """The step as a graph, traced once for all batch sizes."""
    import tensorflow as tf

    function = tf.function(step, autograph=False, reduce_retracing=True)
    if all(part is None or isinstance(part, tf.Tensor) for part in keras.tree.flatten(batch)):
        function.get_concrete_function(
            *keras.tree.map_structure(
                lambda part: None if part is None else tf.TensorSpec([None, *part.shape[1:]], part.dtype),
                batch,
            )
        )
    return function


def _with_labels(data: Any) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    examples = 0
    for count, batch in batches(data):
        if batch[1] is None:
            raise ValueError(
                "Gradients of a loss need labels. Received: a batch without. Pass batches (x, y), or arrays (x, y)."
            )
        examples += count
        yield count, batch
    require_examples(examples)


def _gradients(
    model: keras.Model, kernels: Sequence[Kernel], data: Any, loss: Any
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The number of examples and the kernels' gradients of every batch."""
    _require_gradients(model, loss)
    step = None
    for count, batch in _with_labels(data):
        if step is None:
            step = _compiled(lambda *batch: _differentiated(model, kernels, [], loss, batch, False), batch)
        yield count, [np.asarray(ops.convert_to_numpy(gradient)) for gradient in step(*batch)]


def _descent(
    model: keras.Model, kernels: Sequence[Kernel], data: Any, loss: Any, learning_rate: float, steps: int
) -> Iterator[list[np.ndarray]]:
    """Trains by plain SGD; of every step the products of the kernels' weights and gradients."""
    _require_gradients(model, loss)
    trained = model.trainable_variables

    def descend(*batch: Any) -> list[Any]:
        gradients = _differentiated(model, kernels, trained, loss, batch, True)
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
        for _, batch in _with_labels(data):
            step = step or _compiled(descend, batch)
            yield [np.asarray(ops.convert_to_numpy(product)) for product in step(*batch)]
            done += 1
            if done == steps:
                return
