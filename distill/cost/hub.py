"""Decoders of keras_hub: Keras cannot infer what their attention makes, so their call cannot be followed."""

import math
import sys
from collections.abc import Callable
from typing import Any


def hub_products() -> dict[type, Callable[[Any, tuple[int, ...]], tuple[int, int]]]:
    """By type of layer, where keras_hub is used: multiply-adds with weights and of activations.

    They follow from the layer and the shape of its input.
    """
    if "keras_hub" not in sys.modules:
        return {}
    from keras_hub.layers import TransformerDecoder

    return {TransformerDecoder: _decoder}


def _decoder(layer: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    if layer._cross_attention_layer is not None:
        raise ValueError(
            "Multiply-adds are counted for decoders that look at their own sequence. "
            f"Received: {layer.name}, which looks at an encoder's too. Count this layer by hand."
        )
    _, steps, _ = shape
    kernels = sum(math.prod(weight.shape) for weight in layer.weights if weight.name == "kernel")
    attention = layer._self_attention_layer
    width = attention._num_heads * (attention._key_dim + attention._value_dim)
    return steps * kernels, steps * steps * width
