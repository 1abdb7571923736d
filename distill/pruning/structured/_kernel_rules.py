"""Rules of Keras layers with kernels: dense layers, convolutions and embeddings."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import layers

from distill._keras import embeddings_variable, kernel_variable
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._structure import Shape
from distill.pruning.structured._tying import activate, edit_shape, is_quantized, only, sizes_of


def channel_axis(layer: Any, rank: int) -> int:
    """The axis of the channels; some layers of one dimension only know channels last."""
    return 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else rank - 1


def spatial(call: Call) -> Axes:
    """Each channel depends on that channel alone, at several positions."""
    axes = call.inputs[0]
    return only(call, axes, [channel_axis(call.operation, len(axes))], "it")


def resized(call: Call) -> Axes:
    """Each channel is resized or cropped on its own; what fills up the sides may be no zero."""
    if getattr(call.operation, "fill_value", 0):
        call.vanishes = lambda: False
    return spatial(call)


def each(*names: str) -> list[type]:
    """The layers of these names in one, two and three dimensions."""
    return [getattr(layers, f"{name}{size}D") for name, size in itertools.product(names, (1, 2, 3))]


def _bias(call: Call, labels: Axis) -> None:
    bias = getattr(call.operation, "bias", None)
    if bias is not None:
        call.unite(call.weight(bias, scales=(0,))[0], labels)


def _quantized(call: Call) -> Axes | None:
    return call.lock_all("it is quantized or has LoRA enabled")[0] if is_quantized(call.operation) else None


def _dense(call: Call) -> Axes:
    layer, axes = call.operation, call.inputs[0]
    if (quantized := _quantized(call)) is not None:
        return quantized
    into, out = call.weight(kernel_variable(layer), inputs=(0,), outputs=(1,))
    call.unite(axes[-1], into)
    _bias(call, out)
    call.edit("units", out)
    call.multiplies(kernel_variable(layer), sizes_of(axes[1:-1], call.shapes[0][1:-1]))
    return _activated(call, (*axes[:-1], out), [out])


def _activated(call: Call, axes: Axes, made: list[Axis]) -> Axes:
    """The output of a kernel after its activation; along axes that pass it by, zeros now have a bias."""
    found = activate(call, call.operation.activation, axes)
    if any(axis is not None and not any(axis is one for one in made) for axis in axes):
        call.vanishes = lambda: False
    return found


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
    roles: dict[str, list[int]] = {"inputs": [], "outputs": [], "scales": []}
    for i, letter in enumerate(kernel):
        read, made = letter in at_input, letter in at_output
        roles["scales" if read and made else "inputs" if read else "outputs"].append(i)
    order = [i for places in roles.values() for i in places]
    found_labels = call.weight(
        kernel_variable(layer), inputs=roles["inputs"], outputs=roles["outputs"], scales=roles["scales"]
    )
    labels = dict(zip((kernel[i] for i in order), found_labels, strict=True))
    for letter, place in at_input.items():
        if letter in labels:
            call.unite(axes[-place], labels[letter])
        elif letter not in at_output:
            call.lock(axes[-place], "it sums over this axis")
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
    sizes = sizes_of(axes, call.shapes[0])
    call.multiplies(kernel_variable(layer), [sizes[i] for i in free])
    return _activated(call, tuple(found), list(labels.values()))


def _conv(call: Call) -> Axes:
    layer = call.operation
    if (quantized := _quantized(call)) is not None:
        return quantized
    rank, axes = layer.rank, spatial(call)
    channel = channel_axis(layer, len(axes))
    if layer.groups == 1:
        into, out = call.weight(kernel_variable(layer), inputs=(rank,), outputs=(rank + 1,))
        call.unite(axes[channel], into)
    elif call.cuts_every_group:
        into, out = call.weight(kernel_variable(layer), inputs=(rank,), outputs=(rank + 1,))
        call.alike(out, layer.groups)
        source = axes[channel]
        if source is not None:
            call.alike(source, layer.groups)
            source = source.reshape(layer.groups, -1)[0]
        call.unite(source, into)
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
    rank, axes = layer.rank, spatial(call)
    channel = channel_axis(layer, len(axes))
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
    layer, axes = call.operation, spatial(call)
    channel = channel_axis(layer, len(axes))
    out = _depthwise_kernel(call, layer.kernel, axes[channel])
    _bias(call, out)
    return activate(call, layer.activation, (*axes[:channel], out, *axes[channel + 1 :]))


def _separable(call: Call) -> Axes:
    layer, axes = call.operation, spatial(call)
    channel = channel_axis(layer, len(axes))
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


def _reversible(call: Call) -> Axes:
    """A table that is looked up, and whose transpose makes the logits of a language model if the two are tied."""
    layer = call.operation
    if (quantized := _quantized(call)) is not None:
        return quantized
    table = embeddings_variable(layer)
    (width,) = call.weight(table, outputs=(1,))
    call.edit("output_dim", width)
    if not layer.tie_weights:
        table = layer.reverse_embeddings
        call.unite(call.weight(table, inputs=(0,))[0], width)  # one setting holds for both
    axes = call.inputs[0]
    if not call.value("reverse"):
        return (*axes, width)
    call.unite(axes[-1], width)
    call.multiplies(table, sizes_of(axes[1:-1], call.shapes[0][1:-1]))
    return (*axes[:-1], None)


KERNEL_RULES: dict[type, Rule] = {
    **dict.fromkeys(each("Conv"), _conv),
    **dict.fromkeys(
        [layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose], _conv_transpose
    ),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], _depthwise),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable),
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    layers.Embedding: _embedding,
    layers.ReversibleEmbedding: _reversible,
}
