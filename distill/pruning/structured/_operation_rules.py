"""Rules of raw `keras.ops` that compute: number by number, reductions and products."""

from collections.abc import Sequence
from typing import Any

from keras import layers

from distill._keras import core, image, math_ops, nn, numpy_ops, operations
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._tying import (
    elementwise,
    has_arrays,
    numbered,
    only,
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


def _reduced(call: Call) -> Axes:
    """The axes that are left by a reduction."""
    operation, axes = call.operation, call.inputs[0]
    gone = numbered(operation.axis, len(axes))
    if getattr(operation, "keepdims", False):
        return tuple(None if i in gone else axis for i, axis in enumerate(axes))
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _reduce(call: Call) -> Axes:
    axes = call.inputs[0]
    gone = numbered(call.operation.axis, len(axes))
    only(call, axes, [i for i in range(len(axes)) if i not in gone], type(call.operation).__name__)
    return _reduced(call)


def _sum(call: Call) -> Axes:
    """Channels that are zero add nothing to a sum, so they can go."""
    axes = call.inputs[0]
    for axis in numbered(call.operation.axis, len(axes)):
        sum_over(call, axes[axis])
    return _reduced(call)


def _matmul(call: Call) -> Axes:
    (one, shape), (other, other_shape) = call.operands()
    if min(len(shape), len(other_shape)) < 2:
        return call.lock_all("it multiplies by a vector")[0]
    summed = call.unite(one[-1], other[-2])
    if one[-1] is not None and other[-2] is not None and not _any_vanishes(call, [True, True]):
        call.lock(summed, "it multiplies channels that are not zero when their weights are")
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
    """Whether one of these operands is zero where channels are removed. Arrays are: they are cut like weights."""
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
        letters = [letter for letter in sizes if letter != target[0]]  # for one example
        call.multiplies(None, [sizes[letter] if letter in fixed else found[letter] for letter in letters])
    for letter in found.keys() - fixed - set(target):
        if not _any_vanishes(call, [letter in term for term in terms]):
            call.lock(found[letter], "it multiplies channels that are not zero when their weights are")
    return tuple(None if letter in fixed else found[letter] for letter in target)


def _channels_apart(call: Call) -> Axes:
    axes = call.inputs[0]
    channel = 1 if call.operation.data_format == "channels_first" else len(axes) - 1
    return only(call, axes, [channel], "it")


def _clip(call: Call) -> Axes:
    if getattr(call.operation.x_min, "shape", ()) or getattr(call.operation.x_max, "shape", ()):
        return call.lock_all("its bounds are arrays")[0]
    return same(call)


def is_addition(operation: Any) -> bool:
    """Whether an operation adds its inputs, as at the end of a residual block."""
    return type(operation) in (layers.Add, numpy_ops.Add)


ACTIVATIONS = tuple(operations(nn, *_ACTIVATIONS.split()))

OPERATION_RULES: dict[type, Rule] = {
    **dict.fromkeys(operations(numpy_ops, *_ELEMENTWISE.split()), elementwise),
    **dict.fromkeys(ACTIVATIONS, elementwise),
    **dict.fromkeys([math_ops.Rsqrt, math_ops.Erf, core.Cast, core.StopGradient], elementwise),
    **dict.fromkeys(operations(numpy_ops, *_REDUCING.split()), _reduce),
    **dict.fromkeys([nn.Softmax, nn.LogSoftmax], softmax),
    **dict.fromkeys([nn.MaxPool, nn.AveragePool], _channels_apart),
    image.Resize: _channels_apart,
    numpy_ops.Clip: _clip,
    numpy_ops.Einsum: _einsum,
    numpy_ops.Matmul: _matmul,
    numpy_ops.Sum: _sum,
}
