"""Measures what each layer of a model costs."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from distill._keras import flatten_layers, own_variables
from distill.cost._calls import Call, total
from distill.cost._memory import bytes_of


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """Costs of one layer, or of one operation between layers.

    Attributes:
        name: path, such as "block/conv".
        kind: name of its type.
        output_shape: shape of its last output, without the batch; `None` if it is not called or the model has no graph.
        parameters: number of scalars in its weights; a weight that several layers share counts for the first one.
        nonzero: number of these scalars that are not zero.
        macs: multiply-adds of one example in all calls of the layer; `None` if unknown.
        activation_bytes: bytes of the outputs of all its calls, for one example; `None` if unknown.

    Example:
    ```python
    from distill import cost

    for layer in cost.profile(model).layers:
        print(layer.name, layer.parameters, layer.macs)
    ```
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...] | None
    parameters: int
    nonzero: int
    macs: int | None
    activation_bytes: int | None


def layer_costs(model: keras.Model, calls: Sequence[Call] | None) -> tuple[LayerCost, ...]:
    """Costs of each layer that is called or has weights.

    Args:
        model: built model.
        calls: its calls with one example; `None` if they are unknown.
    """
    by_path: dict[str, list[Call]] = collections.defaultdict(list)
    for call in calls or ():
        by_path[call.path].append(call)
    # A layer that is called as a whole owns all weights inside it; layers inside any other have rows of their own.
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
        with contextlib.suppress(ValueError):  # the size of a tensor is unknown
            size = bytes_of(outputs)
    parameters = sum(value.size for value in weights)
    nonzero = sum(int(np.count_nonzero(value)) for value in weights)
    return LayerCost(path, kind, shape, parameters, nonzero, macs, size)


def _tree(layer: keras.Layer, path: str) -> Iterator[tuple[str, keras.Layer]]:
    """Each layer with its path; the path of the model itself is empty."""
    yield path, layer
    for inner in flatten_layers(layer, include_self=False, recursive=False):
        yield from _tree(inner, f"{path}/{inner.name}" if path else inner.name)


def _parents(path: str) -> Iterator[str]:
    """The paths of the layers around a layer, outermost first, and its own."""
    parts = path.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))
