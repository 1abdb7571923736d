"""A loss on data and its gradients."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from distill._keras import compile_settings, compute_loss
from distill._types import Data, Tensor
from distill.pruning.weights._kernels import Kernel
from distill.pruning.weights.importance._batches import Batch, batches, require_examples

# What a user may give as a loss; `None` is the loss that the model was compiled with.
Loss: TypeAlias = keras.losses.Loss | str | Callable[[Any, Any], Tensor] | None


def as_loss(loss: Loss) -> Loss:
    """Returns the loss as an object or function; `None` stays `None`.

    Raises:
        ValueError: the loss is a sum over examples.
    """
    loss = None if loss is None else keras.losses.get(loss)
    if getattr(loss, "reduction", None) == "sum":
        raise ValueError(
            "loss must be a mean over examples, or return one value per example. Received: a loss with "
            "reduction='sum'. Use reduction='sum_over_batch_size'."
        )
    return loss


def require_gradients(model: keras.Model, loss: Loss) -> None:
    """Raises ValueError if gradients of the loss cannot be taken."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Scores from gradients need Keras' TensorFlow backend. Received: the backend "
            f"{keras.backend.backend()!r}. Use magnitude or wanda."
        )
    if loss is None and not model.compiled:
        raise ValueError(
            f"Scores from gradients need a loss. Received: loss=None and {model.name!r}, which is not compiled. Pass "
            "loss=, or compile the model with a loss (for a Distiller, its student)."
        )
    if loss is None:
        for compiled in keras.tree.flatten(compile_settings(model)["loss"]):
            as_loss(compiled)


def _loss_of(model: keras.Model, loss: Any, batch: Batch, training: bool) -> Tensor:
    """Returns a batch's loss, which can be differentiated."""
    x, y, sample_weight = batch
    y_pred = model(x, training=training)
    if loss is None:
        # Not `model.compute_loss`: in a model written for older versions of Keras, that does not know `training`.
        return compute_loss(model, x, y, y_pred, sample_weight, training)
    if isinstance(loss, keras.losses.Loss):
        return ops.mean(loss(y, y_pred, sample_weight=sample_weight))
    values = ops.convert_to_tensor(loss(y, y_pred))
    if sample_weight is not None:
        if not len(values.shape):
            raise ValueError(
                "sample_weight needs a loss that returns one value per example. Received: sample_weight, and a "
                "function that returned a scalar. Return one value per example, or leave out the weights."
            )
        weight = ops.cast(sample_weight, values.dtype)
        values *= ops.reshape(weight, (*ops.shape(weight), *[1] * (len(values.shape) - len(weight.shape))))
    return ops.mean(values)


def differentiated(
    model: keras.Model,
    kernels: Sequence[Kernel],
    others: Sequence[keras.Variable],
    loss: Loss,
    batch: Batch,
    training: bool,
) -> list[Tensor]:
    """Returns the loss's gradients for kernels, then for other variables; `None` for those of the others without one.

    Raises:
        ValueError: the loss does not depend on a kernel.
    """
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
            f"The loss must depend on every kernel that is scored. Received: {model.name!r}, whose loss does not "
            f"depend on {', '.join(missing)}. Exclude their layers."
        )
    # An embedding's gradient comes as the rows that were looked up.
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


def compiled(step: Callable[..., Any], batch: Any) -> Callable[..., Any]:
    """Returns the step as a graph that is traced once for all batch sizes."""
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


def with_labels(data: Data) -> Iterator[tuple[int, Batch]]:
    """Yields the number of examples and (x, y, sample_weight) of every batch.

    Raises:
        ValueError: a batch has no labels, or there are no examples.
    """
    examples = 0
    for count, batch in batches(data):
        if batch[1] is None:
            raise ValueError(
                "Gradients of a loss need labels. Received: a batch without labels. Pass batches (x, y), or arrays "
                "(x, y)."
            )
        examples += count
        yield count, batch
    require_examples(examples)
