"""Runs a model's graph and shows every tensor on the way."""

import collections
from collections.abc import Callable
from typing import Any

import keras

from distill.graphs import arguments_of, functional_of, nodes_of
from distill.pruning.structured.structure import Key


def run(model: keras.Model, inputs: Any, see: Callable[[Key, Any], Any]) -> Any:
    """Runs a Functional or Sequential model in inference mode.

    Args:
        model: whose layers run one after the other.
        inputs: arrays or tensors, as for the model.
        see: is given every tensor by its key, and returns what the layers after it are given.

    Returns:
        The outputs, as a list.
    """
    calls: collections.Counter[str] = collections.Counter()

    def walk(graph: Any, values: list[Any], path: str) -> list[Any]:
        tensors = {id(tensor): value for tensor, value in zip(graph.inputs, values, strict=True)}
        for node in nodes_of(graph):
            operation = node.operation
            own = f"{path}/{operation.name}" if path else operation.name
            nested = functional_of(operation)
            if nested is not None:
                call = node.arguments.args, node.arguments.kwargs
                given = [tensors[id(tensor)] for tensor in arguments_of(nested, *call)]
                outputs = walk(nested, given, own)
            else:
                args, kwargs = node.arguments.fill_in(tensors)
                outputs = keras.tree.flatten(operation(*args, **kwargs))
                outputs = [see((own, calls[own], i), value) for i, value in enumerate(outputs)]
                calls[own] += 1
            for tensor, value in zip(node.outputs, outputs, strict=True):
                tensors[id(tensor)] = value
        return [tensors[id(tensor)] for tensor in graph.outputs]

    graph: Any = functional_of(model)
    return walk(graph, graph._standardize_inputs(inputs), "")  # as Keras' own call does
