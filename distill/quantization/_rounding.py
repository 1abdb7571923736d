"""Inserts rounding into a model where LiteRT stores tensors, so that it computes as its int8 file will."""

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import activations, layers

from distill._folding import folded_weights
from distill._graphs import Step, functional_of, input_like, model_like, node_of, nodes_of, run
from distill._keras import Functional, inbound_nodes
from distill._rewriting import copy_of, names_of, rewrite, unused
from distill.quantization._known import (
    CLAMPS,
    HEADS,
    PAIRS,
    is_average,
    is_selection,
    require_known,
    unknown_activation,
)
from distill.quantization._layers import QUANTIZED, FakeQuantize


def rounded(model: keras.Model) -> keras.Model:
    """A copy of the model that rounds, with empty ranges; `quantization.quantize_aware` says more.

    Raises:
        ValueError: the model has no graph, or it is not known how LiteRT rounds it.
    """
    with in_float32():
        flat: Any = functional_of(rewrite(model, _checked_copy))
        return _Rounding(flat).model


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """New layers compute in float32, as LiteRT does, whatever the dtype policy of the process."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _checked_copy(layer: Any, name: str) -> Any:
    require_known(layer, name)
    return copy_of(layer, name)


class _Rounding:
    """Builds the model that rounds from one without nested models.

    A tensor is rounded where LiteRT stores it. It stores nothing between a layer and a batch normalization or ReLU that
    becomes part of its kernel, nor before a concatenation, whose inputs share the range of its output.
    """

    def __init__(self, graph: Functional) -> None:
        nodes = list(nodes_of(graph))
        self._calls = collections.Counter(id(node.operation) for node in nodes)
        self._readers: dict[int, list[Any]] = collections.defaultdict(list)
        for node in nodes:
            for tensor in node.input_tensors:
                self._readers[id(tensor)].append(node.operation)
        for tensor in graph.outputs:
            self._readers[id(tensor)].append(None)  # the caller
        self._names = names_of(graph)
        self._made: dict[int, Any] = {}  # new layers, by id of the old ones
        self._heads: dict[int, Any] = {}  # activations of new layers, by id of the old ones
        self._ranges: dict[int, FakeQuantize] = {}  # by id of the rounded tensor
        inputs = [input_like(tensor) for tensor in graph.inputs]
        values = run(graph, [self._round(new, new.name) for new in inputs], self._call)
        self.model = model_like(graph, inputs, values.of(graph.outputs), graph.name)

    def _call(self, step: Step[keras.KerasTensor]) -> keras.KerasTensor:
        node, layer, kind = step.node, step.operation, type(step.operation)
        args, kwargs = step.arguments()
        (result,) = node.outputs
        if kind is layers.BatchNormalization:
            self._refuse_unless_folded(node)
            return args[0]
        if kind in QUANTIZED:
            return self._call_kernel(node, args[0])
        if kind in PAIRS and len(node.input_tensors) != 2:
            raise ValueError(
                "LiteRT adds and multiplies two tensors at a time, and rounds each result. "
                f"Received: {layer.name!r} ({kind.__name__}) with {len(node.input_tensors)} inputs. "
                "Write it as several layers with two inputs."
            )
        activation = activations.softmax if kind is layers.Softmax else getattr(layer, "activation", None)
        if activation not in (None, *CLAMPS):
            return self._call_head(result, layer, activation, args[0])
        output = self._layer(layer)(*args, **kwargs)
        if is_selection(layer) or is_average(layer):
            same = self._ranges[id(args[0])]
            if is_average(layer) or self._is_joined(result):
                output = same(output, follow=False)
            self._ranges[id(output)] = same
            return output
        return self._stored(result, output, layer)

    def _layer(self, layer: Any) -> Any:
        if id(layer) not in self._made:
            self._made[id(layer)] = copy_of(layer, layer.name)
        return self._made[id(layer)]

    def _call_kernel(self, node: Any, inputs: keras.KerasTensor) -> keras.KerasTensor:
        layer, (result,) = node.operation, node.outputs
        if isinstance(layer, layers.Dense) and len(inputs.shape) != 2:
            raise ValueError(
                "LiteRT adds the bias of a Dense layer separately, in float32, unless its input is (batch, features). "
                f"Received: {layer.name!r} on {inputs.shape}. Use Conv1D(units, 1) or Conv2D(units, 1) instead."
            )
        is_head = layer.activation in HEADS
        if not is_head and layer.activation not in CLAMPS:
            raise unknown_activation(layer, layer.activation)
        normalization = self._folded(node)
        weights = layer.get_weights()
        if id(layer) not in self._made:
            config = layer.get_config()
            if is_head:
                config.update(name=unused(f"{layer.name}_logits", self._names), activation="linear")
            if normalization is not None:
                config["use_bias"] = True
                weights = folded_weights(layer, normalization)
            self._made[id(layer)] = QUANTIZED[type(layer)].from_config(config)
        new = self._made[id(layer)]
        output = new(inputs)
        new.set_weights(weights)
        if is_head:
            return self._call_head(result, layer, layer.activation, self._round(output, layer.name))
        if normalization is not None:
            result = inbound_nodes(normalization)[0].outputs[0]
        return self._stored(result, output, layer)

    def _call_head(
        self, result: keras.KerasTensor, layer: Any, activation: Any, logits: keras.KerasTensor
    ) -> keras.KerasTensor:
        if activation not in HEADS or self._readers[id(result)] != [None]:
            raise unknown_activation(layer, activation)
        # LiteRT gives the probabilities a fixed scale, 1/256. Training needs finer ones, so they are not rounded here.
        if id(layer) not in self._heads:
            self._heads[id(layer)] = layers.Activation(activation, name=layer.name)
        return self._heads[id(layer)](logits)

    def _is_joined(self, tensor: keras.KerasTensor) -> bool:
        """Whether a concatenation takes values of a tensor as they are.

        The converter would store the tensor in the concatenation's range, for its other readers too, unless it is
        rounded to its own.
        """
        return any(
            type(reader) is layers.Concatenate
            or (
                is_selection(reader)
                and any(self._is_joined(node.outputs[0]) for node in inbound_nodes(reader))
            )
            for reader in self._readers[id(tensor)]
        )

    def _only_reader(self, tensor: keras.KerasTensor) -> Any:
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
                "A BatchNormalization must come right after a Dense or convolution layer that it can be folded into: "
                "both are called once, nothing else reads the layer's output, and the layer has no activation. "
                f"Received: {node.operation.name!r} after {source.name!r} ({type(source).__name__}). "
                "Move the activation after the normalization, or remove the normalization."
            )

    def _stored(self, result: keras.KerasTensor, output: keras.KerasTensor, layer: Any) -> keras.KerasTensor:
        """The output of a layer, rounded unless it is rounded only after the layer that reads it."""
        reader, kind = self._only_reader(result), type(layer)
        clamps = type(reader) is layers.ReLU
        clamps = clamps or (type(reader) is layers.Activation and reader.activation in CLAMPS)
        takes_clamp = kind in PAIRS or (kind in QUANTIZED and layer.activation is activations.linear)
        joined = type(reader) is layers.Concatenate and kind is not layers.Concatenate
        return output if (clamps and takes_clamp) or joined else self._round(output, layer.name)

    def _round(self, tensor: keras.KerasTensor, name: str) -> keras.KerasTensor:
        layer = FakeQuantize(name=unused(f"{name}_int8", self._names))
        rounded = layer(tensor)
        self._ranges[id(rounded)] = layer
        return rounded
