"""What many rules share: how broadcasting, reshaping, concatenation and activations tie axes together."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from distill.pruning.structured._call import Call
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._structure import Shape, Size

POSITIONWISE_LAYERS = (
    layers.ActivityRegularization,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.ReLU,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)


def same(call: Call) -> Axes:
    """Each number of the output depends on the number of the input at the same place."""
    by_number(call)
    return call.inputs[0]


def by_number(call: Call) -> None:
    """Finds out by trying whether an operation that works number by number maps zeros to zeros."""

    def vanishes() -> bool:
        rng = np.random.default_rng(0)
        ranks = [len(shape) for shape in call.shapes]
        for _ in range(4):
            values = [
                np.full((1,) * rank, 0.0 if zero else 2 * rng.normal(), "float32")
                for rank, zero in zip(ranks, call.vanishing(), strict=True)
            ]
            if np.any(keras.ops.convert_to_numpy(call.compute(values)) != 0):
                return False
        return True

    call.vanishes = vanishes


def activate(call: Call, activation: Any, axes: Axes) -> Axes:
    """Applies an activation to these axes: a function, or a layer with or without weights."""
    if activation is None:
        call.vanishes = lambda: True
        return axes
    shape: list[int | None] = [2 if axis is None else axis.size for axis in axes]
    if len(axes) == len(call.output_shapes[0]):
        shape = [
            size if axis is None else axis.size
            for axis, size in zip(axes, call.output_shapes[0], strict=True)
        ]
    if isinstance(activation, layers.Layer) and activation.variables:
        return call.inner(activation, [tuple(shape)], [axes])[0]
    found = call.tried(activation, shape)
    call.vanishes = lambda: found.vanishes
    for axis, apart in zip(axes, found.apart, strict=True):
        if not apart:
            call.lock(axis, found.reason)
    return tuple(axis if apart else None for axis, apart in zip(axes, found.apart, strict=True))


def numbered(axis: int | Sequence[int] | None, rank: int) -> list[int]:
    """The axes that an operation's setting names, counted from the front; all axes for `None`."""
    if axis is None:
        return list(range(rank))
    return [one % rank for one in (axis if isinstance(axis, Sequence) else [axis])]


def has_arrays(call: Call) -> bool:
    """Whether the call contains an array, such as a kernel, besides tensors."""
    return len(call.operands()) > len(call.inputs)


def sizes_of(axes: Axes, shape: Shape) -> list[Size]:
    """Sizes as `Call.multiplies` takes them: labels of the axes that can be cut, numbers for the others."""
    return [size if axis is None else axis for axis, size in zip(axes, shape, strict=True)]


def is_quantized(layer: Any) -> bool:
    """Whether a layer is quantized or has LoRA enabled, so that its kernel alone does not say what it computes."""
    return getattr(layer, "quantization_mode", None) is not None or getattr(layer, "lora_enabled", False)


def only(call: Call, axes: Axes, kept: Sequence[int], what: str) -> Axes:
    """Locks all axes except those of `kept`, because `what` mixes positions along them; returns what can be cut."""
    places = {axis % len(axes) for axis in kept}
    for i, axis in enumerate(axes):
        if i not in places:
            call.lock(axis, f"{what} reaches across this axis")
    return tuple(axis if i in places else None for i, axis in enumerate(axes))


def elementwise(call: Call) -> Axes:
    """Broadcasts as numpy does; positions that meet go together."""
    by_number(call)
    operands = call.operands()
    rank = len(call.output_shapes[0])
    found: list[Axis] = []
    for i in range(rank):
        axis: Axis = None
        meeting = [
            (axes[i - rank], shape[i - rank])
            for axes, shape in operands
            if len(axes) >= rank - i and shape[i - rank] != 1
        ]
        for j, (labels, _) in enumerate(meeting):
            axis = labels if j == 0 else call.unite(axis, labels)
        fixed = any(labels is None for labels, _ in meeting)
        found.append(None if fixed else axis)
    return tuple(found)


