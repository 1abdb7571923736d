"""Rules of raw `keras.ops` that pick, repeat or rearrange positions along the axis of the channels."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from distill._keras import core, image, nn, numpy_ops, operations
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._tying import edit_shape, numbered


def _get_item(call: Call) -> Axes:
    key = call.value("key")
    key = key if isinstance(key, tuple) else (key,)
    if not all(
        part is None or part is Ellipsis or _is_index(part) or isinstance(part, slice) for part in key
    ):
        return call.lock_all("only integers and slices are understood as an index")[0]
    axes = call.inputs[0]
    missing = len(axes) - sum(part is not None and part is not Ellipsis for part in key)
    parts: list[Any] = []
    for part in key if Ellipsis in key else (*key, Ellipsis):
        parts += [slice(None)] * missing if part is Ellipsis else [part]
    found: list[Axis] = []
    # Place of a part of the key -> the axis that it picks from.
    picked: dict[int, np.ndarray] = {}
    rest = iter(axes)
    for place, part in enumerate(parts):
        axis = None if part is None else next(rest)
        if axis is None or part == slice(None):
            found += [axis] * (not _is_index(part))
            continue
        picked[place] = axis
        if _is_index(part):
            call.lock(axis[[part]], "it picks this channel")
        else:
            found.append(_picked(call, axis, part))

    def renumbered(*kept: np.ndarray) -> tuple[Any, ...]:
        new = dict(zip(picked, kept, strict=True))
        return tuple(
            _in_fewer(part, new[place]) if place in new else part for place, part in enumerate(parts)
        )

    call.argument("key", *picked.values(), value=renumbered)
    return tuple(found)


def _is_index(part: Any) -> bool:
    return isinstance(part, (int, np.integer)) and not isinstance(part, bool)


def _picked(call: Call, axis: np.ndarray, part: slice) -> Axis:
    """The labels of a slice, tied so that what is left of it is a slice again."""
    start, stop, step = part.indices(axis.size)
    if abs(step) == 1:
        return axis[part]
    if step > 0 and start < step and axis.size % step == 0 and stop > axis.size - step + start:
        call.groups(axis, axis.size // step)  # every stride goes or stays as a whole
        return axis[part]
    call.lock(axis, f"it picks every {abs(step)}th of some of the channels")
    return axis[part]


def _in_fewer(part: Any, kept: np.ndarray) -> Any:
    """An index or slice of an axis of which only some positions are kept."""
    if _is_index(part):
        return int(np.count_nonzero(kept[: part % kept.size]))
    start, stop, step = part.indices(kept.size)
    if step > 1:
        return slice(part.start, None, step)
    low, high = (start, max(start, stop)) if step > 0 else (min(stop, start) + 1, start + 1)
    before, inside = np.count_nonzero(kept[:low]), np.count_nonzero(kept[low:high])
    if step > 0:
        return slice(int(before), int(before + inside), part.step)
    return slice(int(before + inside) - 1, int(before) - 1 if before else None, -1)


def _slice(call: Call) -> Axes:
    axes, shape = call.inputs[0], call.shapes[0]
    starts, sizes = call.value("start_indices"), call.operation.shape
    static = isinstance(starts, (list, tuple)) and all(map(_is_index, starts))
    if not static:
        return call.lock_all("where it starts is not known before it runs")[0]
    found: list[Axis] = [
        axis if axis is None or size == whole else axis[start : start + size]
        for axis, start, size, whole in zip(axes, starts, sizes, shape, strict=True)
    ]
    cut = {i: axis for i, axis in enumerate(axes) if axis is not None}

    def moved(*kept: np.ndarray) -> list[int]:
        new = list(starts)
        for i, which in zip(cut, kept, strict=True):
            new[i] = int(np.count_nonzero(which[: starts[i]]))
        return new

    call.argument("start_indices", *cut.values(), value=moved)
    edit_shape(call, "shape", tuple(sizes), tuple(found))
    return tuple(found)


def _take(call: Call) -> Axes:
    if not isinstance(call.value("x"), keras.KerasTensor):
        return call.lock_all("it picks from an array")[0]
    axes, indices = call.inputs[0], call.value("indices")
    if call.operation.axis is None:
        return call.lock_all("it picks from a flat tensor")[0]
    at = call.operation.axis % len(axes)
    axis = axes[at]
    if isinstance(indices, keras.KerasTensor):
        call.lock(axis, "what it picks is not known before it runs")
        for other in call.inputs[1]:
            call.lock(other, "it is an index")
        return (*axes[:at], *[None] * len(indices.shape), *axes[at + 1 :])
    places = np.asarray(keras.ops.convert_to_numpy(indices)).astype(int)
    if axis is None:
        return (*axes[:at], *[None] * places.ndim, *axes[at + 1 :])
    if places.ndim > 1:
        call.lock(axis, "it picks channels into several axes")
        return (*axes[:at], *[None] * places.ndim, *axes[at + 1 :])
    if places.ndim == 0:
        call.lock(axis[[int(places)]], "it picks this channel")

    def renumbered(kept: np.ndarray) -> Any:
        new = (np.cumsum(kept) - 1)[places]
        return int(new) if places.ndim == 0 else new[kept[places]].astype("int32")

    call.argument("indices", axis, value=renumbered)
    return (*axes[:at], *([axis[places]] if places.ndim else []), *axes[at + 1 :])


def _repeat(call: Call) -> Axes:
    axes, shape = call.inputs[0], call.shapes[0]
    times = np.ravel(call.operation.repeats)
    if call.operation.axis is None:
        return call.lock_all("it flattens what it repeats")[0]
    at = call.operation.axis % len(axes)
    axis = axes[at]
    if times.size > 1:
        call.lock(axis, "it repeats some channels more often than others")
        return (*axes[:at], None, *axes[at + 1 :])
    made = None if axis is None else np.repeat(axis, times[0])
    if at and shape[at] == 1:
        made = call.copies(int(times[0]))
        call.edit("repeats", made)
    return (*axes[:at], made, *axes[at + 1 :])


def _tile(call: Call) -> Axes:
    times = [int(time) for time in np.ravel(call.operation.repeats)]
    rank = len(call.output_shapes[0])
    times = [1] * (rank - len(times)) + times
    missing = rank - len(call.inputs[0])
    axes = [*[None] * missing, *call.inputs[0]]
    shape = [*[1] * missing, *call.shapes[0]]
    found: list[Axis] = []
    copied: dict[int, np.ndarray] = {}
    for i, (axis, size, time) in enumerate(zip(axes, shape, times, strict=True)):
        if i and size == 1 and time > 1:
            copied[i] = call.copies(time)
        found.append(copied.get(i, axis if axis is None or time == 1 else np.tile(axis, time)))

    def retimed(*sizes: int) -> list[int]:
        new = dict(zip(copied, sizes, strict=True))
        return [new.get(i, time) for i, time in enumerate(times)]

    call.edit("repeats", *copied.values(), value=retimed)
    return tuple(found)


def _broadcast_to(call: Call) -> Axes:
    axes, shape, target = call.inputs[0], call.shapes[0], call.output_shapes[0]
    found: list[Axis] = [None] * len(target)
    for i in range(1, len(target) + 1):
        old = shape[-i] if i <= len(axes) else 1
        if old == target[-i]:
            found[-i] = axes[-i] if i <= len(axes) else None
        elif i < len(target) and old == 1 and target[-i] is not None:
            found[-i] = call.copies(target[-i] or 0)
    edit_shape(call, "shape", tuple(call.operation.shape), tuple(found))
    return tuple(found)


def _roll(call: Call) -> Axes:
    shift, axes = call.operation.shift, call.inputs[0]
    if call.operation.axis is None:
        return call.lock_all("it rolls a flat tensor")[0]
    found = list(axes)
    for at in numbered(call.operation.axis, len(axes)):
        axis = axes[at]
        if axis is None:
            continue
        if not _is_index(shift):
            call.lock(axis, "it rolls several axes at once")
            continue
        by = shift % axis.size
        found[at] = np.roll(axis, by)
        # Also where only what does not go round is removed: then a negative shift, or one of several rounds, changes.
        call.edit("shift", axis[: axis.size - by], axis[axis.size - by :], value=lambda _, moved: moved)
    return tuple(found)


def _unstack(call: Call) -> list[Axes]:
    axes = call.inputs[0]
    at = call.operation.axis % len(axes)
    call.lock(axes[at], "it takes the channels apart")
    return [(*axes[:at], *axes[at + 1 :])] * len(call.output_shapes)


def _depth_to_space(call: Call) -> Axes:
    """Channel c of the output is made of the channels c, c + C, c + 2 C … of the input."""
    axes, blocks = call.inputs[0], call.operation.block_size**2
    channel = _channel(call)
    found = axes[channel]
    if found is not None:
        rows = found.reshape(blocks, -1)
        for row in rows[1:]:
            call.unite(rows[0], row)
        found = rows[0].copy()
    return _with_channel(call, channel, found)


def _space_to_depth(call: Call) -> Axes:
    return _patches(call, call.operation.block_size**2)


def _extract_patches(call: Call) -> Axes:
    return _patches(call, int(np.prod(call.operation.size)))


def _patches(call: Call, positions: int) -> Axes:
    """All channels of one position come after those of another."""
    channel = _channel(call)
    axis = call.inputs[0][channel]
    return _with_channel(call, channel, None if axis is None else np.tile(axis, positions))


def _channel(call: Call) -> int:
    return 1 if call.operation.data_format == "channels_first" else len(call.inputs[0]) - 1


def _with_channel(call: Call, channel: int, found: Axis) -> Axes:
    for i, axis in enumerate(call.inputs[0]):
        if i != channel:
            call.lock(axis, "it moves positions into channels")
    return tuple(found if i == channel else None for i in range(len(call.output_shapes[0])))


def _kinds(rules: dict[tuple[Any, str], Rule]) -> Iterator[tuple[type, Rule]]:
    """The rules of the operations that this version of Keras has."""
    for (module, name), rule in rules.items():
        for kind in operations(module, name):
            yield kind, rule


PICKING_RULES: dict[type, Rule] = dict(
    _kinds(
        {
            (core, "Slice"): _slice,
            (core, "Unstack"): _unstack,
            (image, "ExtractPatches"): _extract_patches,
            (nn, "DepthToSpace"): _depth_to_space,
            (nn, "SpaceToDepth"): _space_to_depth,
            (numpy_ops, "BroadcastTo"): _broadcast_to,
            (numpy_ops, "GetItem"): _get_item,
            (numpy_ops, "Repeat"): _repeat,
            (numpy_ops, "Roll"): _roll,
            (numpy_ops, "Take"): _take,
            (numpy_ops, "Tile"): _tile,
        }
    )
)
