"""Data for scores, batch by batch; and a model that is put back as it was."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._keras import clear_losses
from distill._types import Data, Tensors
from distill._untouched import recurrent_states, same_attributes, same_randomness

# x, y and sample_weight of a batch; y and sample_weight may be `None`.
Batch = tuple[Tensors, Tensors, Tensors]

_BATCH = 128  # examples of arrays that are looked at together


def require_data(data: Data) -> None:
    """Raises ValueError for data that cannot be read more than once."""
    if isinstance(data, Iterator) or not (
        _are_arrays(data) or isinstance(data, (Iterable, keras.utils.PyDataset))
    ):
        raise ValueError(
            "data must be readable more than once, because every request for scores reads it anew. Received: an object "
            f"of type {type(data).__name__}. Pass a tf.data.Dataset, a list of batches or a tuple of arrays."
        )
    if _are_arrays(data):
        sizes = {len(array) for array in keras.tree.flatten(data) if array is not None}
        if len(sizes) != 1:
            raise ValueError(
                f"Arrays must have one row per example. Received: arrays of {sorted(sizes)} rows. A tuple is read as "
                "(x, y); pass batches in a list."
            )


def require_finite(data: Data) -> None:
    """Raises ValueError for data that cannot be read more than once or never end."""
    require_data(data)
    cardinality = getattr(data, "cardinality", None)
    if cardinality is not None and int(cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise ValueError(
            "data must end, because scores are means over all of it. Received: a dataset that never ends. Leave out "
            "repeat(), or use take()."
        )


def require_examples(examples: int) -> None:
    """Raises ValueError for data without examples."""
    if not examples:
        raise ValueError("data must have at least one example. Received: data without any.")


def _are_arrays(data: Data) -> bool:
    return isinstance(data, (tuple, dict)) or hasattr(data, "shape")


def batches(data: Data) -> Iterator[tuple[int, Batch]]:
    """Yields the number of examples and (x, y, sample_weight) as tensors, for every batch that is not empty."""
    for batch in _cut(data):
        batch = keras.tree.map_structure(_as_tensor, keras.utils.unpack_x_y_sample_weight(batch))
        count = int(next(part for part in keras.tree.flatten(batch[0]) if part is not None).shape[0])
        if count:
            yield count, batch


def _cut(data: Data) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        for i in range(data.num_batches):
            yield data[i]
    elif _are_arrays(data):
        size = next(len(array) for array in keras.tree.flatten(data) if array is not None)
        for start in range(0, size, _BATCH):
            part = slice(start, start + _BATCH)
            yield keras.tree.map_structure(
                lambda array, part=part: None if array is None else array[part], data
            )
    else:
        yield from data


def _as_tensor(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    # As in `fit`: numpy makes float64 by default, so float64 is not taken as a wish for it.
    return ops.convert_to_tensor(value.astype(keras.config.floatx()) if value.dtype == np.float64 else value)


@contextlib.contextmanager
def put_back(model: keras.Model, variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Restores variables, bit by bit, when the context ends; and those of metrics, which a compiled loss may change."""
    kept = {
        id(variable): variable
        for variable in [*variables, *recurrent_states(model), *model.metrics_variables]
    }
    before = {key: np.array(ops.convert_to_numpy(variable)) for key, variable in kept.items()}
    try:
        with same_attributes(model), same_randomness():
            yield
    finally:
        for key, variable in kept.items():
            variable.assign(before[key])
        for metric in model.metrics:
            if any(id(variable) not in kept for variable in metric.variables):
                metric.reset_state()  # the loss created it at its first call
        clear_losses(model)  # what layers passed to `add_loss` in a graph that is gone
