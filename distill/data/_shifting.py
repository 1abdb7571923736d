"""Shifted and mirrored views of images and series."""

import numbers
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from distill._types import Tensor
from distill.data._batches import require_seed, seeded


def shift(batches: tf.data.Dataset, places: int, *, seed: int, fill: float | None = None) -> tf.data.Dataset:
    """Moves each image or series of a batch by up to `places` along every axis except the channels.

    Each example and axis gets its own distance, and every distance from −places to places is equally likely. The
    distances of the nth pass over the result depend on `seed` and n alone. In distillation, teacher and student see the
    same shifted example.

    With `fill=0`, this is a random crop of an image with `places` black pixels around it.

    Args:
        batches: batches of x or of (x, …), where x holds images (batch, height, width, channels) or series (batch,
            steps, channels). Anything after x, such as labels, is kept.
        places: largest distance, in pixels or steps, >= 1 and less than the size of each axis.
        seed: integer in [0, 2³¹ − 1).
        fill: value of the pixels or steps that move in from outside, a whole number if x holds integers; by default the
            edge is repeated.

    Returns:
        A data set whose elements have the same structure.

    Raises:
        ValueError: `places`, `seed` or `fill` is out of range, or `batches` is not a data set of batches of images or
            series.

    Example:
        ```python
        from distill import data

        digits = data.load("digits")
        views = data.shift(data.batches(digits.train, 64, seed=0), 1, seed=0)
        for images, labels in views.take(1):
            print(images.shape)
        ```
    """
    require_seed(seed)
    spec = _examples("shift", batches)
    if spec.shape.rank not in (3, 4):
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
    fits = isinstance(fill, numbers.Real) and (
        spec.dtype.is_floating
        or (float(fill).is_integer() and spec.dtype.min <= float(fill) <= spec.dtype.max)
    )
    if fill is not None and not fits:
        raise ValueError(
            "fill must be a number, and for integers a whole one that their type can hold. Received: "
            f"{fill!r}, for {spec.dtype.name}. "
            "Divide images by 255 first, or leave fill out to repeat the edge."
        )

    def shifted(x: Tensor, number: Tensor) -> Tensor:
        shape = tf.shape(x)
        for axis in range(1, x.shape.rank - 1):
            key = tf.stack([number, tf.constant(axis, tf.int64)])
            distances = tf.random.stateless_uniform((shape[0], 1), key, -places, places + 1, tf.int32)
            source = distances + tf.range(shape[axis])
            inside = tf.clip_by_value(source, 0, shape[axis] - 1)
            x = tf.gather(x, inside, axis=axis, batch_dims=1)
            if fill is not None:
                ones = [1] * x.shape.rank
                ones[0], ones[axis] = shape[0], shape[axis]
                x = tf.where(tf.reshape(source == inside, ones), x, tf.cast(fill, x.dtype))
        return x

    return _views(batches, shifted, seed)


def flip(batches: tf.data.Dataset, *, seed: int) -> tf.data.Dataset:
    """Mirrors each image of a batch, left to right, with a probability of one half.

    Which images of the nth pass over the result are mirrored depends on `seed` and n alone. In distillation, teacher
    and student see the same image. `shift` and `flip` may have the same seed: they draw different random numbers.

    Args:
        batches: batches of x or of (x, …), where x holds images (batch, height, width, channels). Anything after x,
            such as labels, is kept.
        seed: integer in [0, 2³¹ − 1).

    Returns:
        A data set whose elements have the same structure.

    Raises:
        ValueError: `seed` is out of range, or `batches` is not a data set of batches of images.

    Example:
        ```python
        from distill import data

        digits = data.load("digits")
        views = data.flip(data.batches(digits.train, 64, seed=0), seed=0)
        for images, labels in views.take(1):
            print(images.shape)
        ```
    """
    require_seed(seed)
    spec = _examples("flip", batches)
    if spec.shape.rank != 4:
        raise ValueError(f"flip needs batches of images (batch, height, width, channels). Received: {spec}.")

    def flipped(x: Tensor, number: Tensor) -> Tensor:
        key = tf.stack([number, tf.constant(0, tf.int64)])  # `shift` has those of its axes
        mirrored = tf.random.stateless_uniform((tf.shape(x)[0], 1, 1, 1), key) < 0.5
        return tf.where(mirrored, tf.reverse(x, [2]), x)

    return _views(batches, flipped, seed)


def _examples(name: str, batches: object) -> tf.TensorSpec:
    """Returns the spec of x, which must be one tensor."""
    if not isinstance(batches, tf.data.Dataset):
        raise ValueError(
            f"{name} needs a data set of batches. Received: {type(batches).__name__}. Make one with "
            "data.batches((x, y), 32)."
        )
    whole = batches.element_spec
    if any(part.shape.rank == 0 for part in tf.nest.flatten(whole)):
        raise ValueError(
            f"{name} needs a data set of batches. Received: single examples, {whole}. Batch them first: "
            "data.batches(split, 32, seed=0)."
        )
    spec = whole[0] if isinstance(whole, tuple) else whole
    if not isinstance(spec, tf.TensorSpec):
        raise ValueError(
            f"{name} needs batches of images (batch, height, width, channels) or series (batch, steps, channels). "
            f"Received: {spec}."
        )
    return spec


def _views(
    batches: tf.data.Dataset, change: Callable[[Tensor, Tensor], Tensor], seed: int
) -> tf.data.Dataset:
    """Applies a function of x and a random number to each batch."""

    def changed(element: Any, number: Tensor) -> Any:
        x, *others = element if isinstance(element, tuple) else (element,)
        view = change(x, number)
        view.set_shape(x.shape)
        return (view, *others) if isinstance(element, tuple) else view

    # A counter would start again with each pass; random numbers go on.
    drawn = seeded(lambda: tf.data.Dataset.random(seed=int(seed), rerandomize_each_iteration=True))
    return tf.data.Dataset.zip(batches, drawn).map(changed)
