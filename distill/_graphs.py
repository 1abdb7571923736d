"""The one walk over the graph of a Functional or Sequential model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from distill._keras import Functional, graph_of_sequential, nodes_by_depth


def functional_of(model: Any) -> Functional | None:
    """The Functional model that computes what `model` computes, or `None` if that cannot be known."""
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call and model.built:
        return graph_of_sequential(model)
    return None


def nodes_of(graph: Functional) -> Iterator[Any]:
    """The calls of a graph, inputs left out, each after those that it needs."""
    by_depth = nodes_by_depth(graph)
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if not node.is_input:
                yield node


def arguments_of(graph: Functional, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a call of a nested model gives it, in the order of the model's inputs."""
    given = args[0] if args else kwargs["inputs"]
    if isinstance(given, dict) and not isinstance(graph.input, dict):
        return [given[tensor.name] for tensor in graph.inputs]
    return keras.tree.flatten(given)
