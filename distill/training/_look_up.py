"""Finds what was recorded for the examples of a batch, in the data's pipeline."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Stored(NamedTuple):
    """What one array of a look-up holds for an example.

    Attributes:
        shape: its shape.
        dtype: name of its dtype.
    """

    shape: tuple[int, ...]
    dtype: str


class LookUp:
    """Returns what was recorded for examples, by their ids.

    It stands in the place of a teacher's preprocessing: what it returns is that teacher's view of a batch.

    Args:
        read: function of integers (batch,); returns an array (batch, ...) for each name.
        stored: what these arrays hold, by name.
        owner: what errors call the teacher.
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], dict[str, np.ndarray]],
        stored: Mapping[str, Stored],
        owner: str,
    ) -> None:
        self._read = read
        self._stored = dict(stored)
        self._owner = owner

    def __call__(self, ids: Any) -> dict[str, Any]:
        """Returns the arrays by name; tensors, within the pipeline of a `tf.data.Dataset`."""
        if ids is None:
            raise ValueError(
                f"Recorded answers are found by the ids of the examples. Received: {self._owner} as a teacher, and a "
                "batch of inputs without ids. Train on answers.with_ids(data), or on "
                "distill.Identified(x, ids) where ids numbers the examples as they were recorded, from 0."
            )
        if not (hasattr(ids, "graph") and not hasattr(ids, "numpy")):
            return self._read(np.asarray(ids))
        import tensorflow as tf

        names = list(self._stored)
        found = tf.numpy_function(
            lambda numbers: list(self._read(numbers).values()),
            [ids],
            [stored.dtype for stored in self._stored.values()],
        )
        return {
            name: tf.ensure_shape(tensor, (*ids.shape[:1], *self._stored[name].shape))
            for name, tensor in zip(names, found, strict=True)
        }
