"""Rules of Keras layers without kernels: normalization, pooling, merging, reshaping and activation."""

from typing import Any

import numpy as np
from keras import layers

from distill._keras import CustomScaleLayer, LayerScale, StochasticDepth
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._kernel_rules import channel_axis, each, resized, spatial
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._tying import (
    POSITIONWISE_LAYERS,
    activate,
    concatenate,
    edit_shape,
    elementwise,
    numbered,
    only,
    reshape,
    same,
    softmax,
    sum_over,
)


def _global_pool(call: Call) -> Axes:
    axes = spatial(call)
    channel = channel_axis(call.operation, len(axes))
    return axes if call.operation.keepdims else (axes[0], axes[channel])


def _batch_normalization(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    for variable in layer.weights:
        if len(variable.shape) == 1:
            call.unite(call.weight(variable, scales=(0,))[0], axes[layer.axis])
    if any(axis is not None for i, axis in enumerate(axes) if i != layer.axis % len(axes)):
        call.vanishes = lambda: False  # what is removed along another axis is shifted away from zero
    return axes


def _averages(layer: Any) -> str:
    return f"{type(layer).__name__} averages over channels; cut them with exact=False"


def _normalization(call: Call) -> Axes:
    """Statistics over channels: removing some changes what is left of the others."""
    layer, axes = call.operation, call.inputs[0]
    call.vanishes = lambda: False
    for i, axis in enumerate(numbered(layer.axis, len(axes))):
        call.mix(axes[axis], _averages(layer))
        for variable in layer.weights:
            (scale,) = call.weight(variable, scales=(i,))
            call.unite(scale, axes[axis])
    return axes


def _unit_normalization(call: Call) -> Axes:
    """Zeros add nothing to a norm."""
    axes = call.inputs[0]
    for axis in numbered(call.operation.axis, len(axes)):
        sum_over(call, axes[axis])
    return axes


def _group_normalization(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    labels = axes[layer.axis]
    if labels is not None and layer.groups == 1:
        call.mix(labels, _averages(layer))
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
        return call.lock_all("its config has a number for each channel")[0]
    return same(call)


def _activation(call: Call) -> Axes:
    axes = activate(call, call.operation.activation, call.inputs[0])
    of_zeros = call.vanishes
    call.vanishes = lambda: all(call.vanishing()) and of_zeros()
    return axes


def _merge(call: Call) -> Axes:
    if len({len(shape) for shape in call.shapes}) > 1:
        return call.lock_all("it merges tensors of different ranks")[0]
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
    copies = call.copies(call.operation.n)
    call.edit("n", copies)
    return (None, copies, call.inputs[0][1])


def _masking(call: Call) -> Axes:
    """A step is hidden if all of its channels have the mask's value, to which channels that are zero add nothing."""
    axis = call.inputs[0][-1]
    if call.operation.mask_value == 0:
        sum_over(call, axis)
    else:
        call.lock(axis, "it looks for steps in which all channels have one value")
    return call.inputs[0]


def _adaptive(*names: str) -> list[type]:
    """The layers of these names in one, two and three dimensions that this version of Keras has."""
    kinds = [f"Adaptive{name}Pooling{size}D" for name in names for size in (1, 2, 3)]
    return [getattr(layers, kind) for kind in kinds if hasattr(layers, kind)]


_MERGING = (layers.Add, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply, layers.Subtract)

LAYER_RULES: dict[type, Rule] = {
    **dict.fromkeys(POSITIONWISE_LAYERS, same),
    **dict.fromkeys(each("AveragePooling", "MaxPooling", "Cropping", "ZeroPadding", "UpSampling"), spatial),
    **dict.fromkeys(_adaptive("Average", "Max"), spatial),
    **dict.fromkeys(each("GlobalAveragePooling", "GlobalMaxPooling"), _global_pool),
    **dict.fromkeys(_MERGING, _merge),
    **dict.fromkeys([layers.LayerNormalization, layers.RMSNormalization], _normalization),
    **dict.fromkeys([layers.CenterCrop, layers.Resizing], resized),
    layers.Activation: _activation,
    layers.AlphaDropout: _dropout,
    layers.BatchNormalization: _batch_normalization,
    layers.Concatenate: lambda call: concatenate(call, call.operation.axis),
    layers.Dropout: _dropout,
    layers.Flatten: _flatten,
    layers.GroupNormalization: _group_normalization,
    layers.Masking: _masking,
    layers.Normalization: lambda call: call.lock_all("it has statistics of each channel"),
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
