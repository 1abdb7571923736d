"""Rules of raw `keras.ops` that move, join or split axes and leave the numbers as they are."""

import numpy as np

from distill._keras import numpy_ops, operations
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._tying import concatenate, edit_shape, numbered, reshape


def _transpose(call: Call) -> Axes:
    axes = call.inputs[0]
    order = call.operation.axes
    return tuple(axes[i] for i in (range(len(axes))[::-1] if order is None else order))


def _swap_axes(call: Call) -> Axes:
    axes = list(call.inputs[0])
    one, other = call.operation.axis1, call.operation.axis2
    axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


def _move_axis(call: Call) -> Axes:
    axes = call.inputs[0]
    sources, destinations = (
        numbered(side, len(axes)) for side in (call.operation.source, call.operation.destination)
    )
    rest = [i for i in range(len(axes)) if i not in sources]
    for destination, source in sorted(zip(destinations, sources, strict=True)):
        rest.insert(destination, source)
    return tuple(axes[i] for i in rest)


def _expand_dims(call: Call) -> Axes:
    rank = len(call.output_shapes[0])
    new = numbered(call.operation.axis, rank)
    rest = iter(call.inputs[0])
    return tuple(None if i in new else next(rest) for i in range(rank))


def _squeeze(call: Call) -> Axes:
    axes, shape = call.inputs[0], call.shapes[0]
    if call.operation.axis is None:
        return tuple(axis for axis, size in zip(axes, shape, strict=True) if size != 1)
    gone = numbered(call.operation.axis, len(axes))
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _reshape(call: Call) -> Axes:
    target = tuple(call.operation.newshape)
    if call.output_shapes[0][:1] != call.shapes[0][:1]:
        return call.lock_all("it reshapes the batch")[0]
    found = reshape(call, call.inputs[0], call.shapes[0], call.output_shapes[0])
    edit_shape(call, "newshape", target, found)
    return found


def _split(call: Call) -> list[Axes]:
    operation, axes = call.operation, call.inputs[0]
    at = operation.axis % len(axes)
    labels = axes[at]
    if labels is None:
        return [axes] * len(call.output_shapes)
    ends = np.cumsum([shape[at] for shape in call.output_shapes])[:-1]
    parts = np.split(labels, ends)

    def indices(*sizes: int) -> tuple[int, ...]:
        return tuple(int(end) for end in np.cumsum(sizes)[:-1])

    call.edit("indices_or_sections", *parts, value=indices)
    return [(*axes[:at], part, *axes[at + 1 :]) for part in parts]


def _array_split(call: Call) -> list[Axes]:
    """It deals out what is there, so all parts must lose as much."""
    axes = call.inputs[0]
    at = call.operation.axis % len(axes)
    found = [list(axes) for _ in call.output_shapes]
    labels = axes[at]
    if labels is not None and not isinstance(call.operation.indices_or_sections, int):
        return _split(call)
    if labels is not None:
        parts = np.split(labels, np.cumsum([shape[at] for shape in call.output_shapes])[:-1])
        for axes_of_part, part in zip(found, parts, strict=True):
            call.unite(parts[0], part)
            axes_of_part[at] = part
    return [tuple(each) for each in found]


def _stacked(call: Call, axis: int) -> Axes:
    """A concatenation along an axis, if there is one."""
    if len({len(axes) for axes, _ in call.operands()}) > 1 or len(call.output_shapes[0]) <= axis:
        return call.lock_all("it stacks tensors of different ranks")[0]
    return concatenate(call, axis)


def _pad(call: Call) -> Axes:
    operation, axes = call.operation, call.inputs[0]
    width = operation.pad_width
    pairs = list(width) * len(axes) if len(width) == 1 else list(width)
    found: list[Axis] = []
    for axis, (before, after) in zip(axes, pairs, strict=True):
        if axis is None or not (before or after):
            found.append(axis)
            continue
        if operation.mode != "constant":
            call.lock(axis, "it pads with other channels")
        edges = [call.fixed(size, "it pads channels") for size in (before, after)]
        found.append(np.concatenate([edges[0], axis, edges[1]]))
    if call.value("constant_values"):
        call.vanishes = lambda: False
    return tuple(found)


def _stack(call: Call) -> Axes:
    operands = [axes for axes, _ in call.operands()]
    united: list[Axis] = []
    for meeting in zip(*operands, strict=True):
        axis = meeting[0]
        for other in meeting[1:]:
            axis = call.unite(axis, other)
        united.append(None if any(one is None for one in meeting) else axis)
    united.insert(call.operation.axis % (len(united) + 1), None)
    return tuple(united)


def _flip(call: Call) -> Axes:
    axes = call.inputs[0]
    turned = numbered(call.operation.axis, len(axes))
    return tuple(axis[::-1] if i in turned and axis is not None else axis for i, axis in enumerate(axes))


def _rot90(call: Call) -> Axes:
    """Each quarter turn reverses the second axis and exchanges the two."""
    axes = list(call.inputs[0])
    one, other = call.operation.axes
    for _ in range(call.operation.k % 4):
        turned = axes[other]
        axes[one], axes[other] = (None if turned is None else turned[::-1]), axes[one]
    return tuple(axes)


SHAPE_RULES: dict[type, Rule] = {
    numpy_ops.Concatenate: lambda call: concatenate(call, call.operation.axis),
    numpy_ops.ExpandDims: _expand_dims,
    numpy_ops.Flip: _flip,
    numpy_ops.Hstack: lambda call: _stacked(call, 1),
    numpy_ops.Moveaxis: _move_axis,
    numpy_ops.Pad: _pad,
    numpy_ops.Reshape: _reshape,
    numpy_ops.Rot90: _rot90,
    numpy_ops.ArraySplit: _array_split,
    numpy_ops.Split: _split,
    numpy_ops.Squeeze: _squeeze,
    numpy_ops.Stack: _stack,
    numpy_ops.Swapaxes: _swap_axes,
    numpy_ops.Transpose: _transpose,
}
# Before Keras 3.15 there is no Dstack.
SHAPE_RULES |= {kind: lambda call: _stacked(call, 2) for kind in operations(numpy_ops, "Dstack")}
