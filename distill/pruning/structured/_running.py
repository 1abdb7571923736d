"""Runs the graph of a model and shows every tensor on the way."""

import collections
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from distill._graphs import Step, functional_of
from distill._graphs import run as run_graph
from distill._keras import nn, standardize_inputs
from distill._types import Arrays, Tensor
from distill.pruning.structured._structure import Key

# TensorFlow cannot compute these in float64; the raw operations only in three dimensions.
_IN_FLOAT32 = (layers.AveragePooling3D, layers.MaxPooling3D, nn.AveragePool, nn.MaxPool)


def run(model: keras.Model, inputs: Arrays, see: Callable[[Key, Tensor], Tensor]) -> list[Tensor]:
    """Runs a Functional or Sequential model in inference mode.

    Args:
        model: model with a graph.
        inputs: arrays or tensors, as for the model.
        see: function that gets every tensor with its key, and returns the tensor that the layers after it are given.

    Returns:
        The outputs of the model.
    """
    calls: collections.Counter[str] = collections.Counter()

    def visit(step: Step[Tensor]) -> list[Tensor]:
        if step.nested is not None:
            return step.enter(visit)
        number = calls[step.path]
        calls[step.path] += 1
        args, kwargs = step.arguments()
        if kwargs.get(
            "training"
        ):  # a dropout that the model applies in inference too; its draws would differ
            kwargs = {**kwargs, "training": False}
        outputs = keras.tree.flatten(_called(step.operation, args, kwargs))
        return [see((step.path, number, i), value) for i, value in enumerate(outputs)]

    graph: Any = functional_of(model)
    values = run_graph(graph, standardize_inputs(graph, inputs), visit)  # as Keras' own call does
    return values.of(graph.outputs)


def _called(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    (tensor, *_) = keras.tree.flatten((args, kwargs))
    in_float64 = ops.is_tensor(tensor) and keras.backend.standardize_dtype(tensor.dtype) == "float64"
    if type(operation) not in _IN_FLOAT32 or not in_float64 or len(tensor.shape) < 5:
        return operation(*args, **kwargs)
    # `call`, because a layer would cast its input back to its own type.
    return ops.cast(operation.call(ops.cast(tensor, "float32")), "float64")
