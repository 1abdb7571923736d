"""Reads tensors inside a model while it runs: outputs of named layers, and the logits before a head's activation."""

import difflib
import re
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from distill._graphs import Step, functional_of, nested_calls, node_of, nodes_of, run
from distill._keras import (
    Functional,
    get_keras_mask,
    history_of,
    set_keras_mask,
    twin,
    twin_run_by,
    twin_with_graph,
)
from distill._types import Tensor, Tensors
from distill.losses._base import Head
from distill.quantization import FakeQuantize, QuantizedConv1D, QuantizedConv2D, QuantizedDense

# These layers apply `activation` last, so a copy with a linear activation returns the logits.
_END_IN_ACTIVATION = (
    *(layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(QuantizedDense, QuantizedConv1D, QuantizedConv2D),
)
_ACTIVATIONS = {
    keras.activations.linear: "linear",
    keras.activations.log_softmax: "log_softmax",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.softmax: "softmax",
}
_LOSS_FOR = {"softmax": "SoftTargets", "sigmoid": "BernoulliSoftTargets"}

# Number of the loss, and of the layer among those that the loss reads.
Key = tuple[int, int]


class GraphReader:
    """Notes which tensors of a graph to keep, each under a key, and runs the graph so that they are kept.

    Args:
        graph: a Functional model.
        owner: name of the model, for errors.
    """

    def __init__(self, graph: Functional, owner: str) -> None:
        self._graph = graph
        self._owner = owner
        self._kept: dict[Key, keras.KerasTensor] = {}
        self._taken_apart: dict[int, list[Key]] = {}  # id of a head's node -> keys of its logits
        self._nested: dict[int, GraphReader] = {}  # id of a nested model's node -> its reader
        self._nodes = list(nodes_of(graph))

    @property
    def outputs(self) -> Tensors:
        """The model's symbolic outputs, in the structure in which the model returns them."""
        outputs = self._graph.output
        return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs

    def keep_layer(self, path: str, key: Key) -> keras.KerasTensor:
        """Keeps the output of the layer at `path`, such as "backbone/block3"; returns the symbolic tensor."""
        first, _, rest = path.partition("/")
        node = self._call_of(first)
        if not rest:
            if len(node.output_tensors) != 1:
                raise ValueError(
                    f"A layer can only be read if it has one output. Received: {path!r} of {self._owner!r}, with "
                    f"{len(node.output_tensors)}. Put a keras.layers.Identity(name=...) behind the one you mean, and "
                    "read that."
                )
            self._kept[key] = node.output_tensors[0]
            return node.output_tensors[0]
        graph = functional_of(node.operation)
        if graph is None:
            raise ValueError(
                "Layers can only be read inside Functional and Sequential models. "
                f"Received: {path!r} of {self._owner!r}, where {first!r} is a {type(node.operation).__name__}."
            )
        return self._inside(node, graph).keep_layer(rest, key)

    def keep_logits(self, output: keras.KerasTensor, head: Head, key: Key) -> None:
        """Keeps the logits of the head that computed `output`: what it was before the activation."""
        found = self._find_logits(output, key)
        found = "softmax" if found == "log_softmax" else found
        if found not in ("linear", head):
            raise ValueError(
                f"A loss on {head} logits needs a {head} head. Received: {self._owner!r}, which ends in "
                f"{found}. Use {_LOSS_FOR[found]}, or pass from_logits=True if the outputs are logits nevertheless."
            )

    def recording(self, model: keras.Model, kept: dict[Key, Tensor]) -> keras.Model:
        """Returns a twin of `model` that fills `kept` when it is called; `model` itself is left alone.

        The twin only runs the graph differently. Keras' own `__call__` still handles inputs, masks, `training` and
        losses. Make a twin for each call, because replicas of tf.distribute take turns within one.
        """
        graph = twin_run_by(self._graph, lambda inputs, operation_fn: self._run(inputs, operation_fn, kept))
        return graph if model is self._graph else twin_with_graph(model, graph)

    def _run(
        self, inputs: Tensors, operation_fn: Callable[[Any], Callable[..., Tensors]], kept: dict[Key, Tensor]
    ) -> Tensors:
        """Runs the graph as Keras does, and keeps what was asked for."""

        def visit(step: Step[Tensor]) -> Tensors:
            node, operation = step.node, step.operation
            args, kwargs = step.arguments()
            if id(node) not in self._taken_apart:
                if id(node) in self._nested:
                    operation = self._nested[id(node)].recording(operation, kept)
                return operation_fn(operation)(*args, **kwargs)
            logits = operation_fn(twin(operation, activation=keras.activations.linear))(*args, **kwargs)
            kept.update(dict.fromkeys(self._taken_apart[id(node)], logits))
            # The activation attaches the logits to its output, where Keras' cross-entropy finds them.
            outputs = operation.activation(logits)
            if (mask := get_keras_mask(logits)) is not None:
                set_keras_mask(outputs, mask)
            return outputs

        values = run(self._graph, keras.tree.flatten(inputs), visit)
        kept.update({key: values[symbolic] for key, symbolic in self._kept.items()})
        return values.of(self._graph.output)

    def _inside(self, node: Any, graph: Functional) -> "GraphReader":
        owner = f"{self._owner}/{node.operation.name}"
        return self._nested.setdefault(id(node), GraphReader(graph, owner))

    def _call_of(self, name: str) -> Any:
        """Returns the node of a layer's only call, or of call i for "name[i]"."""
        calls = [node for node in self._nodes if node.operation.name == name]
        counted = re.fullmatch(r"(.+)\[(\d+)\]", name)
        if not calls and counted:
            name = counted[1]
            calls = [node for node in self._nodes if node.operation.name == name]
            if int(counted[2]) < len(calls):
                return calls[int(counted[2])]
        if not calls:
            paths = list(dict.fromkeys(path for path, _, _ in nested_calls(self._graph)))
            ending = [path for path in paths if path.endswith(f"/{name}")]
            near = ending or difflib.get_close_matches(name, paths, n=3) or paths[:12]
            raise ValueError(
                f"{self._owner!r} has no layer of that name. Received: {name!r}. Did you mean one of {near}?"
            )
        if len(calls) > 1 or counted:
            listed = [
                f"{name}[{i}] on " + ", ".join(repr(history_of(x).operation.name) for x in call.input_tensors)
                for i, call in enumerate(calls)
            ]
            raise ValueError(
                f"A layer that is called several times must be read by the number of a call. Received: {name!r}, "
                f"called {len(calls)} times in {self._owner!r}: {'; '.join(listed)}. Write {name + '[0]'!r} for the "
                "first."
            )
        return calls[0]

    def _find_logits(self, tensor: keras.KerasTensor, key: Key) -> str:
        """Keeps what `tensor` was before the last activation; returns the name of the activation."""
        node = node_of(tensor)
        operation = node.operation
        if type(operation) in (layers.Activation, FakeQuantize):
            rounds = type(operation) is FakeQuantize
            activation = "linear" if rounds else _ACTIVATIONS.get(operation.activation)
            if activation == "linear":
                before = self._find_logits(node.input_tensors[0], key)
                if before == "linear":
                    self._kept[key] = tensor
                return before
            if activation is not None:
                self._kept[key] = node.input_tensors[0]
                return activation
        elif type(operation) is layers.Softmax:
            if operation.axis in (-1, len(tensor.shape) - 1) and len(node.input_tensors) == 1:
                self._kept[key] = node.input_tensors[0]
                return "softmax"
        elif type(operation) in _END_IN_ACTIVATION:
            activation = _ACTIVATIONS.get(operation.activation)
            if activation == "linear":
                self._kept[key] = tensor
                return "linear"
            # An activity regularizer would be applied to the outputs, which the copy does not compute.
            if activation is not None and operation.activity_regularizer is None:
                self._taken_apart.setdefault(id(node), []).append(key)
                return activation
        elif (graph := functional_of(operation)) is not None:
            index = history_of(tensor).tensor_index
            return self._inside(node, graph)._find_logits(graph.outputs[index], key)
        raise ValueError(
            f"A loss on logits must know where they are. Received: {self._owner!r}, which ends in "
            f"{type(operation).__name__} {operation.name!r}. Heads that are recognised are Dense, EinsumDense, Conv1D, "
            "Conv2D, Conv3D and Activation with a linear, softmax or sigmoid activation, and Softmax over the last "
            "axis. Pass from_logits=True if the model returns logits, or from_logits=False if it returns "
            "probabilities."
        )


def activation_of(model: keras.Model, output: int = 0) -> str:
    """Returns the last activation of a model's head: "linear", "softmax", "log_softmax" or "sigmoid".

    Args:
        model: a Functional or Sequential model.
        output: position of the output that is looked at.

    Raises:
        ValueError: the model's graph cannot be read, or its head is not recognised.
    """
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "The head of a model can only be recognised in Functional and Sequential models. "
            f"Received: {model.name!r}, a {type(model).__name__}."
        )
    return GraphReader(graph, model.name)._find_logits(graph.outputs[output], (0, 0))
