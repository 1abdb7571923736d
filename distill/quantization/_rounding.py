"""Where a model is rounded so that it computes as its int8 file will: at LiteRT's kernels and what is part of them."""

import collections
from typing import Any

import keras
import numpy as np
from keras import activations, layers

from distill._graphs import Step, functional_of, node_of, nodes_of, run
from distill._keras import inbound_nodes
from distill.quantization._layers import QUANTIZED, FakeQuantize
from distill.quantization._rewriting import copy_of, input_like, model_like, names_of, rewrite, unused

_CLAMPS = (activations.linear, activations.relu, activations.relu6)  # part of LiteRT's kernels
_HEADS = (activations.sigmoid, activations.softmax)
# Each output is one of the inputs, or zero.
_SELECTIONS = (
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Dropout,
    layers.Flatten,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
)
_AVERAGES = (layers.AveragePooling1D, layers.AveragePooling2D)  # LiteRT gives them their inputs' range
_PAIRS = (layers.Add, layers.Multiply, layers.Subtract)
_OTHERS = (layers.Concatenate, layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D)


def rounded(model: keras.Model) -> keras.Model:
    """A copy of the model that rounds, with empty ranges; see `quantization.quantize_aware`."""
    flat = rewrite(model, _checked_copy)
    return _Rounding(functional_of(flat)).model


def _checked_copy(layer: Any, name: str) -> Any:
    kind = type(layer)
    known = (*QUANTIZED, *_SELECTIONS, *_AVERAGES, *_PAIRS, *_OTHERS, layers.BatchNormalization)
    is_clamp = kind is layers.ReLU and layer.get_config()["max_value"] in (None, 6.0)
    is_clamp = is_clamp and not layer.negative_slope and not layer.threshold
    is_head = kind is layers.Softmax and layer.axis == -1
    if kind not in (*known, layers.Activation) and not is_clamp and not is_head:
        raise ValueError(
            "Only layers of which it is known how LiteRT rounds them are trained for it, never guessed. Received: "
            f"{name!r}, a {kind.__name__}. Known are {', '.join(sorted(k.__name__ for k in known))}, ReLU (up to 6 or "
            "without a limit) and, at the end, softmax and sigmoid. Build the student from these, or export it with "
            "precision='int8' and examples, without training for it."
        )
    if layer.compute_dtype != "float32":
        raise ValueError(
            f"Models that compute in float32 are rounded. Received: {name!r}, which computes in {layer.compute_dtype}. "
            "Build the student with the policy 'float32' and set_weights(student.get_weights())."
        )
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise ValueError(
            f"LiteRT's kernels have the channels last. Received: {name!r}, with data_format='channels_first'."
        )
    if any(rate != 1 for rate in np.ravel(getattr(layer, "dilation_rate", 1))):
        raise ValueError(
            "LiteRT adds the bias of a dilated convolution apart, in float32. "
            f"Received: {name!r}, with dilation_rate={layer.dilation_rate}. Use larger kernels or strides."
        )
    return copy_of(layer, name)


