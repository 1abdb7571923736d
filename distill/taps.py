"""One forward pass of a model that also returns what distillation reads: logits and named layers."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import layers, ops

# Keras exports no name for the class that `keras.Model(inputs, outputs)` makes, nor for masks.
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.models import Functional

from distill.losses.base import Head

# The last thing that `call` of these does is to apply `activation`, so a copy with a linear one returns logits.
_END_IN_ACTIVATION = (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
_ACTIVATIONS = {
    keras.activations.linear: "linear",
    keras.activations.log_softmax: "softmax",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.softmax: "softmax",
}


class Tapped(NamedTuple):
    """What one forward pass returned.

    Attributes:
        outputs: what the model itself returns.
        logits: the pre-activation of its softmax or sigmoid head; `None` where no loss asked for it.
        layers: the outputs of the tapped layers, by name.
    """

    outputs: Any
    logits: Any
    layers: dict[str, Any]


class Taps:
    """A model whose one forward pass also returns the logits of its head and the outputs of named layers.

    The model's variables are shared; nothing is added to the model or to what it saves. A softmax or
    sigmoid head is taken apart: the logits are computed once, and the outputs are the same activation
    applied to them.

    Args:
        model: a built `keras.Model`. Layers can be tapped and heads recognised in Functional and
            Sequential models, whose graph can be read.
        layer_names: the layers whose outputs to return.
        head: "softmax" or "sigmoid" to return the logits of such a head; `None` for no logits.
        from_logits: `None` recognises the head. `True` states that the model's outputs are logits,
            `False` that they are probabilities, whose logarithm (for "sigmoid": log odds) is then
            returned, equal to the logits up to a constant that neither head sees, as long as no
            probability underflows in float32.

    Attributes:
        spec: a `Tapped` of `keras.KerasTensor` with the shapes to expect; its outputs are `None` for
            a model whose graph cannot be read.

    Raises:
        ValueError: the head cannot be recognised or is of the other kind; `head` is given and the model
            has several outputs; a layer does not exist, or is called more than once.
    """

    def __init__(
        self,
        model: keras.Model,
        layer_names: Sequence[str] = (),
        head: Head | None = None,
        from_logits: bool | None = None,
    ) -> None:
        self._model = model
        self._head = head
        self._from_logits = from_logits
        self._tapped: keras.Model | None = None
        graph = _graph(model)
        if graph is None:
            if layer_names:
                raise ValueError(
                    "Layers can be tapped where the graph can be read: in Functional and Sequential models. "
                    f"Received: layers {list(layer_names)} of {model.name!r}, a {type(model).__name__}. "
                    "Build the model with the Functional API, or distil its outputs instead."
                )
            if head is not None and from_logits is None:
                raise _unrecognised(model, f"a {type(model).__name__}, whose graph cannot be read")
            self.spec = Tapped(None, None, {})
            return

        tapped = {name: _layer_output(graph, name) for name in layer_names}
        outputs, logits = graph.output, None
        if head is not None:
            if len(graph.outputs) != 1:
                raise ValueError(
                    "Logits are distilled from models with one output. "
                    f"Received: {model.name!r} with {len(graph.outputs)} outputs."
                )
            logits = graph.outputs[0]
            if from_logits is None:
                found = _find_head(logits, model)
                if found.activation not in ("linear", head):
                    raise ValueError(
                        f"A loss on {head} logits needs a {head} head. Received: {model.name!r}, which ends in "
                        f"{found.activation}. Use {_LOSS_FOR[found.activation]}, or state "
                        "from_logits=True if its outputs are logits all the same."
                    )
                outputs, logits = found.outputs, found.logits
        self.spec = Tapped(outputs, logits, tapped)
        if tapped or outputs is not logits is not None:
            parts = {"outputs": outputs, "layers": tapped}
            if logits is not None:
                parts["logits"] = logits
            self._tapped = keras.Model(graph.input, parts, name=f"{model.name}_tapped")

    def __call__(self, inputs: Any, training: bool) -> Tapped:
        """Runs the model once on a batch; differentiable."""
        if self._tapped is None:
            outputs = self._model(inputs, training=training)
            parts = {"outputs": outputs, "layers": {}}
        else:
            parts = self._tapped(inputs, training=training)
        if self._head is None:
            logits = None
        else:
            logits = parts.get("logits", parts["outputs"])
            if keras.tree.is_nested(logits):
                raise ValueError(
                    "Logits are distilled from models with one output. "
                    f"Received: {self._model.name!r}, which returns a {type(logits).__name__}."
                )
            if self._from_logits is False:
                mask = get_keras_mask(logits)
                logits = _logits_of(logits, self._head)
                if mask is not None:
                    set_keras_mask(logits, mask)
        return Tapped(parts["outputs"], logits, parts["layers"])


class _FoundHead(NamedTuple):
    outputs: keras.KerasTensor
    logits: keras.KerasTensor
    activation: str


_LOSS_FOR = {"softmax": "SoftTargets", "sigmoid": "BernoulliSoftTargets"}


def _graph(model: keras.Model) -> Functional | None:
    """The Functional model that computes what `model` computes, or `None` if that cannot be known."""
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call and model.built:
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return None


def _find_head(tensor: keras.KerasTensor, model: keras.Model) -> _FoundHead:
    """Looks at the operation that computed `tensor` and takes its last activation off."""
    operation, node_index, tensor_index = tensor._keras_history
    node = operation._inbound_nodes[node_index]
    if type(operation) is layers.Activation:
        activation = _ACTIVATIONS.get(operation.activation)
        if activation == "linear":
            before = _find_head(node.input_tensors[0], model)
            if before.activation == "linear":
                return _FoundHead(tensor, tensor, "linear")
            return before._replace(outputs=_copy(operation)(before.outputs))
        if activation is not None:
            return _FoundHead(tensor, node.input_tensors[0], activation)
    elif type(operation) is layers.Softmax:
        if operation.axis in (-1, len(tensor.shape) - 1) and len(node.input_tensors) == 1:
            return _FoundHead(tensor, node.input_tensors[0], "softmax")
    elif type(operation) in _END_IN_ACTIVATION:
        activation = _ACTIVATIONS.get(operation.activation)
        if activation == "linear":
            return _FoundHead(tensor, tensor, "linear")
        # An activity regularizer on the layer means its outputs, which the copy below no longer computes.
        if activation is not None and operation.activity_regularizer is None:
            logits = _copy(operation, activation=keras.activations.linear)(node.input_tensors[0])
            # Not a bare `ops.softmax`: the layer leaves the logits on its output for Keras' cross-entropy.
            outputs = layers.Activation(operation.activation, dtype=operation.compute_dtype)(logits)
            return _FoundHead(outputs, logits, activation)
    elif isinstance(operation, keras.Model) and (graph := _graph(operation)) is not None:
        inner = _find_head(graph.outputs[tensor_index], model)
        if inner.activation == "linear":
            return _FoundHead(tensor, tensor, "linear")
        taken_apart = keras.Model(graph.input, [inner.outputs, inner.logits], name=f"{operation.name}_head")
        outputs, logits = taken_apart(*node.arguments.args, **node.arguments.kwargs)
        return _FoundHead(outputs, logits, inner.activation)
    raise _unrecognised(model, f"which ends in {type(operation).__name__} {operation.name!r}")


def _copy(layer: keras.layers.Layer, **changes: Any) -> keras.layers.Layer:
    """A layer that shares every variable with `layer` and can be called without a trace on it.

    `copy.copy` goes through Keras' pickling, which copies the weights too.
    """
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__, _inbound_nodes=[], _outbound_nodes=[], **changes)
    twin.__dict__["name"] = f"{layer.name}_tapped"
    return twin


def _layer_output(graph: Functional, name: str) -> Any:
    found = [layer for layer in graph.layers if layer.name == name]
    if not found:
        names = [layer.name for layer in graph.layers]
        near = difflib.get_close_matches(name, names, n=3) or names
        raise ValueError(
            f"No layer of that name in {graph.name!r}. Received: {name!r}. Did you mean one of {near}?"
        )
    # `layer.output` means the first call anywhere; only the calls inside this graph count here.
    nodes = [node for level in graph._nodes_by_depth.values() for node in level]
    calls = [node for node in nodes if node.operation is found[0]]
    if len(calls) != 1:
        raise ValueError(
            f"A tapped layer must be called once. Received: {name!r}, called {len(calls)} times in {graph.name!r}. "
            "Follow the call you mean by a keras.layers.Identity(name=...) and tap that."
        )
    outputs = calls[0].output_tensors
    return outputs[0] if len(outputs) == 1 else list(outputs)


def _logits_of(probabilities: Any, head: Head) -> Any:
    """Logits from probabilities in float32; one that underflowed to 0 counts as the smallest normal number."""
    tiny = 1.1754944e-38
    probabilities = ops.cast(probabilities, "float32")
    logits = ops.log(ops.maximum(probabilities, tiny))
    if head == "sigmoid":
        logits = logits - ops.log(ops.maximum(1.0 - probabilities, tiny))
    return logits


def _unrecognised(model: keras.Model, what: str) -> ValueError:
    return ValueError(
        f"A loss on logits must know where they are. Received: {model.name!r}, {what}. "
        "Recognised are Dense, EinsumDense, Conv1D, Conv2D, Conv3D and Activation with a linear, softmax or sigmoid "
        "activation, and Softmax over the last axis. If the model returns logits, say so with from_logits=True; "
        "if it returns probabilities, with from_logits=False."
    )
