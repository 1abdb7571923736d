"""The one walk over the graph of a Functional or Sequential model."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

# Keras exports no name for the class that `keras.Model(inputs, outputs)` makes.
from keras.src.models import Functional


def functional_of(model: Any) -> Functional | None:
    """The Functional model that computes what `model` computes, or `None` if that cannot be known."""
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call and model.built:
        return model._functional
    return None


def nodes_of(graph: Functional) -> Iterator[Any]:
    """The calls of a graph, inputs left out, each after those that it needs."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                yield node


def arguments_of(graph: Functional, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a call of a nested model gives it, in the order of the model's inputs."""
    given = args[0] if args else kwargs["inputs"]
    if isinstance(given, dict) and not isinstance(graph._inputs_struct, dict):
        return [given[tensor.name] for tensor in graph.inputs]
    return keras.tree.flatten(given)


def twin(layer: Any, **changes: Any) -> Any:
    """A layer or model that shares every variable with `layer` and can be called without a trace on it.

    `copy.copy` goes through Keras' pickling, which copies the weights too.
    """
    made = object.__new__(type(layer))
    made.__dict__.update(layer.__dict__, _inbound_nodes=[], _outbound_nodes=[], **changes)
    return made
