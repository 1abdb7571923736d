"""Rules of raw `keras.ops` that compute number by number, or reduce an axis."""

from typing import Any

import numpy as np
from keras import layers

from distill._keras import core, image, linalg, math_ops, nn, numpy_ops, operations
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._kernel_rules import resized, spatial
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._tying import (
    elementwise,
    has_arrays,
    numbered,
    only,
    same,
    softmax,
    sum_over,
)

_ELEMENTWISE = (
    "Abs Absolute Add Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Cbrt Ceil Copy Cos Cosh Deg2rad Divide "
    "DivideNoNan Equal Exp Exp2 Expm1 Fabs Floor FloorDivide Fmax Fmin Fmod FullLike Greater GreaterEqual "
    "Hypot Isclose Isfinite Isinf Isnan Isneginf Isposinf Less LessEqual Log Log10 Log1p Log2 Logaddexp Logaddexp2 "
    "LogicalAnd LogicalNot LogicalOr LogicalXor Maximum Minimum Mod Multiply NanToNum Negative NotEqual OnesLike Power "
    "Rad2deg Reciprocal Round Sign Signbit Sin Sinc Sinh Sqrt Square Subtract Tan Tanh TrueDivide Trunc Where ZerosLike"
)
_ACTIVATIONS = (
    "Celu Elu Gelu HardShrink HardSigmoid HardSilu HardTanh LeakyRelu LogSigmoid Relu Relu6 Selu Sigmoid Silu "
    "SoftShrink Softplus Softsign SparsePlus SparseSigmoid Squareplus TanhShrink Threshold"
)
_REDUCING = "Mean Max Min Amax Amin Prod Std Var All Median Average"
_PICKING = "Argmax Argmin Trapezoid"
_ALONG = "Sort Argsort Diff Cumprod"


def _reduced(call: Call) -> Axes:
    """The axes that are left by a reduction."""
    operation, axes = call.operation, call.inputs[0]
    gone = numbered(operation.axis, len(axes))
    if getattr(operation, "keepdims", False):
        return tuple(None if i in gone else axis for i, axis in enumerate(axes))
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def _reduce(call: Call) -> Axes:
    """A statistic of channels, such as their mean, changes when some go."""
    axes, name = call.inputs[0], type(call.operation).__name__
    if len(call.inputs) > 1 or has_arrays(call):
        return call.lock_all("its weights are not understood")[0]
    for axis in numbered(call.operation.axis, len(axes)):
        call.mix(axes[axis], f"{name} reaches across this axis; cut it with exact=False")
    return _reduced(call)


def _quantile(call: Call) -> Axes:
    """Several quantiles are a new first axis."""
    if len(call.inputs) > 1 or has_arrays(call):
        return call.lock_all("its quantiles are an array or a tensor")[0]
    left = _reduce(call)
    return (None,) * (len(call.output_shapes[0]) - len(left)) + left


def _triangle(call: Call) -> Axes:
    """Which numbers become zero depends on their places along the last two axes."""
    axes = call.inputs[0]
    return only(call, axes, range(len(axes) - 2), type(call.operation).__name__)


def _pick(call: Call) -> Axes:
    axes = call.inputs[0]
    gone = numbered(call.operation.axis, len(axes))
    only(call, axes, [i for i in range(len(axes)) if i not in gone], type(call.operation).__name__)
    call.vanishes = lambda: False
    return _reduced(call)


def _moments(call: Call) -> list[Axes]:
    operation, axes = call.operation, call.inputs[0]
    gone = numbered(operation.axes, len(axes))
    for axis in gone:
        call.mix(axes[axis], "Moments reaches across this axis; cut it with exact=False")
    kept = [None if i in gone else axis for i, axis in enumerate(axes) if operation.keepdims or i not in gone]
    return [tuple(kept), tuple(kept)]


def _along(call: Call) -> Axes:
    """Positions along one axis depend on one another, those along the others do not."""
    axes = call.inputs[0]
    over = numbered(call.operation.axis, len(axes))
    return only(call, axes, [i for i in range(len(axes)) if i not in over], type(call.operation).__name__)


def _cumsum(call: Call) -> Axes:
    """Channels that are zero add nothing to those after them."""
    axes = call.inputs[0]
    if call.operation.axis is None:
        return call.lock_all("it adds up a flat tensor")[0]
    axis = axes[call.operation.axis]
    sum_over(call, axis)
    if axis is not None:
        call.vanishes = lambda: False
    return axes


def _top_k(call: Call) -> list[Axes]:
    axes = call.inputs[0]
    kept = only(call, axes, range(len(axes) - 1), "TopK")
    call.vanishes = lambda: False
    return [kept, kept]


def _norm(call: Call) -> Axes:
    """Channels that are zero add nothing to a norm."""
    axes, operation = call.inputs[0], call.operation
    if operation.ord not in (None, 1, 2, "fro"):
        return _pick(call)
    gone = numbered(operation.axis, len(axes))
    if operation.ord in (1, 2) and len(gone) > 1:  # of a matrix
        return _pick(call)
    for axis in gone:
        sum_over(call, axes[axis])
    return _reduced(call)


def _normalize(call: Call) -> Axes:
    axes = call.inputs[0]
    for axis in numbered(call.operation.axis, len(axes)):
        if call.operation.order > 0:
            sum_over(call, axes[axis])
        else:
            call.lock(axes[axis], "it divides by the smallest channel")
    return axes


def _glu(call: Call) -> Axes:
    """The first half of the channels, each times the gate that the same place of the second half makes."""
    axes = list(call.inputs[0])
    at = call.operation.axis % len(axes)
    axis = axes[at]
    if axis is not None:
        values, gates = np.split(axis, 2)
        call.unite(values, gates)
        axes[at] = values
    return tuple(axes)


def _sum(call: Call) -> Axes:
    """Channels that are zero add nothing to a sum, a count or an "or", so they can go."""
    axes = call.inputs[0]
    for axis in numbered(call.operation.axis, len(axes)):
        sum_over(call, axes[axis])
    return _reduced(call)


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
    **dict.fromkeys(operations(math_ops, "Erf", "Erfc", "Erfinv", "Rsqrt"), elementwise),
    **dict.fromkeys([core.Cast, core.SaturateCast, core.StopGradient], elementwise),
    **dict.fromkeys(operations(numpy_ops, *_REDUCING.split()), _reduce),
    **dict.fromkeys([*operations(numpy_ops, *_PICKING.split()), math_ops.Logsumexp], _pick),
    **dict.fromkeys(operations(numpy_ops, *_ALONG.split()), _along),
    **dict.fromkeys(operations(nn, "Normalize"), _normalize),
    **dict.fromkeys([numpy_ops.Tril, numpy_ops.Triu], _triangle),
    **dict.fromkeys([nn.Softmax, nn.LogSoftmax], softmax),
    **dict.fromkeys([nn.MaxPool, nn.AveragePool], spatial),
    image.Resize: resized,
    linalg.Norm: _norm,
    math_ops.TopK: _top_k,
    nn.Glu: _glu,
    nn.Moments: _moments,
    numpy_ops.Clip: _clip,
    numpy_ops.Any: _sum,
    numpy_ops.CountNonzero: _sum,
    numpy_ops.Cumsum: _cumsum,
    numpy_ops.Quantile: _quantile,
    numpy_ops.Sum: _sum,
}
