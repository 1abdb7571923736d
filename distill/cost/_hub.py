"""Layers of keras_hub whose call leaves `keras.ops`, so that it cannot be followed."""

import math
import sys
from collections.abc import Callable
from typing import Any

from distill._keras import attention_projections


def hub_products() -> dict[type, Callable[[Any, tuple[int, ...], tuple[int, ...]], tuple[int, int]]]:
    """By type of layer, where keras_hub is used: multiply-adds with weights and of activations.

    They follow from the layer and the shapes of its two inputs.
    """
    # keras_hub exports no name for it.
    module = sys.modules.get("keras_hub.src.models.deberta_v3.disentangled_self_attention")
    return {} if module is None else {module.DisentangledSelfAttention: _disentangled}


def _disentangled(layer: Any, shape: tuple[int, ...], distances_shape: tuple[int, ...]) -> tuple[int, int]:
    """DeBERTa's: queries and keys meet each other, and each of them what the other kernel makes of the distances."""
    _, steps, width = shape
    _, distances, _ = distances_shape
    query, key, value, output = (math.prod(dense.kernel.shape) for dense in attention_projections(layer))
    weights = steps * (query + key + value + output) + distances * (query + key)
    return weights, 2 * steps * steps * width + 2 * steps * distances * width
