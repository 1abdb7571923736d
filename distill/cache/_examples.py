"""The examples that a teacher is asked for: numpy batches in one order, and digests that identify them."""

import itertools
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from distill._types import Arrays, Data
from distill.training._preparing import as_arrays


class ArrayExamples:
    """Examples in arrays.

    Args:
        x: an array (examples, …), or a list or dictionary of such.
        batch_size: number of examples in a batch.

    Attributes:
        x: the arrays.
        batches: `None`, since arrays have no batches of their own.
    """

    batches = None

    def __init__(self, x: Arrays, batch_size: int) -> None:
        self.x = x
        self._batch_size = batch_size
        lengths = {len(part) for part in keras.tree.flatten(x)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"Arrays must hold one example or more, and the same number each. Received: {sorted(lengths)}."
            )
        self._count = lengths.pop()

    def count(self) -> int:
        """Returns the number of examples."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Arrays]]:
        """Yields batches in order, each with the number of its first example."""
        for start in range(0, self._count, self._batch_size):
            yield start, rows_of(self.x, slice(start, start + self._batch_size))


class DatasetExamples:
    """Examples in a `tf.data.Dataset` of batches.

    Args:
        data: batches of x, or of (x, …).

    Attributes:
        batches: number of batches, as far as the data set knows; −2 if it does not.
    """

    def __init__(self, data: Any) -> None:
        self._data = data.map(lambda *element: element[0])
        self.batches = int(data.cardinality())
        if self.batches == -1:
            raise ValueError("Data must end. Received: an endless data set. Leave out repeat().")
        if any(part.shape.rank == 0 for part in keras.tree.flatten(self._data.element_spec)):
            raise ValueError(
                "A data set must be of batches, as fit takes them. Received: single examples "
                f"{self._data.element_spec}. Call batch(32) on it."
            )

    def count(self) -> int:
        """Returns the number of examples, for which the data set is read once; the teacher is not asked."""
        return sum(len(keras.tree.flatten(x)[0]) for _, x in self)

    def __iter__(self) -> Iterator[tuple[int, Arrays]]:
        """Yields batches in order, each with the number of its first example."""
        start = 0
        for x in self._data.as_numpy_iterator():
            yield start, x
            start += len(keras.tree.flatten(x)[0])


def examples_of(data: Data, batch_size: int) -> ArrayExamples | DatasetExamples:
    """Returns the examples of arrays or of a data set; of a tuple, the first is x, as for `fit`.

    Raises:
        ValueError: the data are neither, have no end, or change from pass to pass.
    """
    if is_dataset(data):
        examples = DatasetExamples(data)
        _require_steady(examples)
        return examples
    x = data[0] if isinstance(data, tuple) else data
    x = as_arrays(x)
    if not all(isinstance(part, np.ndarray) for part in keras.tree.flatten(x)):
        raise ValueError(
            "cache.record takes arrays, or a tf.data.Dataset of batches. Received: "
            f"{type(data).__name__}. Turn a generator or a PyDataset into one with tf.data.Dataset.from_generator; its "
            "examples must come in the same order on each pass."
        )
    return ArrayExamples(x, batch_size)


def is_dataset(data: Any) -> bool:
    """Whether data are a `tf.data.Dataset`; TensorFlow is not imported just to ask this."""
    tf = sys.modules.get("tensorflow")
    return tf is not None and isinstance(data, tf.data.Dataset)


def rows_of(x: Arrays, rows: Any) -> Arrays:
    """Returns some rows of each array."""
    return keras.tree.map_structure(lambda part: part[rows], x)


def digests(x: Arrays) -> np.ndarray:
    """Returns a checksum of the inputs of each example, uint32 (batch,)."""
    parts = [np.asarray(part) for part in keras.tree.flatten(x)]
    found = np.zeros(len(parts[0]), "uint32")
    for part in parts:
        if part.dtype == object:  # strings
            rows: Any = [b"\0".join(map(_as_bytes, np.ravel(row))) for row in part]
        else:
            rows = np.ascontiguousarray(part).reshape(len(part), -1).view("uint8")
        found = np.array(
            [zlib.crc32(row, before) for row, before in zip(rows, found.tolist(), strict=True)], "uint32"
        )
    return found


def _as_bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _require_steady(examples: DatasetExamples) -> None:
    """Raises ValueError if two passes over a data set begin with different batches, or there is none."""
    passes = [digests(x) for _ in range(2) for _, x in itertools.islice(examples, 1)]
    if len(passes) < 2:
        raise ValueError("Data must hold one example or more. Received: an empty data set.")
    one, other = passes
    if one.shape != other.shape or (one != other).any():
        raise ValueError(
            "A teacher's answers hold for the inputs that it saw, so each pass over the data must yield the same "
            "ones, in the same order. Received: a data set whose first batch differs from pass to pass. Shuffle after "
            "answers.with_ids(data), or with reshuffle_each_iteration=False; make random views with "
            "cache.views(data, augment, count=..., seed=...)."
        )
