"""Means over the whole batch where the replicas of tf.distribute each see a part of it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
from keras import ops

from distill._keras import strategy_of


def whole_batch_means(means: list[Any], counts: list[Any]) -> list[Any]:
    """Turns means over this replica's part of the batch into means over the whole batch.

    Keras gives every replica the same say, which is one device's result only where all parts are equally large:
    not at the end of an epoch. Here every example counts the same.

    Args:
        means: scalars, each divided by the number of replicas as `keras.losses.Loss` does.
        counts: over how many values each of them is a mean; 0 where this replica has none.

    Returns:
        For each, the mean over the whole batch divided by the number of replicas, so that their sum over the
        replicas is that mean. Its gradient is this replica's part of the mean's.
    """
    replicas = replica_count()
    if replicas == 1:
        return means
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None:
        return means  # Keras builds the model once, symbolically, outside of any replica.
    own = ops.stack([ops.cast(count, "float32") for count in counts])
    parts = ops.divide_no_nan(own, context.all_reduce(tf.distribute.ReduceOp.SUM, own))
    values = ops.stack(means) * parts * replicas
    whole = context.all_reduce(tf.distribute.ReduceOp.SUM, ops.stop_gradient(values))
    return ops.unstack(values + ops.stop_gradient(whole / replicas - values), len(means))


def replica_count() -> int:
    """How many replicas of tf.distribute share a step; 1 elsewhere."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def scope_of(model: keras.Model) -> AbstractContextManager[Any]:
    """The scope of the tf.distribute strategy under which `model` was made; its companions belong there too."""
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    own = strategy_of(model)
    if own is None and tf.distribute.has_strategy():
        raise ValueError(
            "Under a tf.distribute strategy the student's variables belong to the replicas. Received: "
            f"{model.name!r}, made outside of the strategy's scope. Make it inside; a teacher may stay outside."
        )
    return nullcontext() if own is None else own.scope()
