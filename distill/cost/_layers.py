"""What each layer of a model costs."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from distill._keras import flatten_layers, own_variables
from distill.cost._calls import Call, total
from distill.cost._memory import bytes_of


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one layer costs, or one operation between layers.

    Attributes:
        name: path, such as "block/conv".
        kind: its type.
        output_shape: of its last call, without the batch; `None` where it is not called or the model has no graph.
        parameters: how many numbers its weights have; a weight that layers share is the first one's.
        nonzero: how many of them are not zero.
        macs: multiply-adds of one example in all calls of the layer; `None` where they are not known.
        activation_bytes: of the outputs of all its calls, for one example; `None` where they are not known.
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...] | None
    parameters: int
    nonzero: int
    macs: int | None
    activation_bytes: int | None


def layer_costs(model: keras.Model, calls: Sequence[Call] | None) -> tuple[LayerCost, ...]:
    """The costs of each layer that is called or has weights.

    Args:
        model: a built model.
        calls: what it does with one example; `None` if that is not known.
    """
    by_path: dict[str, list[Call]] = collections.defaultdict(list)
    for call in calls or ():
        by_path[call.path].append(call)
    # What is called as a whole has what it holds inside; of other layers, those inside have rows of their own.
    whole = {call.path for call in calls or () if isinstance(call.operation, keras.Layer)}
    kinds = {call.path: type(call.operation).__name__ for call in calls or ()}
    weights: dict[str, list[np.ndarray]] = {path: [] for path in by_path}
    left = {id(weight) for weight in model.weights}
    for path, layer in _tree(model, ""):
        row = next((parent for parent in _parents(path) if parent in whole), path or model.name)
        if row not in whole:
            kinds[row] = type(layer).__name__
        for variable in own_variables(layer):
            if id(variable) in left:
                left.remove(id(variable))
                weights.setdefault(row, []).append(keras.ops.convert_to_numpy(variable))
    return tuple(
        _cost(path, kinds[path], None if calls is None else by_path[path], values)
        for path, values in weights.items()
    )


def _cost(path: str, kind: str, calls: Sequence[Call] | None, weights: Sequence[np.ndarray]) -> LayerCost:
    shape = macs = size = None
    if calls is not None:
        outputs = [tensor for call in calls for tensor in call.outputs]
        shape = tuple(outputs[-1].shape[1:]) if outputs else None
        macs = total(calls).total if all(call.products is not None for call in calls) else None
        with contextlib.suppress(ValueError):  # the size of one is unknown
            size = bytes_of(outputs)
    parameters = sum(value.size for value in weights)
    nonzero = sum(int(np.count_nonzero(value)) for value in weights)
    return LayerCost(path, kind, shape, parameters, nonzero, macs, size)


def _tree(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each layer by its path, the model itself by none."""
    yield path, layer
    for inner in flatten_layers(layer, include_self=False, recursive=False):
        yield from _tree(inner, f"{path}/{inner.name}" if path else inner.name)


def _parents(path: str) -> Iterator[str]:
    """The path and what it lies in, outermost first."""
    parts = path.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
