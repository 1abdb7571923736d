"""Batches whose order depends on a seed alone, not on the process."""

import numbers
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from distill._types import Arrays


def batches(
    dataset: tf.data.Dataset | Arrays, batch_size: int, *, seed: int | None = None
) -> tf.data.Dataset:
    """Batch a data set or arrays, in their own order or shuffled.

    The order of the nth pass over the result depends on `seed` and n alone, not on the process or on TensorFlow's
    global seed. Every iterator counts as a pass, so runs that must see the same batches must each call `batches`.

    Args:
        dataset: unbatched data set of known length, such as `Splits.train`, or arrays with examples along the first
            axis, such as (x, y). Shuffling keeps all of it in memory.
        batch_size: number of examples in a batch, >= 1; the last batch may be smaller.
        seed: integer in [0, 2³¹ − 1) to shuffle anew on each pass; `None` to keep the order.

    Returns:
        The batched and prefetched data set; each pass contains every example once.

    Raises:
        ValueError: an argument is out of range, `dataset` is neither a data set nor arrays of one length, or its
            length is unknown or 0.

    Example:
        ```python
        from distill import data

        student.compile("sgd", "sparse_categorical_crossentropy")
        student.fit(data.batches((x, y), 8, seed=0), verbose=0, shuffle=False)
        ```
    """
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(
            f"batch_size must be an integer >= 1. Received: {batch_size!r}. "
            "Use the number of examples to get one batch."
        )
    if seed is not None:
        require_seed(seed)
    are_arrays = not isinstance(dataset, tf.data.Dataset)
    dataset = _as_dataset(dataset)
    count = int(dataset.cardinality())
    if count < 1:
        raise ValueError(
            "batches needs a data set of known length that is not empty, to shuffle all of it and to report progress. "
            f"Received: cardinality {count}. If you know the length, apply tf.data.experimental.assert_cardinality."
        )

    if seed is not None:
        unshuffled, seed = dataset, int(seed)
        dataset = seeded(lambda: unshuffled.shuffle(count, seed=seed))
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    if are_arrays:
        # There is nothing to tune here, and an iterator with a tuning thread waits in each epoch for it to end.
        options = tf.data.Options()
        options.autotune.enabled = False
        dataset = dataset.with_options(options)
    return dataset


def _as_dataset(given: object) -> tf.data.Dataset:
    if isinstance(given, tf.data.Dataset):
        return given
    if isinstance(given, list) and all(hasattr(part, "shape") for part in given):
        given = tuple(given)  # a list of arrays would become one array
    rule = "batches needs an unbatched tf.data.Dataset, or arrays with examples along the first axis, such as (x, y). "
    if not isinstance(given, (tuple, list, dict)) and not hasattr(given, "shape"):
        raise ValueError(
            f"{rule}Received: {given!r:.100} of type {type(given).__name__}. Pass one part of `load`'s result, such as "
            ".train, and put what generators and PyDatasets return into arrays."
        )
    try:
        return tf.data.Dataset.from_tensor_slices(given)
    except (TypeError, ValueError) as error:
        lengths = [np.shape(part)[:1] for part in tf.nest.flatten(given) if hasattr(part, "shape")]
        raise ValueError(
            f"{rule}Received: arrays of {[length[0] if length else 'one number' for length in lengths]} rows, of which "
            f"no data set can be made ({error!s:.200})."
        ) from error


def seeded(make: Callable[[], tf.data.Dataset]) -> tf.data.Dataset:
    """The data set that `make` returns, whose random numbers do not depend on TensorFlow's global seed."""

    @tf.function(autograph=False)
    def made() -> tf.data.Dataset:
        tf.random.set_seed(0)  # inside a graph this sets the graph's own seed
        return make()

    with tf.device("CPU:0"):  # a data set lives on the host, even where a function would run on a GPU
        return made.get_concrete_function()()  # `made()` would warn of retracing after five calls


def require_seed(seed: int) -> None:
    """Raise ValueError unless a seed is in the range in which TensorFlow keeps all seeds apart."""
    if not (isinstance(seed, numbers.Integral) and 0 <= seed < tf.int32.max):
        raise ValueError(
            f"seed must be an integer in [0, {tf.int32.max}), the range in which TensorFlow keeps all seeds apart. "
            f"Received: {seed!r}. 0 is as good as any."
        )
