"""Which calls of a graph end in an activation that turns logits into the answers of a head."""

from typing import Any

import keras
from keras import layers

from distill._keras import nn
from distill.quantization import FakeQuantize, QuantizedConv1D, QuantizedConv2D, QuantizedDense

# These layers apply `activation` last, so a copy with a linear activation returns the logits.
END_IN_ACTIVATION = (
    *(layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(QuantizedDense, QuantizedConv1D, QuantizedConv2D),
)
_ACTIVATIONS = {
    keras.activations.linear: "linear",
    keras.activations.log_softmax: "log_softmax",
    keras.activations.sigmoid: "sigmoid",
    keras.activations.softmax: "softmax",
}
_OPERATIONS = {
    FakeQuantize: "linear",
    layers.Identity: "linear",
    layers.Softmax: "softmax",
    nn.LogSoftmax: "log_softmax",
    nn.Sigmoid: "sigmoid",
    nn.Softmax: "softmax",
}


def activation_of_call(node: Any) -> str | None:
    """Returns "linear", "softmax", "log_softmax" or "sigmoid"; `None` if a call ends in something else."""
    operation, kind = node.operation, type(node.operation)
    if kind in _OPERATIONS:
        # A softmax may also have a mask, or run over several axes.
        plain = len(node.input_tensors) == 1 and isinstance(getattr(operation, "axis", -1), int)
        return _OPERATIONS[kind] if plain else None
    if kind is layers.Activation or kind in END_IN_ACTIVATION:
        return _ACTIVATIONS.get(operation.activation)
    return None


def unrecognized(owner: str, node: Any) -> ValueError:
    """Returns the error for a head that is not recognized: its kind, or the setting that is in the way."""
    operation = node.operation
    head = f"{type(operation).__name__} {operation.name!r}"
    remedy = (
        "Heads that are recognized are Dense, EinsumDense, Conv1D, Conv2D, Conv3D and Activation with a linear, "
        "softmax or sigmoid activation, and Softmax over one axis."
    )
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", "")
    kinds = (*END_IN_ACTIVATION, layers.Activation, layers.Softmax)
    known = [kind for kind in kinds if isinstance(operation, kind)]
    if type(operation) in _OPERATIONS:
        head += " with a mask" if len(node.input_tensors) > 1 else f" with axis={operation.axis}"
    elif known and type(operation) not in known:
        head += f", of a class made from {known[0].__name__}, whose call may do anything"
        remedy = f"Use keras.layers.{known[0].__name__} itself for the head."
    elif known and getattr(keras.activations, name, None) is activation:
        head += f" with activation={name!r}"
    elif known:
        head += (
            f" with an activation that is not one of Keras' own, {name or type(activation).__name__!r} of "
        )
        head += str(getattr(activation, "__module__", type(activation).__module__))
        remedy = (
            "Such a function may compute anything. If it computes a softmax or a sigmoid, write activation='softmax' "
            "or 'sigmoid'."
        )
    return ValueError(
        f"A loss on logits must know where the model computes them. Received: {owner!r}, which ends in {head}. "
        f"{remedy} Or pass from_logits=True if the model returns logits, from_logits=False if it returns probabilities."
    )
