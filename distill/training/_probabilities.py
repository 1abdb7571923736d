"""Logits from probabilities, as far as the dtype of the probabilities can tell."""

import math
from typing import Any

import keras
from keras import layers, ops

from distill._graphs import functional_of, node_of
from distill._keras import core, get_keras_mask, history_of, set_keras_mask
from distill._types import Tensor
from distill.losses._base import Head

# What rounds to 0, and what is as far from 1 as what rounds to 1. In float32 and bfloat16 the former is the smallest
# normal number, because TensorFlow and XLA take the smaller ones for 0 on most devices.
_ROUNDS_TO_0 = {"float16": 2.0**-25, "float64": 2.0**-1022}
_ROUNDS_TO_1 = {"float16": 2.0**-12, "bfloat16": 2.0**-9, "float64": 2.0**-54}
_PASSES_ON = (layers.Identity, layers.Reshape, layers.Permute, layers.Flatten, core.Cast)


def logits_of(probabilities: Tensor, head: Head, dtype: str | None = None) -> Tensor:
    """Returns logits in float32, as large as the probabilities can tell.

    For a softmax, they are the logarithms: the logits minus an unknown number for each row. A probability
    that rounded to 0 counts as the largest one that does. For a sigmoid, they are the log odds. Near 1, its
    values lie further apart than near 0, so both ends stop where those near 1 cannot be told apart: the log
    odds of p and of 1 − p are opposite numbers.

    Args:
        probabilities: what a head with a softmax over the last axis, or with a sigmoid, returned.
        head: "softmax" or "sigmoid".
        dtype: dtype that they were rounded in, if not their own.
    """
    mask = get_keras_mask(probabilities)
    own = keras.backend.standardize_dtype(probabilities.dtype)
    dtype = own if dtype is None else dtype
    p = probabilities if own == "float64" else ops.cast(probabilities, "float32")
    if head == "sigmoid":
        least = _ROUNDS_TO_1.get(dtype, 2.0**-25)
        log_p = ops.log(ops.maximum(p, _ROUNDS_TO_0.get(own, 2.0**-126)))
        # The bound is the value's alone: a student that is surely wrong must learn from a gradient.
        log_p = log_p + ops.stop_gradient(ops.maximum(log_p, math.log(least)) - log_p)
        logits = log_p - ops.log(ops.maximum(1.0 - p, least))
    else:
        logits = ops.log(ops.maximum(p, _ROUNDS_TO_0.get(dtype, 2.0**-126)))
    return _with_mask(ops.cast(logits, "float32"), mask)


def centered(logits: Tensor) -> Tensor:
    """Returns logits less their mean over the classes, which a softmax leaves free."""
    mask = get_keras_mask(logits)
    logits = ops.cast(logits, "float32")
    return _with_mask(logits - ops.mean(logits, axis=-1, keepdims=True), mask)


def dtype_rounded_in(output: keras.KerasTensor) -> str:
    """Returns the dtype that a model computed an output in, before layers that only cast or reorder it."""
    dtypes = [output.dtype]
    while not (node := node_of(output)).is_input:
        operation: Any = node.operation
        if (graph := functional_of(operation)) is not None:
            output = graph.outputs[history_of(output).tensor_index]
        elif isinstance(operation, _PASSES_ON) or _is_linear(operation):
            output = node.input_tensors[0]
        else:
            break
        dtypes.append(output.dtype)
    return max(dtypes, key=lambda dtype: _ROUNDS_TO_1.get(dtype, 2.0**-25))


def _is_linear(operation: Any) -> bool:
    return type(operation) is layers.Activation and operation.activation is keras.activations.linear


def _with_mask(tensor: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        set_keras_mask(tensor, mask)
    return tensor
