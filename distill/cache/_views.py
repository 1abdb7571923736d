"""Views of examples that are random, and yet the same at each pass."""

from collections.abc import Callable
from typing import Any

from distill._types import Data, Tensor, Tensors

Augment = Callable[[Tensors, Tensor], Tensors]


def views(data: Data, augment: Augment, *, count: int, seed: int) -> Any:
    """Makes several random views of each batch, which depend only on a seed, the view and the batch.

    A teacher's answer holds only for the view that it saw, and distillation is better if teacher and student
    see the same view [1]. So record views, and train on the same ones. A pass over the result brings all
    batches in their first view, then all in their second, and so on. For the cache, each view is an example.

    Args:
        data: a `tf.data.Dataset` of batches of x, or of (x, …), in the same order at each pass.
        augment: function of x and a seed, integers (2,), that returns a new x; for example, one that calls
            `tf.image.stateless_random_crop(x, size, seed)`. Its randomness must come from the seed alone:
            `record` refuses data that differs from pass to pass.
        count: number of views, >= 1.
        seed: integer from 0 to 2³¹ − 1.

    Returns:
        A data set with `count` times as many batches.

    Raises:
        ValueError: `data` is not a data set or never ends, or a number is out of range.

    Example:
        ```python
        import tensorflow as tf
        from distill import cache


        def augment(x, seed):
            return x + tf.random.stateless_normal(tf.shape(x), seed, stddev=0.1)


        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        train = cache.views(batches, augment, count=3, seed=0)
        answers = cache.record(teacher, train, "cache", verbose=0)
        distiller = distill.Distiller(answers, student, distill.SoftTargets(1.0))
        distiller.compile("adam", loss="sparse_categorical_crossentropy")
        distiller.fit(answers.with_ids(train), epochs=2, shuffle=False)
        ```

    References:
        [1] Beyer et al. 2022, arXiv:2106.05237.
    """
    import tensorflow as tf

    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            f"Views are made of a tf.data.Dataset of batches. Received: {type(data).__name__}. Make one with "
            "tf.data.Dataset.from_tensor_slices((x, y)).batch(32)."
        )
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Views are made of a data set that ends. Received: an endless one. Leave out repeat()."
        )
    for name, number, low in (("count", count, 1), ("seed", seed, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number < 2**31:
            raise ValueError(f"{name} must be an integer from {low} to 2³¹ − 1. Received: {name}={number!r}.")

    def view(number: Tensor) -> Any:
        own = tf.random.fold_in(tf.constant([seed, 0]), number)

        def augmented(batch: Tensor, element: Any) -> Any:
            x, *rest = element if isinstance(element, tuple) else (element,)
            return (augment(x, tf.random.fold_in(own, batch)), *rest)

        return data.enumerate().map(augmented)

    seen = tf.data.Dataset.range(count).flat_map(view)
    return (
        seen.apply(tf.data.experimental.assert_cardinality(count * data.cardinality()))
        if data.cardinality() >= 0
        else seen
    )
