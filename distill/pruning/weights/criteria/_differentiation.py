"""A loss on data and its gradients, as criteria need them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops

from distill._keras import compute_loss
from distill.pruning.weights._kernels import Kernel
from distill.pruning.weights.criteria._batches import batches, require_examples


def as_loss(loss: Any) -> Any:
    """The loss that a criterion was given; `None` if that is the model's own."""
    loss = None if loss is None else keras.losses.get(loss)
    if getattr(loss, "reduction", None) == "sum":
        raise ValueError(
            "A loss is a mean over examples or gives one value for each. Received: a loss with reduction='sum'. Use "
            "reduction='sum_over_batch_size'."
        )
    return loss


def require_gradients(model: keras.Model, loss: Any) -> None:
    """Raises where gradients cannot be taken."""
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
        return compute_loss(model, x, y, y_pred, sample_weight, training)
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


def differentiated(
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


def compiled(step: Callable[..., Any], batch: Any) -> Callable[..., Any]:
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


def with_labels(data: Any) -> Iterator[tuple[int, tuple[Any, Any, Any]]]:
    """Batches (x, y, sample_weight) with their numbers of examples; raises where labels are missing, or examples."""
    examples = 0
    for count, batch in batches(data):
        if batch[1] is None:
            raise ValueError(
                "Gradients of a loss need labels. Received: a batch without. Pass batches (x, y), or arrays (x, y)."
            )
        examples += count
        yield count, batch
    require_examples(examples)
