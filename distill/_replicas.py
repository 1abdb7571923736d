"""Means over a whole batch under tf.distribute, where each replica has a part of the batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from distill._keras import strategy_of
from distill._types import Tensor


def whole_batch_means(means: Sequence[Tensor], counts: Sequence[Tensor]) -> list[Tensor]:
    """Turns means over this replica's part of a batch into means over the whole batch.

    Keras gives every replica the same weight. That equals the result of one device only if all parts have the same
    size, which they do not at the end of an epoch. Here every example has the same weight.

    Args:
        means: scalars, each divided by the number of replicas as `keras.losses.Loss` does.
        counts: number of values that each mean is over; 0 if this replica has none.

    Returns:
        For each, the mean over the whole batch divided by the number of replicas, so that the sum over the replicas is
        the mean. Its gradient is this replica's part of the mean's gradient.
    """
    replicas = replica_count()
    if replicas == 1:
        return list(means)
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return list(means)  # Keras builds the model once, symbolically, outside of any replica.
    own = ops.stack([ops.cast(count, "float32") for count in counts])
    parts = ops.divide_no_nan(own, context.all_reduce(tf.distribute.ReduceOp.SUM, own))
    values = ops.stack(means) * parts * replicas
    whole = context.all_reduce(tf.distribute.ReduceOp.SUM, ops.stop_gradient(values))
    return ops.unstack(values + ops.stop_gradient(whole / replicas - values), len(means))


def replica_count() -> int:
    """The number of tf.distribute replicas that share a step; 1 without a strategy."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def own_scope(model: keras.Model) -> AbstractContextManager[Any]:
    """Returns the scope of the tf.distribute strategy under which `model` was made, for a model made from it."""
    own = strategy_of(model) if keras.backend.backend() == "tensorflow" else None
    return nullcontext() if own is None else own.scope()


def scope_of(model: keras.Model) -> AbstractContextManager[Any]:
    """Returns the scope of the tf.distribute strategy under which `model` was made, for variables that go with it.

    Raises:
        ValueError: a strategy is active, but the model was made outside of it.
    """
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    if strategy_of(model) is None and tf.distribute.has_strategy():
        raise ValueError(
            "Under a tf.distribute strategy, the student must be made inside the strategy's scope. Received: "
            f"{model.name!r}, made outside of it. A teacher may be made outside."
        )
    return own_scope(model)
