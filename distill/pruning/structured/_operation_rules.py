"""How raw `keras.ops` in a graph tie the axes of their inputs and outputs to each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from distill._keras import core, image, math_ops, nn, numpy_ops
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._tracing import Call, Rule
from distill.pruning.structured._tying import (
    concatenate,
    edit_shape,
    elementwise,
    has_arrays,
    only,
    reshape,
    same,
    sizes_of,
    softmax,
    sum_over,
)

_ELEMENTWISE = (
    "Abs Absolute Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Cbrt Ceil Copy Cos Cosh Divide "
    "DivideNoNan Equal Exp Exp2 Expm1 Floor FloorDivide Greater GreaterEqual Hypot Isfinite Isinf Isnan Less LessEqual "
    "Log Log10 Log1p Log2 Logaddexp LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply NanToNum "
    "Negative NotEqual OnesLike Power Reciprocal Round Sign Sin Sinh Sqrt Square Subtract Tan Tanh TrueDivide Trunc "
    "Where ZerosLike"
)
_ACTIVATIONS = (
    "Celu Elu Gelu HardShrink HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid Relu Relu6 Selu Sigmoid Silu "
    "SoftShrink Softplus Softsign SparsePlus SparseSigmoid Squareplus TanhShrink Threshold"
)
_REDUCING = "Mean Max Min Amax Amin Prod Std Var Any All Median CountNonzero"


def _gone(call: Call) -> set[int]:
    """The axes that a reduction goes over."""
    over, rank = call.operation.axis, len(call.inputs[0])
    over = range(rank) if over is None else over if isinstance(over, (list, tuple)) else [over]
    return {axis % rank for axis in over}


def _reduced(call: Call, mixing: bool) -> Axes:
    operation, axes = call.operation, call.inputs[0]
    gone = _gone(call)
    if mixing:
        kept = [i for i in range(len(axes)) if i not in gone]
        only(call, axes, kept, type(operation).__name__)
    if getattr(operation, "keepdims", False):
        return tuple(None if i in gone else axis for i, axis in enumerate(axes))
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _reduce(call: Call) -> Axes:
    return _reduced(call, True)


def _sum(call: Call) -> Axes:
    """Channels that are zero add nothing, so those that are summed over can go."""
    for axis in _gone(call):
        sum_over(call, call.inputs[0][axis])
    return _reduced(call, False)


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
    places = [
        tuple(axis % len(axes) for axis in (side if isinstance(side, (list, tuple)) else [side]))
        for side in (call.operation.source, call.operation.destination)
    ]
    rest = [i for i in range(len(axes)) if i not in places[0]]
    for destination, source in sorted(zip(places[1], places[0], strict=True)):
        rest.insert(destination, source)
    return tuple(axes[i] for i in rest)


def _expand_dims(call: Call) -> Axes:
    axes, rank = call.inputs[0], len(call.output_shapes[0])
    where = call.operation.axis
    new = {axis % rank for axis in (where if isinstance(where, (list, tuple)) else [where])}
    rest = iter(axes)
    return tuple(None if i in new else next(rest) for i in range(rank))


def _squeeze(call: Call) -> Axes:
    axes, shape = call.inputs[0], call.shapes[0]
    where = call.operation.axis
    if where is None:
        return tuple(axis for axis, size in zip(axes, shape, strict=True) if size != 1)
    gone = {axis % len(axes) for axis in (where if isinstance(where, (list, tuple)) else [where])}
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _reshape(call: Call) -> Axes:
    target = tuple(call.operation.newshape)
    if call.output_shapes[0][:1] != call.shapes[0][:1]:
        return call.lock_all("it reshapes the batch")[0]
    found = reshape(call, call.inputs[0], call.shapes[0], call.output_shapes[0])
    edit_shape(call, "newshape", target, found)
    return found


def _broadcast_to(call: Call) -> Axes:
    axes, shape, target = call.inputs[0], call.shapes[0], call.output_shapes[0]
    found: list[Axis] = [None] * len(target)
    for i in range(1, len(axes) + 1):
        found[-i] = axes[-i] if shape[-i] == target[-i] else None
    edit_shape(call, "shape", tuple(call.operation.shape), tuple(found))
    return tuple(found)


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


def _get_item(call: Call) -> Axes:
    key = call.value("key")
    key = key if isinstance(key, tuple) else (key,)
    if not all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in key):
        return call.lock_all("it picks by an index that is not followed")[0]
    axes = call.inputs[0]
    missing = len(axes) - sum(isinstance(part, (int, slice)) for part in key)
    parts: list[Any] = []
    for part in key if Ellipsis in key else (*key, Ellipsis):
        parts += [slice(None)] * missing if part is Ellipsis else [part]
    found: list[Axis] = []
    rest = iter(axes)
    for part in parts:
        if part is None:
            found.append(None)
            continue
        axis = next(rest)
        if part == slice(None):
            found.append(axis)
            continue
        call.lock(axis, "it picks some of the channels")
        if isinstance(part, slice):
            found.append(None)
    return tuple(found)


def _matmul(call: Call) -> Axes:
    (one, shape), (other, other_shape) = call.operands()
    if min(len(shape), len(other_shape)) < 2:
        return call.lock_all("it multiplies with a vector")[0]
    summed = call.unite(one[-1], other[-2])
    if one[-1] is not None and other[-2] is not None and not _any_vanishes(call, [True, True]):
        call.lock(summed, "it multiplies channels that are not zero where their weights are")
    rank = len(call.output_shapes[0])
    found: list[Axis] = []
    for i in range(2 - rank, 0):
        pair = [
            (axes[i - 2], sizes[i - 2])
            for axes, sizes in ((one, shape), (other, other_shape))
            if len(axes) >= 2 - i and sizes[i - 2] != 1
        ]
        axis = pair[0][0] if pair else None
        if len(pair) == 2:
            axis = call.unite(axis, pair[1][0])
        found.append(None if any(labels is None for labels, _ in pair) else axis)
    axes = (*found, one[-2], other[-1])
    if has_arrays(call):
        call.multiplies(None, sizes_of((*axes[1:], summed), (*call.output_shapes[0][1:], shape[-1])))
    return axes


def _any_vanishes(call: Call, among: Sequence[bool]) -> bool:
    """Whether one of these operands is zero where channels are removed, as arrays are, which are cut like weights."""
    return has_arrays(call) or any(zero for zero, asked in zip(call.vanishing(), among, strict=True) if asked)


def _einsum(call: Call) -> Axes:
    subscripts = call.operation.subscripts.replace(" ", "")
    sources, _, target = subscripts.partition("->")
    operands = call.operands()
    terms = sources.split(",")
    if "." in subscripts or not target or any(len(set(term)) < len(term) for term in terms):
        return call.lock_all("its equation is not understood")[0]
    found: dict[str, Axis] = {}
    fixed: set[str] = set()
    sizes: dict[str, int | None] = {}
    for term, (axes, shape) in zip(terms, operands, strict=True):
        sizes.update(zip(term, shape, strict=True))
        for letter, axis in zip(term, axes, strict=True):
            found[letter] = call.unite(found[letter], axis) if letter in found else axis
            if axis is None:
                fixed.add(letter)
    if has_arrays(call) and len(operands) > 1:
        letters = [letter for letter in sizes if letter != target[0]]  # of one example
        call.multiplies(None, [sizes[letter] if letter in fixed else found[letter] for letter in letters])
    for letter in found.keys() - fixed - set(target):
        if not _any_vanishes(call, [letter in term for term in terms]):
            call.lock(found[letter], "it multiplies channels that are not zero where their weights are")
    return tuple(None if letter in fixed else found[letter] for letter in target)


def _concatenate(call: Call) -> Axes:
    return concatenate(call, call.operation.axis)


def _flip(call: Call) -> Axes:
    axes, over = call.inputs[0], call.operation.axis
    over = range(len(axes)) if over is None else over if isinstance(over, (list, tuple)) else [over]
    turned = {axis % len(axes) for axis in over}
    return tuple(axis[::-1] if i in turned and axis is not None else axis for i, axis in enumerate(axes))


def _channels_apart(call: Call) -> Axes:
    axes = call.inputs[0]
    channel = 1 if call.operation.data_format == "channels_first" else len(axes) - 1
    return only(call, axes, [channel], "it")


def _clip(call: Call) -> Axes:
    if getattr(call.operation.x_min, "shape", ()) or getattr(call.operation.x_max, "shape", ()):
        return call.lock_all("its bounds are arrays")[0]
    return same(call)


def _of(module: Any, names: str) -> list[type]:
    return [getattr(module, name) for name in names.split() if hasattr(module, name)]


def is_addition(operation: Any) -> bool:
    """Whether it adds its inputs, as at the end of a residual block."""
    return type(operation) in (layers.Add, numpy_ops.Add)


ACTIVATIONS = tuple(_of(nn, _ACTIVATIONS))

OPERATION_RULES: dict[type, Rule] = {
    **dict.fromkeys(_of(numpy_ops, _ELEMENTWISE), elementwise),
    **dict.fromkeys(ACTIVATIONS, elementwise),
    **dict.fromkeys([math_ops.Rsqrt, math_ops.Erf, core.Cast, core.StopGradient], elementwise),
    **dict.fromkeys(_of(numpy_ops, _REDUCING), _reduce),
    **dict.fromkeys([nn.Softmax, nn.LogSoftmax], softmax),
    **dict.fromkeys([nn.MaxPool, nn.AveragePool], _channels_apart),
    core.Unstack: lambda call: call.lock_all("it takes tensors apart"),
    image.Resize: _channels_apart,
    numpy_ops.BroadcastTo: _broadcast_to,
    numpy_ops.Clip: _clip,
    numpy_ops.Concatenate: _concatenate,
    numpy_ops.Einsum: _einsum,
    numpy_ops.ExpandDims: _expand_dims,
    numpy_ops.Flip: _flip,
    numpy_ops.GetItem: _get_item,
    numpy_ops.Matmul: _matmul,
    numpy_ops.Moveaxis: _move_axis,
    numpy_ops.Pad: _pad,
    numpy_ops.Reshape: _reshape,
    numpy_ops.Split: _split,
    numpy_ops.Squeeze: _squeeze,
    numpy_ops.Stack: _stack,
    numpy_ops.Sum: _sum,
    numpy_ops.Swapaxes: _swap_axes,
    numpy_ops.Transpose: _transpose,
}
