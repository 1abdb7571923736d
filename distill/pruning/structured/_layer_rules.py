"""How the layers of Keras tie the axes of their inputs, weights and outputs to each other."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import layers

from distill._keras import CustomScaleLayer, LayerScale, StochasticDepth, embeddings_variable, kernel_variable

# Keras exports no names for the layers of its applications.
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._sequence_rules import SEQUENCE_RULES
from distill.pruning.structured._structure import Shape
from distill.pruning.structured._tracing import Call, Rule
from distill.pruning.structured._tying import (
    POSITIONWISE_LAYERS,
    activate,
    by_number,
    concatenate,
    edit_shape,
    elementwise,
    is_quantized,
    only,
    reshape,
    same,
    sizes_of,
    softmax,
    sum_over,
)


def _channel_axis(layer: Any, rank: int) -> int:
    # Some layers of one dimension know channels last only.
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else rank - 1


def _spatial(call: Call) -> Axes:
    """Each channel on its own, but across positions."""
    axes = call.inputs[0]
    return only(call, axes, [_channel_axis(call.operation, len(axes))], "it")


def _global_pool(call: Call) -> Axes:
    axes = _spatial(call)
    channel = _channel_axis(call.operation, len(axes))
    return axes if call.operation.keepdims else (axes[0], axes[channel])


def _bias(call: Call, labels: Axis) -> None:
    bias = getattr(call.operation, "bias", None)
    if bias is not None:
        call.unite(call.weight(bias, scales=(0,))[0], labels)


def _dense(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    if (quantized := _quantized(call)) is not None:
        return quantized
    into, out = call.weight(kernel_variable(layer), inputs=(0,), outputs=(1,))
    call.unite(axes[-1], into)
    _bias(call, out)
    call.edit("units", out)
    call.multiplies(kernel_variable(layer), sizes_of(axes[1:-1], call.shapes[0][1:-1]))
    return _made(call, (*axes[:-1], out), [out])


def _made(call: Call, axes: Axes, made: list[Axis]) -> Axes:
    """The output of a kernel, activated; along axes that pass it by, what was zero has got a bias."""
    found = activate(call, call.operation.activation, axes)
    if any(axis is not None and not any(axis is one for one in made) for axis in axes):
        call.vanishes = lambda: False
    return found


def _quantized(call: Call) -> Axes | None:
    return call.lock_all("it is quantized or has LoRA enabled")[0] if is_quantized(call.operation) else None


def _einsum_dense(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    if (quantized := _quantized(call)) is not None:
        return quantized
    source, target = layer.equation.replace(" ", "").split("->")
    source, kernel = source.split(",")
    if "..." in layer.equation and not (source.startswith("...") and target.startswith("...")):
        return call.lock_all("its equation is not understood")[0]
    at_input = {letter: i for i, letter in enumerate(reversed(source.replace("...", "")), 1)}
    at_output = {letter: i for i, letter in enumerate(reversed(target.replace("...", "")), 1)}
    roles: dict[str, Any] = {"inputs": [], "outputs": [], "scales": []}
    for i, letter in enumerate(kernel):
        role = (
            "scales"
            if letter in at_input and letter in at_output
            else "inputs"
            if letter in at_input
            else "outputs"
        )
        roles[role].append(i)
    order = [i for places in roles.values() for i in places]
    labels = dict(zip((kernel[i] for i in order), call.weight(kernel_variable(layer), **roles), strict=True))
    for letter, place in at_input.items():
        if letter in labels:
            call.unite(axes[-place], labels[letter])
        elif letter not in at_output:
            call.lock(axes[-place], "it is summed over")
    rank = len(call.output_shapes[0])
    found: list[Axis] = [None] * rank
    for letter, place in at_output.items():
        found[-place] = labels.get(letter, axes[-at_input[letter]] if letter in at_input else None)
    if target.startswith("..."):
        leading = rank - len(at_output)
        found[:leading] = axes[:leading]
    if layer.bias is not None:
        for i, size in enumerate(layer.bias.shape):
            if size > 1:
                (scale,) = call.weight(layer.bias, scales=(i,))
                call.unite(scale, found[rank - len(layer.bias.shape) + i])
    partial = layer.partial_output_shape
    edit_shape(call, "output_shape", partial, tuple(found[rank - len(partial) :]))
    letter_at = {len(axes) - place: letter for letter, place in at_input.items()}
    free = [i for i in range(1, len(axes)) if letter_at.get(i) not in labels]
    call.multiplies(
        kernel_variable(layer), [size for i, size in enumerate(sizes_of(axes, call.shapes[0])) if i in free]
    )
    return _made(call, tuple(found), list(labels.values()))


def _conv(call: Call) -> Axes:
    layer = call.operation
    if (quantized := _quantized(call)) is not None:
        return quantized
    rank, axes = layer.rank, _spatial(call)
    channel = _channel_axis(layer, len(axes))
    if layer.groups == 1:
        into, out = call.weight(kernel_variable(layer), inputs=(rank,), outputs=(rank + 1,))
        call.unite(axes[channel], into)
    else:
        (out,) = call.weight(kernel_variable(layer), outputs=(rank + 1,))
        source = axes[channel]
        call.groups(out, layer.groups)
        if source is not None:
            call.groups(source, layer.groups)
            source = source.reshape(layer.groups, -1)[:, 0]
        call.unite(source, out.reshape(layer.groups, -1)[:, 0])
        width = out.size // layer.groups
        call.edit("groups", out, value=lambda size: size // width)
    _bias(call, out)
    call.edit("filters", out)
    call.multiplies(kernel_variable(layer), _pixels(layer, call.output_shapes[0]))
    return activate(call, layer.activation, (*axes[:channel], out, *axes[channel + 1 :]))


def _pixels(layer: Any, shape: Shape) -> Shape:
    return shape[2:] if layer.data_format == "channels_first" else shape[1:-1]


def _conv_transpose(call: Call) -> Axes:
    layer = call.operation
    rank, axes = layer.rank, _spatial(call)
    channel = _channel_axis(layer, len(axes))
    into, out = call.weight(layer.kernel, inputs=(rank + 1,), outputs=(rank,))
    call.unite(axes[channel], into)
    _bias(call, out)
    call.edit("filters", out)
    call.multiplies(layer.kernel, _pixels(layer, call.shapes[0]))
    return activate(call, layer.activation, (*axes[:channel], out, *axes[channel + 1 :]))


def _depthwise_kernel(call: Call, kernel: keras.Variable, labels: Axis) -> Axis:
    """Labels of what a depthwise kernel makes of channels, several of each."""
    layer = call.operation
    (scale,) = call.weight(kernel, scales=(layer.rank,))
    call.unite(scale, labels)
    call.multiplies(kernel, _pixels(layer, call.output_shapes[0]))
    return None if labels is None else np.repeat(scale, layer.depth_multiplier)


def _depthwise(call: Call) -> Axes:
    layer, axes = call.operation, _spatial(call)
    channel = _channel_axis(layer, len(axes))
    out = _depthwise_kernel(call, layer.kernel, axes[channel])
    _bias(call, out)
    return activate(call, layer.activation, (*axes[:channel], out, *axes[channel + 1 :]))


def _separable(call: Call) -> Axes:
    layer, axes = call.operation, _spatial(call)
    channel = _channel_axis(layer, len(axes))
    between = _depthwise_kernel(call, layer.depthwise_kernel, axes[channel])
    into, out = call.weight(layer.pointwise_kernel, inputs=(layer.rank,), outputs=(layer.rank + 1,))
    call.unite(between, into)
    _bias(call, out)
    call.edit("filters", out)
    call.multiplies(layer.pointwise_kernel, _pixels(layer, call.output_shapes[0]))
    return activate(call, layer.activation, (*axes[:channel], out, *axes[channel + 1 :]))


def _embedding(call: Call) -> Axes:
    layer = call.operation
    if (quantized := _quantized(call)) is not None:
        return quantized
    (out,) = call.weight(embeddings_variable(layer), outputs=(1,))
    call.edit("output_dim", out)
    return (*call.inputs[0], out)


def _batch_normalization(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    for variable in layer.weights:
        if len(variable.shape) == 1:
            call.unite(call.weight(variable, scales=(0,))[0], axes[layer.axis])
    return axes


def _normalization(call: Call) -> Axes:
    """Statistics over channels: cutting some changes what is left of the others."""
    layer, axes = call.operation, call.inputs[0]
    call.vanishes = lambda: False
    over = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    for i, axis in enumerate(over):
        call.mix(axes[axis], f"{type(layer).__name__} averages over channels; cut them with exact=False")
        for variable in layer.weights:
            (scale,) = call.weight(variable, scales=(i,))
            call.unite(scale, axes[axis])
    return axes


def _unit_normalization(call: Call) -> Axes:
    """Zeros add nothing to a norm."""
    layer, axes = call.operation, call.inputs[0]
    for axis in layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]:
        sum_over(call, axes[axis])
    return axes


def _group_normalization(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    labels = axes[layer.axis]
    if labels is not None and layer.groups == 1:
        call.mix(labels, "GroupNormalization averages over channels; cut them with exact=False")
    elif labels is not None:
        call.groups(labels, layer.groups)
        width = labels.size // layer.groups
        call.edit("groups", labels, value=lambda size: size // width)
    for variable in layer.weights:
        call.unite(call.weight(variable, scales=(0,))[0], labels)
    return only(call, axes, [layer.axis], "GroupNormalization")


def _prelu(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    for i, axis in enumerate(axes[1:]):
        if layer.alpha.shape[i] > 1:
            call.unite(call.weight(layer.alpha, scales=(i,))[0], axis)
    return axes


def _layer_scale(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    (scale,) = call.weight(layer.gamma, scales=(0,))
    call.unite(scale, axes[-1])
    call.edit("projection_dim", scale)
    return axes


def _dropout(call: Call) -> Axes:
    if call.operation.noise_shape is not None:
        edit_shape(call, "noise_shape", tuple(call.operation.noise_shape), call.inputs[0])
    return call.inputs[0]


def _rescaling(call: Call) -> Axes:
    if np.ndim(call.operation.scale) or np.ndim(call.operation.offset):
        return call.lock_all("it has numbers for each channel in its config")[0]
    return same(call)


def _activation(call: Call) -> Axes:
    axes = activate(call, call.operation.activation, call.inputs[0])
    by_number(call)
    return axes


def _merge(call: Call) -> Axes:
    if len({len(shape) for shape in call.shapes}) > 1:
        return call.lock_all("it merges tensors of several ranks")[0]
    return elementwise(call)


def _flatten(call: Call) -> Axes:
    axes, shape = call.inputs[0], call.shapes[0]
    if call.operation.data_format == "channels_first" and len(shape) > 2:  # it moves the channels to the end
        axes, shape = (axes[0], *axes[2:], axes[1]), (shape[0], *shape[2:], shape[1])
    return reshape(call, axes, shape, call.output_shapes[0])


def _reshape(call: Call) -> Axes:
    found = reshape(call, call.inputs[0], call.shapes[0], call.output_shapes[0])
    edit_shape(call, "target_shape", call.operation.target_shape, found[1:])
    return found


def _permute(call: Call) -> Axes:
    return (None, *(call.inputs[0][i] for i in call.operation.dims))


def _repeat_vector(call: Call) -> Axes:
    return (None, None, call.inputs[0][1])


_DIMENSIONS = ("1D", "2D", "3D")


def _of_each(*names: str) -> list[type]:
    return [getattr(layers, name + size) for name, size in itertools.product(names, _DIMENSIONS)]


# By exact type: a subclass may do something else.
LAYER_RULES: dict[type, Rule] = {
    **SEQUENCE_RULES,
    **dict.fromkeys(POSITIONWISE_LAYERS, same),
    **dict.fromkeys(
        _of_each("AveragePooling", "MaxPooling", "Cropping", "ZeroPadding", "UpSampling"), _spatial
    ),
    **dict.fromkeys(_of_each("GlobalAveragePooling", "GlobalMaxPooling"), _global_pool),
    **dict.fromkeys(_of_each("Conv"), _conv),
    **dict.fromkeys(
        [layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose], _conv_transpose
    ),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], _depthwise),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable),
    **dict.fromkeys(
        [
            layers.Add,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Multiply,
            layers.Subtract,
        ],
        _merge,
    ),
    **dict.fromkeys([layers.LayerNormalization, layers.RMSNormalization], _normalization),
    layers.Activation: _activation,
    layers.BatchNormalization: _batch_normalization,
    layers.Concatenate: lambda call: concatenate(call, call.operation.axis),
    layers.AlphaDropout: _dropout,
    layers.Dense: _dense,
    layers.Dropout: _dropout,
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: _embedding,
    layers.Flatten: _flatten,
    layers.GroupNormalization: _group_normalization,
    layers.Normalization: lambda call: call.lock_all("its statistics are of each channel"),
    layers.PReLU: _prelu,
    layers.Permute: _permute,
    layers.RepeatVector: _repeat_vector,
    layers.Rescaling: _rescaling,
    layers.Reshape: _reshape,
    layers.Softmax: softmax,
    layers.UnitNormalization: _unit_normalization,
    # Layers of `keras.applications`.
    LayerScale: _layer_scale,
    StochasticDepth: same,
    CustomScaleLayer: elementwise,
}
