"""Counts multiply-adds of keras_hub layers whose call cannot be followed, because it leaves `keras.ops`."""

import math
import sys
from collections.abc import Callable
from typing import Any

from distill._keras import attention_projections


def hub_products() -> dict[type, Callable[[Any, tuple[int, ...], tuple[int, ...]], tuple[int, int]]]:
    """Counts of multiply-adds by type of layer; empty if keras_hub is not in use.

    Each function takes the layer and the shapes of its two inputs, and returns the multiply-adds with weights and
    those of activations.
    """
    # keras_hub exports no name for this module.
    module = sys.modules.get("keras_hub.src.models.deberta_v3.disentangled_self_attention")
    return {} if module is None else {module.DisentangledSelfAttention: _disentangled}


def _disentangled(layer: Any, shape: tuple[int, ...], distances_shape: tuple[int, ...]) -> tuple[int, int]:
    """DeBERTa's attention: queries meet keys, and both meet the distances, projected by the other's kernel."""
    _, steps, width = shape
    _, distances, _ = distances_shape
    query, key, value, output = (math.prod(dense.kernel.shape) for dense in attention_projections(layer))
    weights = steps * (query + key + value + output) + distances * (query + key)
    return weights, 2 * steps * steps * width + 2 * steps * distances * width
