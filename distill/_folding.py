"""Batch normalization in inference as a part of the layer before it."""

import collections
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
from keras import activations, layers

from distill._graphs import inside, nested_calls, node_of
from distill._keras import Functional

_POINTWISE_LAST = (layers.SeparableConv1D, layers.SeparableConv2D)  # depthwise kernel, then pointwise kernel
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
# Layers whose output is linear in a kernel and a bias that have a place for each channel.
LINEAR = (
    *_POINTWISE_LAST,
    *_DEPTHWISE,
    *_TRANSPOSED,
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
)


def folded_weights(layer: keras.Layer, normalization: Any) -> list[np.ndarray]:
    """Weights with which a layer computes what it and the batch normalization after it did.

    With γ, β, mean μ and variance v of the normalization, s = γ / √(v + ε) multiplies the kernel, and the bias b
    becomes (b − μ) s + β.

    Args:
        layer: layer of one of the types in `LINEAR`, without an activation.
        normalization: `keras.layers.BatchNormalization` over the layer's channels.

    Returns:
        The layer's weights, in float64, with a bias.
    """
    values = {variable.name: np.asarray(variable, "float64") for variable in normalization.weights}
    scale = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + normalization.epsilon)
    given = [np.asarray(weight, "float64") for weight in layer.get_weights()]
    bias = given.pop() if layer.use_bias else 0.0
    *others, kernel = given
    shift = (bias - values["moving_mean"]) * scale + values.get("beta", 0.0)
    filters: tuple[int, ...] = (-1,)
    if isinstance(layer, _DEPTHWISE):
        filters = kernel.shape[-2:]
    elif isinstance(layer, _TRANSPOSED):
        filters = (-1, 1)  # the kernel is (height, width, filters, channels)
    return [*others, kernel * scale.reshape(filters), shift]


def find_foldable(
    graph: Functional, *, kept: Collection[str] = ()
) -> tuple[dict[int, keras.Layer], dict[str, str]]:
    """Finds the batch normalizations that can become part of the layer before them, in nested models too.

    Args:
        graph: Functional model.
        kept: paths of layers whose outputs are to stay as they are.

    Returns:
        Id of a layer -> the normalization after it, which nothing but the layer feeds, and which alone reads the layer;
        and path of each other normalization -> why it stays.
    """
    calls: dict[int, set[int]] = collections.defaultdict(set)
    readers: dict[int, set[int | None]] = collections.defaultdict(set)
    nodes: dict[int, tuple[str, Any]] = {}
    for path, node, owner in nested_calls(graph):
        calls[id(node.operation)].add(id(node))
        for tensor in node.input_tensors:
            readers[id(tensor)].add(id(node))
        for tensor in owner.outputs:
            readers[id(tensor)].add(None)  # the caller
        if type(node.operation) is layers.BatchNormalization:
            nodes[id(node)] = path, node
    foldable: dict[int, keras.Layer] = {}
    staying: dict[str, str] = {}
    for path, node in nodes.values():
        before = node_of(node.input_tensors[0])
        source = before.operation
        if before.is_input or type(source) not in LINEAR:
            staying[path] = f"follows {source.name!r} ({type(source).__name__})"
        elif source.activation is not activations.linear:
            staying[path] = f"follows the activation of {source.name!r}"
        elif len(calls[id(source)]) > 1 or len(calls[id(node.operation)]) > 1:
            staying[path] = f"it or {source.name!r} is called several times"
        elif readers[id(before.outputs[0])] != {id(node)}:
            staying[path] = f"{source.name!r} is read by others too"
        elif node.operation.axis % len(before.outputs[0].shape) != _channels(source, before.outputs[0]):
            staying[path] = f"is over another axis than the channels of {source.name!r}"
        elif inside(path.rpartition("/")[0], source) in kept:
            staying[path] = f"{source.name!r} is read"
        else:
            foldable[id(source)] = node.operation
    return foldable, staying


def _channels(layer: Any, tensor: keras.KerasTensor) -> int:
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return 1 if first else len(tensor.shape) - 1
