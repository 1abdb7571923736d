"""Other ways to compute what some layers compute, for converters that fail on Keras' own way.

Each gives the same values; the check of every file compares it with the model as Keras runs it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
from keras import layers

from distill._graphs import functional_of, nodes_of
from distill._keras import flatten_layers, numpy_ops, operations, set_keras_mask
from distill._types import Tensor

Call = Callable[..., Tensor]
# By the class of a layer or operation, what gives its other `call`, or `None` to leave it as it is.
Routes = Mapping[Any, Callable[[Any], Call | None]]


@contextlib.contextmanager
def routed(model: keras.Model, routes: Routes) -> Iterator[None]:
    """Lets layers and operations in a model take other ways within the block; the model is then as before."""
    changed = []
    try:
        for operation in _operations(model):
            if (call := _route(operation, routes)) is not None:
                changed.append(operation)
                vars(operation)["call"] = call  # Keras would track an attribute
        yield
    finally:
        for operation in changed:
            del vars(operation)["call"]


def _operations(model: keras.Model) -> list[Any]:
    found = {id(layer): layer for layer in flatten_layers(model)}
    for layer in list(found.values()):
        if (graph := functional_of(layer)) is not None:
            found |= {id(node.operation): node.operation for node in nodes_of(graph)}
    return list(found.values())


def _route(operation: Any, routes: Routes) -> Call | None:
    for kind, route in routes.items():
        if isinstance(operation, kind) and type(operation).call is kind.call:
            made: Call | None = route(operation)
            return made
    return None


def _grouped_convolution(layer: Any) -> Call | None:
    """Keras compiles grouped convolutions with XLA, for want of a kernel on CPUs; tf2onnx cannot read that."""

    def convolve(inputs: Tensor, kernel: Tensor, padding: str) -> Tensor:
        import tensorflow as tf

        form = {1: "NCW", 2: "NCHW"}[layer.rank] if layer.data_format == "channels_first" else None
        return tf.nn.convolution(
            inputs, kernel, list(layer.strides), padding.upper(), form, list(layer.dilation_rate)
        )

    return _with_convolution(layer, convolve)


def _split_convolution(layer: Any) -> Call | None:
    """Neither LiteRT nor tf2onnx has grouped convolutions in three dimensions."""

    def convolve(inputs: Tensor, kernel: Tensor, padding: str) -> Tensor:
        axis = 1 if layer.data_format == "channels_first" else -1
        parts = zip(
            keras.ops.split(inputs, layer.groups, axis),
            keras.ops.split(kernel, layer.groups, -1),
            strict=True,
        )
        options = (layer.strides, padding, layer.data_format, layer.dilation_rate)
        return keras.ops.concatenate([keras.ops.conv(*part, *options) for part in parts], axis)

    return _with_convolution(layer, convolve)


def _with_convolution(layer: Any, convolve: Callable[[Tensor, Tensor, str], Tensor]) -> Call | None:
    """The call of a layer with groups, with another function of inputs, kernel and padding in the middle."""
    if layer.groups == 1:
        return None
    first = layer.data_format == "channels_first"

    def call(inputs: Tensor) -> Tensor:
        padding = layer.padding
        if padding == "causal":
            past = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
            inputs = keras.ops.pad(inputs, [(0, 0), *([(0, 0), (past, 0)] if first else [(past, 0), (0, 0)])])
            padding = "valid"
        outputs = convolve(inputs, keras.ops.convert_to_tensor(layer.kernel), padding)
        if layer.use_bias:
            outputs += keras.ops.reshape(layer.bias, (-1, *[1] * layer.rank) if first else (-1,))
        return outputs if layer.activation is None else layer.activation(outputs)

    return call


def _lookup(layer: Any) -> Call:
    """Keras lets ids count from the end, by arithmetic on them that LiteRT has no int16×8 kernels for."""

    def call(inputs: Tensor) -> Tensor:
        import tensorflow as tf

        if inputs.dtype not in (tf.int32, tf.int64):
            inputs = tf.cast(inputs, tf.int32)
        return tf.cast(tf.gather(keras.ops.convert_to_tensor(layer.embeddings), inputs), layer.compute_dtype)

    return call


def _reversible_lookup(layer: Any) -> Call:
    own, lookup = layer.call, _lookup(layer)

    def call(inputs: Tensor, reverse: bool = False) -> Tensor:
        if reverse:
            return own(inputs, reverse=True)
        outputs = lookup(inputs)
        if layer.mask_zero:  # which its own call sets too
            set_keras_mask(outputs, keras.ops.not_equal(inputs, 0))
        return outputs

    return call


def _upsampling(layer: Any) -> Call:
    """Keras' resizing fails on sizes that are tensors, and its repeating makes TensorFlow forget the channels."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    own = layer.call

    def call(inputs: Tensor) -> Tensor:
        if None not in inputs.shape[1:]:
            return own(inputs)
        import tensorflow as tf

        images = tf.transpose(inputs, [0, 2, 3, 1]) if first else inputs
        flat = isinstance(layer, layers.UpSampling1D)
        factors = (layer.size, 1) if flat else layer.size
        images = tf.expand_dims(images, 2) if flat else images
        method = "nearest" if flat else layer.interpolation
        images = tf.cast(tf.image.resize(images, tf.shape(images)[1:3] * factors, method), inputs.dtype)
        images = tf.squeeze(images, 2) if flat else images
        return tf.transpose(images, [0, 3, 1, 2]) if first else images

    return call


def _argmax(operation: Any) -> Call:
    """Keras tells -0 from 0, by operations on bits that neither LiteRT nor ONNX has."""

    def call(x: Tensor) -> Tensor:
        import tensorflow as tf

        axis = operation.axis
        found = tf.argmax(tf.reshape(x, [-1]) if axis is None else x, axis or 0, tf.int32)
        if not operation.keepdims:
            return found
        return tf.reshape(found, [1] * len(x.shape)) if axis is None else tf.expand_dims(found, axis)

    return call


SAVED_MODEL: Routes = {layers.UpSampling1D: _upsampling, layers.UpSampling2D: _upsampling}
LITERT: Routes = {
    **SAVED_MODEL,
    layers.Conv3D: _split_convolution,
    layers.Embedding: _lookup,
    layers.ReversibleEmbedding: _reversible_lookup,
    **dict.fromkeys(operations(numpy_ops, "Argmax"), _argmax),
}
ONNX: Routes = {**LITERT, layers.Conv1D: _grouped_convolution, layers.Conv2D: _grouped_convolution}
