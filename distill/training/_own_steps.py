"""Runs a model's own training steps to measure them, and then restores the model."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from distill._types import Data
from distill._untouched import recurrent_states
from distill.training._identified import unlabelled
from distill.training._preparing import as_arrays, preparation_of


def require_own_steps(model: keras.Model, caller: str) -> None:
    """Raises ValueError unless a model's steps can be run alone; `caller` is the function that needs them."""
    backend = keras.backend.backend()
    replicas = model.distribute_strategy.num_replicas_in_sync if backend == "tensorflow" else 1
    if backend != "tensorflow" or not model.compiled or not model.built or replicas > 1:
        raise ValueError(
            f"{caller} needs a model that is compiled, built and on one device, with the TensorFlow backend. "
            f"Received: {model.name!r}, compiled={model.compiled}, built={model.built}, {replicas} replicas, backend "
            f"{backend}. Compile it, and give it a keras.Input or call it on a batch."
        )


def as_examples(data: Data) -> Any:
    """Returns a data set of single examples; there is at least one."""
    import tensorflow as tf

    if not isinstance(data, tf.data.Dataset):
        try:
            data = tf.data.Dataset.from_tensor_slices(
                # TensorFlow makes one tensor of a list.
                keras.tree.lists_to_tuples(as_arrays(tuple(data) if isinstance(data, list) else data))
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                "data must be arrays with the same number of rows, such as (x, y), or an unbatched tf.data.Dataset. "
                f"Received: {type(data).__name__} ({error})."
            ) from error
    data = unlabelled(data)
    if not list(data.take(1)):
        raise ValueError("data must hold at least one example, to fill batches with. Received: no example.")
    return data


def own_batches(model: keras.Model, examples: Any, batch_size: int, count: int = 1) -> Any:
    """Returns an endless data set of so many batches, kept in memory, as the model's step gets them.

    Args:
        model: the model.
        examples: data set of single examples, which are repeated to fill a batch.
        batch_size: examples per batch.
        count: number of batches after which the first one comes again.
    """
    # TensorFlow does not know the size of the batch, as in `fit`, so one trace serves all sizes.
    batches, own = examples.repeat().batch(batch_size).take(count), preparation_of(model)
    return (batches if own is None else batches.map(own)).cache().repeat()


def seconds_of(model: keras.Model, batches: Iterator[Any]) -> float:
    """Runs `steps_per_execution` training steps and returns the seconds that they took."""
    start = time.perf_counter()
    for value in keras.tree.flatten(model.train_function(batches)):
        keras.ops.convert_to_numpy(value)  # waits for the GPU
    return time.perf_counter() - start


def values_of(model: keras.Model) -> list[tuple[keras.Variable, np.ndarray]]:
    """Returns all that training steps change: variables with their values."""
    variables = (*model.variables, *model.metrics_variables, *model.optimizer.variables)
    changed = {id(variable): variable for variable in (*variables, *recurrent_states(model))}
    return [(one, np.array(keras.ops.convert_to_numpy(one))) for one in changed.values()]


def put_back(model: keras.Model, values: list[tuple[keras.Variable, np.ndarray]]) -> None:
    """Restores the variables."""
    model.reset_metrics()  # compiled metrics have variables only after the first step
    for variable, value in values:
        variable.assign(value)


@contextlib.contextmanager
def as_they_were(model: keras.Model) -> Iterator[list[tuple[keras.Variable, np.ndarray]]]:
    """Restores everything that training steps change; yields what that is."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    values = values_of(model)
    try:
        yield values
    finally:
        put_back(model, values)
