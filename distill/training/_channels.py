"""On which axis the tensors of a graph have their channels: last, or first as data_format="channels_first" has it."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import keras
from keras import layers

from distill._graphs import Step, functional_of, nested_calls, run
from distill._keras import Functional, flatten_layers, nn, numpy_ops

# An axis counted from 0; `None` for one that nothing tells, which counts as the last.
Axis = int | None

_LAST = (
    *(layers.Dense, layers.EinsumDense, layers.Embedding, layers.RNN, layers.Bidirectional),
    *(layers.MultiHeadAttention, layers.GroupQueryAttention),
)
_BY_AXIS = (layers.BatchNormalization, layers.GroupNormalization, layers.Softmax, nn.Softmax, nn.LogSoftmax)
_RESHAPES = (layers.Reshape, numpy_ops.Reshape)


def channel_axes(graph: Functional) -> dict[int, Axis]:
    """Returns the axis of the channels of every tensor of a graph, and of the models nested in it, by the tensor's id.

    Convolutions, pooling and other layers state it by their `data_format`, custom layers by those of the layers in
    them. What follows has it where they had it, unless it moves axes. What goes into such a layer has it there too.
    """
    wanted: dict[int, Axis] = {}
    for _, node, _ in nested_calls(graph):
        for tensor in node.input_tensors:
            if (axis := _stated(node.operation, len(tensor.shape))) is not None:
                wanted.setdefault(id(tensor), axis)
    found: dict[int, Axis] = {}

    def note(tensors: Iterable[keras.KerasTensor], axes: Iterable[Axis]) -> list[Axis]:
        known = []
        for tensor, axis in zip(tensors, axes, strict=True):
            known.append(wanted.get(id(tensor)) if axis is None else axis)
            found[id(tensor)] = known[-1]
        return known

    def visit(step: Step[Axis]) -> list[Axis]:
        if step.nested is not None:
            inputs = note(step.nested.inputs, step.inputs())
            return note(step.node.outputs, step.enter(visit, inputs))
        given = list(zip(step.inputs(), step.node.input_tensors, strict=True))
        return note(step.node.outputs, [_axis_of(step.operation, out, given) for out in step.node.outputs])

    run(graph, note(graph.inputs, [None] * len(graph.inputs)), visit)
    return found


def is_channels_first(layer: keras.Layer) -> bool:
    """Whether a layer, or one in it, states that its channels come first."""
    return "channels_first" in _formats(flatten_layers(layer))


def _axis_of(operation: Any, output: keras.KerasTensor, given: Sequence[tuple[Axis, Any]]) -> Axis:
    rank = len(output.shape)
    if rank < 3:
        return None
    if (stated := _stated(operation, rank)) is not None:
        return stated
    if isinstance(operation, _LAST) or isinstance(getattr(operation, "layer", None), _LAST):
        return rank - 1
    if len(given) == 1 and len(given[0][1].shape) != rank and not isinstance(operation, _RESHAPES):
        return _with_other_rank(operation, given[0][0], len(given[0][1].shape), rank)
    axis, before = next(
        ((axis, x) for axis, x in given if axis is not None and len(x.shape) == rank), (None, None)
    )
    moved = _permutation(operation, rank)
    if moved is not None:
        return None if axis is None else moved.index(axis)
    if isinstance(operation, _RESHAPES):
        return _reshaped(given, output)
    if axis is None or before is None:
        own = getattr(operation, "axis", None)
        return own % rank if isinstance(operation, _BY_AXIS) and isinstance(own, int) else None
    if not type(operation).__module__.startswith("keras.") or isinstance(operation, layers.Lambda):
        # What it does is not known; one that moves the channels changes the sizes.
        return axis if output.shape[axis] == before.shape[axis] else None
    return axis


def _stated(operation: Any, rank: int) -> Axis:
    """The axis that an operation states, or the layers in it, for a tensor of so many axes."""
    if rank < 3:
        return None
    stating = [operation]
    if not hasattr(operation, "data_format"):
        if not isinstance(operation, keras.Layer) or functional_of(operation) is not None:
            return None
        stating = [layer for layer in flatten_layers(operation) if hasattr(layer, "data_format")]
    formats = _formats(stating)
    if len(formats) != 1:
        return None
    if formats == {"channels_last"}:
        return rank - 1
    spatial = _spatial_axes(stating[0])
    return 1 if spatial is None else max(rank - spatial - 1, 1)


def _formats(layers_: Iterable[Any]) -> set[str]:
    stated = [layer.data_format for layer in layers_ if hasattr(layer, "data_format")]
    return {keras.config.image_data_format() if one is None else one for one in stated}


def _spatial_axes(layer: Any) -> int | None:
    """The number of axes that a layer slides over: a layer may be called on a series of maps."""
    for owner, name in ((layer, "rank"), (getattr(layer, "cell", None), "rank"), (layer, "pool_dimensions")):
        if isinstance(found := getattr(owner, name, None), int):
            return found
    named = re.search(r"(\d)D$", type(layer).__name__)
    return int(named[1]) if named else None


def _permutation(operation: Any, rank: int) -> list[int] | None:
    """Which axis of its input an operation puts at each place; `None` if it moves none."""
    axes = list(range(rank))
    if isinstance(operation, layers.Permute):
        return [0, *operation.dims]
    if isinstance(operation, numpy_ops.Transpose):
        return axes[::-1] if operation.axes is None else [axis % rank for axis in operation.axes]
    if isinstance(operation, numpy_ops.Swapaxes):
        one, other = operation.axis1 % rank, operation.axis2 % rank
        axes[one], axes[other] = axes[other], axes[one]
        return axes
    if isinstance(operation, numpy_ops.Moveaxis):
        source, destination = (
            [axis % rank for axis in ([given] if isinstance(given, int) else given)]
            for given in (operation.source, operation.destination)
        )
        left = [axis for axis in axes if axis not in source]
        for place, axis in sorted(zip(destination, source, strict=True)):
            left.insert(place, axis)
        return left
    return None


def _with_other_rank(operation: Any, axis: Axis, before: int, after: int) -> Axis:
    """The axis of the channels after a reduction, or after axes of size 1 have come or gone."""
    changed = getattr(operation, "axis", None)
    if axis is None or changed is None:
        return None
    several = [changed] if isinstance(changed, int) else list(changed)
    changed = sorted(one % max(before, after) for one in several)
    if before > after:
        return None if axis in changed else axis - sum(one < axis for one in changed)
    for one in changed:
        axis += one <= axis
    return axis


def _reshaped(given: Sequence[tuple[Axis, Any]], output: keras.KerasTensor) -> Axis:
    """The axis of the channels, if it and those before it keep their sizes."""
    for axis, x in given:
        before, after = tuple(x.shape), tuple(output.shape)
        if axis is None or axis >= len(after) or before[axis] is None:
            continue
        sizes = math.prod(size or 0 for size in before[1:]), math.prod(size or 0 for size in after[1:])
        if before[: axis + 1] == after[: axis + 1] and (0 in sizes or sizes[0] == sizes[1]):
            return axis
    return None
