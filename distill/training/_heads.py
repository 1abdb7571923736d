"""Reads tensors inside a model while it runs: outputs of named layers, and the logits before a head's activation."""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from distill._graphs import Step, functional_of, nested_calls, node_of, nodes_of, run
from distill._keras import (
    Functional,
    get_keras_mask,
    history_of,
    set_keras_mask,
    twin,
    twin_run_by,
    twin_that_activates,
    twin_with_graph,
)
from distill._types import Tensor, Tensors
from distill.losses._base import Head
from distill.training._activations import END_IN_ACTIVATION, activation_of_call, unrecognized
from distill.training._channels import Axis, channel_axes

_LOSS_FOR = {"softmax": "SoftTargets", "sigmoid": "BernoulliSoftTargets"}

# Number of the loss, and of the layer among those that the loss reads.
Key = tuple[int, int]


class Found(NamedTuple):
    """A head.

    Attributes:
        activation: "linear", "softmax", "log_softmax" or "sigmoid".
        axis: axis of its classes, from 0.
    """

    activation: str
    axis: int


class GraphReader:
    """Notes which tensors of a graph to keep, each under a key, and runs the graph so that they are kept.

    Args:
        graph: a Functional model.
        owner: name of the model, for errors.
        axes: axis of the channels of each tensor, for a nested model.
    """

    def __init__(self, graph: Functional, owner: str, axes: Mapping[int, Axis] | None = None) -> None:
        self._graph = graph
        self._axes = channel_axes(graph) if axes is None else axes
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
                    f"{len(node.output_tensors)}. Put a keras.layers.Identity(name=...) after the one you mean, and "
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

    def axis_of(self, tensor: keras.KerasTensor) -> int:
        """Returns the axis of a tensor's channels, from 0: the last unless the graph tells another."""
        axis = self._axes.get(id(tensor))
        return len(tensor.shape) - 1 if axis is None else axis

    def keep_logits(self, output: keras.KerasTensor, head: Head, key: Key) -> int:
        """Keeps the logits of the head that computed `output`, before the activation; returns the classes' axis."""
        found = self._find_logits(output, key)
        activation = "softmax" if found.activation == "log_softmax" else found.activation
        if activation not in ("linear", head):
            raise ValueError(
                f"A loss on {head} logits needs a {head} head. Received: {self._owner!r}, which ends in {activation}. "
                f"Use {_LOSS_FOR[activation]}, or pass from_logits=True if the outputs are logits nevertheless."
            )
        return found.axis

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
            # An activity regularizer is for the outputs.
            linear = {"activation": keras.activations.linear, "activity_regularizer": None}
            logits = operation_fn(twin(operation, **linear))(*args, **kwargs)
            kept.update(dict.fromkeys(self._taken_apart[id(node)], logits))
            # The activation attaches the logits to its output, where Keras' cross-entropy finds them.
            activation = operation.activation
            if operation.activity_regularizer is not None:
                activation = operation_fn(twin_that_activates(operation))
            outputs = activation(logits)
            if (mask := get_keras_mask(logits)) is not None:
                set_keras_mask(outputs, mask)
            return outputs

        values = run(self._graph, keras.tree.flatten(inputs), visit)
        kept.update({key: values[symbolic] for key, symbolic in self._kept.items()})
        return values.of(self._graph.output)

    def _inside(self, node: Any, graph: Functional) -> "GraphReader":
        owner = f"{self._owner}/{node.operation.name}"
        return self._nested.setdefault(id(node), GraphReader(graph, owner, self._axes))

    def _call_of(self, name: str) -> Any:
        """Returns the node of a layer's only call, or of call i for "name[i]"."""
        calls = [node for node in self._nodes if node.operation.name == name]
        asked, counted = name, None
        if not calls and (counted := re.fullmatch(r"(.+)\[(\d+)\]", name)):
            name = counted[1]
            calls = [node for node in self._nodes if node.operation.name == name]
            if int(counted[2]) < len(calls):
                return calls[int(counted[2])]
        if not calls:
            paths = list(dict.fromkeys(path for path, _, _ in nested_calls(self._graph)))
            ending = [path for path in paths if path.endswith(f"/{name}")]
            near = ending or difflib.get_close_matches(name, paths, n=3) or paths[:12]
            raise ValueError(
                f"{self._owner!r} has no layer of that name. Received: {asked!r}. Did you mean one of {near}?"
            )
        if len(calls) > 1 or counted:
            listed = [
                f"{name}[{i}] on " + ", ".join(repr(history_of(x).operation.name) for x in call.input_tensors)
                for i, call in enumerate(calls)
            ]
            raise ValueError(
                f"A layer that is called several times must be read by the number of a call. Received: {asked!r}, "
                f"called {len(calls)} times in {self._owner!r}: {'; '.join(listed)}. Write {name + '[0]'!r} for the "
                "first."
            )
        return calls[0]

    def _find_logits(self, tensor: keras.KerasTensor, key: Key) -> Found:
        """Keeps what `tensor` was before the last activation; returns what the activation is."""
        node = node_of(tensor)
        operation = node.operation
        kind = type(operation)
        if (graph := functional_of(operation)) is not None:
            index = history_of(tensor).tensor_index
            return self._inside(node, graph)._find_logits(graph.outputs[index], key)
        activation = activation_of_call(node)
        if activation is None:
            raise unrecognized(self._owner, node)
        if activation == "linear" and kind not in END_IN_ACTIVATION:
            before = self._find_logits(node.input_tensors[0], key)
            if before.activation == "linear":
                self._kept[key] = tensor
            return before
        axis = self.axis_of(tensor)
        if activation.endswith("softmax"):
            over = getattr(operation, "axis", -1) % len(tensor.shape)
            if over != axis and self._axes.get(id(tensor)) is not None:
                raise ValueError(
                    f"A softmax over classes runs over the axis of the channels. Received: {self._owner!r}, which ends "
                    f"in {kind.__name__} {operation.name!r}, a softmax over axis {over} of {tuple(tensor.shape)}, "
                    f"whose channels are on axis {axis}. Use keras.layers.Softmax(axis={axis}). Or pass "
                    "from_logits=True if the model returns logits, from_logits=False if it returns probabilities "
                    "over the channels."
                )
            axis = over
        if kind in END_IN_ACTIVATION and activation != "linear":
            self._taken_apart.setdefault(id(node), []).append(key)
        else:
            self._kept[key] = tensor if activation == "linear" else node.input_tensors[0]
        return Found(activation, axis)


def activation_of(model: keras.Model, output: int = 0) -> str:
    """Returns the last activation of a model's head; see `head_of`."""
    return head_of(model, output).activation


def axis_of_classes(model: keras.Model, output: int = 0) -> int:
    """Returns the axis, from 0, on which a Functional or Sequential model returns its classes."""
    graph = _graph_of(model)
    return GraphReader(graph, model.name).axis_of(graph.outputs[output])


def head_of(model: keras.Model, output: int = 0) -> Found:
    """Returns what a model's head is.

    Args:
        model: a Functional or Sequential model.
        output: position of the output that is looked at.

    Raises:
        ValueError: the model's graph cannot be read, or its head is not recognized.
    """
    graph = _graph_of(model)
    return GraphReader(graph, model.name)._find_logits(graph.outputs[output], (0, 0))


def _graph_of(model: keras.Model) -> Functional:
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "The head of a model can only be recognized in Functional and Sequential models. "
            f"Received: {model.name!r}, a {type(model).__name__}."
        )
    return graph
