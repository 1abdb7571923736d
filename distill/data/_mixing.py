"""Mixed views of the data, for distillation without labels."""

from typing import Any

import tensorflow as tf

from distill._types import Tensor
from distill.data._batches import require_seed, seeded


def mixup(batches: tf.data.Dataset, *, seed: int, alpha: float = 1.0) -> tf.data.Dataset:
    """Mix each example of a batch with the one before it: λ · x + (1 − λ) · before, with λ from Beta(alpha, alpha).

    This is for function matching [1], where teacher and student see the same views and the student learns from the
    teacher alone. Each batch has one λ. The λs of the nth pass over the result depend on `seed` and n alone.

    Args:
        batches: batches of floats x, or of (x, …). Anything after x is dropped: labels do not hold for mixed examples.
        seed: integer in [0, 2³¹ − 1).
        alpha: number from 0.1 to 1000; with 1, the published value, every λ from 0 to 1 is equally likely.

    Returns:
        A data set of batches (x,).

    Raises:
        ValueError: `alpha` or `seed` is out of range, x is not a float, or `batches` is not a batched data set.

    Example:
        ```python
        import tensorflow as tf
        from distill import data

        dataset = tf.data.Dataset.from_tensor_slices((x, y))
        views = data.mixup(data.batches(dataset, 8, seed=0), seed=0)
        distiller = distill.Distiller(teacher, student, distill.SoftTargets(1.0), student_loss_weight=0)
        distiller.compile("adam")
        distiller.fit(views, epochs=2, verbose=0, shuffle=False)
        ```

    References:
        [1] Beyer et al. 2022, arXiv:2106.05237, section 3.2.
    """
    require_seed(seed)
    if not 0.1 <= alpha <= 1000:
        raise ValueError(
            f"alpha must be a number from 0.1 to 1000. Received: alpha={alpha!r}. The published value is 1."
        )
    if not isinstance(batches, tf.data.Dataset):
        raise ValueError(
            f"mixup needs a data set of batches. Received: {type(batches).__name__}. Make one with "
            "data.batches((x, y), 32)."
        )
    whole = batches.element_spec
    spec = whole[0] if isinstance(whole, tuple) else whole
    if any(part.shape.rank == 0 for part in tf.nest.flatten(whole)):
        raise ValueError(
            f"mixup needs batches, whose examples it mixes. Received: single examples {whole}. Batch them first."
        )
    if any(not part.dtype.is_floating for part in tf.nest.flatten(spec)):
        raise ValueError(
            f"mixup needs floats, of which it takes means. Received: {spec}. Divide images by 255 first."
        )

    def mixed(element: Any, number: Tensor) -> tuple[Any]:
        x = element[0] if isinstance(element, tuple) else element
        # Two Gamma variates make a Beta variate.
        a, b = tf.unstack(tf.random.stateless_gamma((2,), tf.stack([seed, number]), alpha))
        share = a / (a + b)

        def mix(part: Tensor) -> Tensor:
            weight = tf.cast(share, part.dtype)
            return weight * part + (1 - weight) * tf.roll(part, 1, axis=0)

        return (tf.nest.map_structure(mix, x),)

    # A counter would start again with each pass; random numbers go on.
    drawn = seeded(lambda: tf.data.Dataset.random(seed=int(seed), rerandomize_each_iteration=True))
    return tf.data.Dataset.zip(batches, drawn).map(mixed)
