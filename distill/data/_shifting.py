"""Shifted views of images and series."""

import numbers
from typing import Any

import tensorflow as tf

from distill._types import Tensor
from distill.data._batches import require_seed, seeded


def shift(batches: tf.data.Dataset, places: int, *, seed: int) -> tf.data.Dataset:
    """Moves each image or series of a batch by up to `places` along every axis but that of the channels.

    Every distance from −places to places is equally likely, for each example and axis apart. Where nothing is left to
    move in, the edge is repeated. The distances of the nth pass over the result depend on `seed` and n alone. In
    distillation, teacher and student see the same shifted example.

    Args:
        batches: batches of x or of (x, …), where x is images (batch, height, width, channels) or series (batch, steps,
            channels). What follows x, such as labels, stays.
        places: largest distance, in pixels or steps, >= 1 and less than the size of each axis.
        seed: integer in [0, 2³¹ − 1).

    Returns:
        A data set of the same elements.

    Raises:
        ValueError: `places` or `seed` is out of range, or `batches` is no data set of batches of images or series.

    Example:
        ```python
        from distill import data

        digits = data.load("digits")
        views = data.shift(data.batches(digits.train, 64, seed=0), 1, seed=0)
        student.compile("adam", "sparse_categorical_crossentropy")
        student.fit(views, verbose=0, shuffle=False)
        ```
    """
    require_seed(seed)
    if not isinstance(batches, tf.data.Dataset):
        raise ValueError(
            f"shift needs a data set of batches. Received: {type(batches).__name__}. Make one with "
            "data.batches((x, y), 32)."
        )
    whole = batches.element_spec
    spec = whole[0] if isinstance(whole, tuple) else whole
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank not in (3, 4):
        raise ValueError(
            "shift needs batches of images (batch, height, width, channels) or series (batch, steps, channels). "
            f"Received: {spec}."
        )
    sizes = spec.shape[1:-1]
    small = [
        size for size in sizes if size is not None and isinstance(places, numbers.Integral) and places >= size
    ]
    if not isinstance(places, numbers.Integral) or places < 1 or small:
        raise ValueError(
            "places must be an integer of at least 1 that is less than the size of each axis. "
            f"Received: {places!r}, for examples of shape {spec.shape[1:]}."
        )

    def shifted(element: Any, number: Tensor) -> Any:
        x, *others = element if isinstance(element, tuple) else (element,)
        shape = tf.shape(x)
        for axis in range(1, x.shape.rank - 1):
            key = tf.stack([number, tf.constant(axis, tf.int64)])
            distances = tf.random.stateless_uniform((shape[0], 1), key, -places, places + 1, tf.int32)
            source = tf.clip_by_value(distances + tf.range(shape[axis]), 0, shape[axis] - 1)
            x = tf.gather(x, source, axis=axis, batch_dims=1)
        x.set_shape(spec.shape)
        return (x, *others) if isinstance(element, tuple) else x

    # A counter would start again with each pass; random numbers go on.
    drawn = seeded(lambda: tf.data.Dataset.random(seed=int(seed), rerandomize_each_iteration=True))
    return tf.data.Dataset.zip(batches, drawn).map(shifted)