def reshape(call: Call, axes: Axes, shape: Shape, target: Shape) -> Axes:
    """Axes after a reshape that leaves the batch axis alone. Runs of axes with equal products are followed apart."""
    found: list[Axis] = [axes[0]]
    if _known(shape[1:]) != _known(target[1:]):  # an unknown size differs, perhaps that of the batch
        for axis in axes:
            call.lock(axis, "the sizes of a reshape are unknown")
        return (None,) * len(target)
    i, j = 1, 1
    while i < len(shape) or j < len(target):
        one, other = i, j
        i, j = min(one + 1, len(shape)), min(other + 1, len(target))
        while (missing := _product(target[other:j]) - _product(shape[one:i])) and not math.isnan(missing):
            i, j = (i + 1, j) if missing > 0 else (i, j + 1)
        if math.isnan(missing) and shape[one:i] != target[other:j]:  # the rest cannot be told apart
            for axis in axes[one:]:
                call.lock(axis, "the sizes of a reshape are unknown")
            return (*found, *(None for _ in target[other:]))
        found += _regroup(call, axes[one:i], shape[one:i], target[other:j])
    return tuple(found)


def _known(shape: Shape) -> tuple[int, int]:
    """The product of the known sizes, and the number of unknown ones."""
    sizes = [size for size in shape if size is not None]
    return math.prod(sizes), len(shape) - len(sizes)


def _product(shape: Shape) -> float:
    """The number of positions; NaN if a size is unknown."""
    return math.prod(math.nan if size is None else size for size in shape)


def _regroup(call: Call, axes: Axes, shape: Shape, target: Shape) -> list[Axis]:
    """Axes of one run of axes that becomes another with the same product."""
    labelled = [(i, axis) for i, axis in enumerate(axes) if axis is not None]
    if shape == target or not labelled:
        return list(axes) if shape == target else [None] * len(target)
    # Copies stay if that leaves channels free, for no weights make them. No target: a single position.
    candidates = [at for at, axis in labelled if not call.are_copies(axis)] or [at for at, _ in labelled]
    followed = candidates[0] if len(candidates) == 1 and target else None
    for at, axis in labelled:
        if at != followed:
            call.lock(axis, "a reshape joins two axes that can both be cut")
    if followed is None:
        return [None] * len(target)
    at, axis = followed, dict(labelled)[followed]
    sizes, targets = ([size or 0 for size in side] for side in (shape, target))  # all are known here
    along = axis.reshape([-1 if i == at else 1 for i in range(len(axes))])
    labels = np.broadcast_to(along, sizes).reshape(targets)
    # Axes that do not depend on the labels are not cut. Of the others only one can be, the last.
    wide = [i for i, size in enumerate(targets) if size != 1] or [len(targets) - 1]
    varying = [i for i in wide if (labels != np.take(labels, [0], i)).any()] or wide[-1:]
    lines = np.moveaxis(labels, varying[-1], -1).reshape(-1, targets[varying[-1]])
    for line in lines[1:] if len(varying) > 1 else ():
        call.unite(lines[0], line)
    return [lines[0].copy() if i == varying[-1] else None for i in range(len(targets))]


def concatenate(call: Call, axis: int) -> Axes:
    """Joins the operands along an axis; positions along the other axes go together."""
    operands = call.operands()
    rank = len(call.output_shapes[0])
    axis %= rank
    found: list[Axis] = []
    for i in range(rank):
        parts = [axes[i] for axes, _ in operands]
        if i != axis:
            united = parts[0]
            for part in parts[1:]:
                united = call.unite(united, part)
            found.append(None if any(part is None for part in parts) else united)
        elif all(part is None for part in parts):
            found.append(None)
        else:
            known = [
                call.fixed(shape[i] or 0, "it cannot be cut") if part is None else part
                for part, (_, shape) in zip(parts, operands, strict=True)
            ]
            found.append(np.concatenate(known))
    return tuple(found)


def sum_over(call: Call, axis: Axis) -> None:
    """Says that the call sums over an axis of the input, to which channels that are zero add nothing."""
    if axis is not None and not all(call.vanishing()):
        call.lock(axis, "it sums over channels that are not zero when their weights are")


def softmax(call: Call) -> Axes:
    """Axes that the softmax goes over stay."""
    axes = elementwise(call) if call.arguments("mask") else call.inputs[0]
    call.vanishes = lambda: False
    over = numbered(call.operation.axis, len(axes))
    kept = [i for i in range(len(axes)) if i not in over]
    return only(call, axes, kept, type(call.operation).__name__)


def edit_shape(call: Call, key: str, shape: Shape, axes: Axes) -> None:
    """Says that a shape in the config follows the axes that are cut, where it states their sizes."""

    def resized(*sizes: int | None) -> tuple[int | None, ...]:
        return tuple(
            old if new is None or old in (-1, None, 1) else new for old, new in zip(shape, sizes, strict=True)
        )

    call.edit(key, *axes, value=resized)