class _Rounding:
    """The model that rounds, made from one without nested models.

    A tensor is rounded where LiteRT stores it: not between a layer and a batch normalization or ReLU that becomes part
    of its kernel, and not before a concatenation, whose inputs share the range of its output.
    """

    def __init__(self, graph: Any) -> None:
        nodes = list(nodes_of(graph))
        self._calls = collections.Counter(id(node.operation) for node in nodes)
        self._readers: dict[int, list[Any]] = collections.defaultdict(list)
        for node in nodes:
            for tensor in node.input_tensors:
                self._readers[id(tensor)].append(node.operation)
        for tensor in graph.outputs:
            self._readers[id(tensor)].append(None)  # the caller
        self._names = names_of(graph)
        self._made: dict[int, keras.Layer] = {}
        self._ranges: dict[int, FakeQuantize] = {}  # by id of the rounded tensor
        inputs = [input_like(tensor) for tensor in graph.inputs]
        values = run(graph, [self._round(new, new.name) for new in inputs], self._call)
        self.model = model_like(graph, inputs, values.of(graph.outputs), graph.name)

    def _call(self, step: Step[Any]) -> Any:
        node, layer, kind = step.node, step.operation, type(step.operation)
        args, kwargs = step.arguments()
        (result,) = node.outputs
        if kind is layers.BatchNormalization:
            self._refuse_unless_folded(node)
            return args[0]
        if kind in QUANTIZED:
            return self._call_kernel(node, args[0])
        if kind in _PAIRS and len(node.input_tensors) != 2:
            raise ValueError(
                f"LiteRT rounds after each sum or product of two. Received: {layer.name!r}, a {kind.__name__} of "
                f"{len(node.input_tensors)} inputs. Write it as several of two."
            )
        activation = activations.softmax if kind is layers.Softmax else getattr(layer, "activation", None)
        if activation not in (None, *_CLAMPS):
            return self._call_head(result, layer, activation, args[0])
        output = self._layer(layer)(*args, **kwargs)
        if kind in _SELECTIONS:
            self._ranges[id(output)] = self._ranges[id(args[0])]
            return output
        if kind in _AVERAGES:
            rounded = self._ranges[id(args[0])](output, follow=False)
            self._ranges[id(rounded)] = self._ranges[id(args[0])]
            return rounded
        return self._stored(result, output, layer)

    def _layer(self, layer: Any) -> keras.Layer:
        if id(layer) not in self._made:
            self._made[id(layer)] = copy_of(layer, layer.name)
        return self._made[id(layer)]

    def _call_kernel(self, node: Any, inputs: Any) -> Any:
        layer, (result,) = node.operation, node.outputs
        if isinstance(layer, layers.Dense) and len(inputs.shape) != 2:
            raise ValueError(
                "LiteRT adds the bias of a Dense layer apart, in float32, unless its inputs are (batch, features). "
                f"Received: {layer.name!r} on {inputs.shape}. Use Conv1D(units, 1), or Conv2D, in its place."
            )
        is_head = layer.activation in _HEADS
        if not is_head and layer.activation not in _CLAMPS:
            raise self._unknown_activation(layer, layer.activation)
        normalization = self._folded(node)
        weights = layer.get_weights()
        if id(layer) not in self._made:
            config = layer.get_config()
            if is_head:
                config.update(name=unused(f"{layer.name}_logits", self._names), activation="linear")
            if normalization is not None:
                config["use_bias"] = True
                weights = _fold(layer, normalization)
            self._made[id(layer)] = QUANTIZED[type(layer)].from_config(config)
        new = self._made[id(layer)]
        output = new(inputs)
        new.set_weights(weights)
        if is_head:
            return self._call_head(result, layer, layer.activation, self._round(output, layer.name))
        if normalization is not None:
            result = inbound_nodes(normalization)[0].outputs[0]
        return self._stored(result, output, layer)

    def _call_head(self, result: Any, layer: Any, activation: Any, logits: Any) -> Any:
        if activation not in _HEADS or self._readers[id(result)] != [None]:
            raise self._unknown_activation(layer, activation)
        # What LiteRT makes of it has a fixed scale, 1/256, and training needs more: it is not rounded here.
        return layers.Activation(activation, name=layer.name)(logits)

    def _unknown_activation(self, layer: Any, activation: Any) -> ValueError:
        return ValueError(
            "Activations that are known to be rounded here as LiteRT does it are linear, relu and relu6, and at the "
            f"end of a model softmax and sigmoid. Received: {layer.name!r} with "
            f"{getattr(activation, '__name__', activation)}. Build the student with one of them, or export it with "
            "precision='int8' and examples, without training for it."
        )

    def _only_reader(self, tensor: Any) -> Any:
        readers = self._readers[id(tensor)]
        return readers[0] if len(readers) == 1 else None

    def _folded(self, node: Any) -> Any:
        """The batch normalization that becomes part of the layer, or `None`."""
        reader = self._only_reader(node.outputs[0])
        is_linear = node.operation.activation is activations.linear
        alone = self._calls[id(node.operation)] == 1 and self._calls[id(reader)] == 1
        last = len(node.outputs[0].shape) - 1
        is_norm = type(reader) is layers.BatchNormalization and reader.axis in (-1, last)
        return reader if is_norm and is_linear and alone else None

    def _refuse_unless_folded(self, node: Any) -> None:
        before = node_of(node.input_tensors[0])
        source = before.operation
        if type(source) not in QUANTIZED or self._folded(before) is None:
            raise ValueError(
                "A BatchNormalization is folded into the Dense or convolution layer right before it, where both are "
                "called once, nothing else reads that layer and it has no activation. Received: "
                f"{node.operation.name!r} after {source.name!r}, a {type(source).__name__}. Move the activation behind "
                "it, or leave it out."
            )

    def _stored(self, result: Any, output: Any, layer: Any) -> Any:
        """What becomes of an output: it is rounded, unless the layer that reads it sees to that."""
        reader, kind = self._only_reader(result), type(layer)
        clamps = type(reader) is layers.ReLU
        clamps = clamps or (type(reader) is layers.Activation and reader.activation in _CLAMPS)
        takes_clamp = kind in _PAIRS or (kind in QUANTIZED and layer.activation is activations.linear)
        joined = type(reader) is layers.Concatenate and kind is not layers.Concatenate
        return output if (clamps and takes_clamp) or joined else self._round(output, layer.name)

    def _round(self, tensor: Any, name: str) -> Any:
        layer = FakeQuantize(name=unused(f"{name}_int8", self._names))
        rounded = layer(tensor)
        self._ranges[id(rounded)] = layer
        return rounded


def _fold(layer: Any, normalization: Any) -> list[np.ndarray]:
    """Kernel and bias of a layer that computes what it and the normalization did."""
    values = {variable.name: np.asarray(variable, "float64") for variable in normalization.weights}
    scale = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + normalization.epsilon)
    kernel, *bias = (np.asarray(weight, "float64") for weight in layer.get_weights())
    shift = ((bias[0] if bias else 0.0) - values["moving_mean"]) * scale + values.get("beta", 0.0)
    # Those of a depthwise kernel lie along its last two axes.
    filters = kernel.shape[-2:] if isinstance(layer, layers.DepthwiseConv2D) else (-1,)
    return [kernel * scale.reshape(filters), shift]
