"""Copies models with some of their layers replaced."""

import itertools
from collections.abc import Callable
from typing import Any

import keras

from distill._graphs import Step, functional_of, input_like, model_like, run
from distill._keras import Functional

# A layer or operation and its new name -> what takes its place, or `None` to leave it out.
Replace = Callable[[Any, str], Any]


def rewrite(model: keras.Model, replace: Replace) -> keras.Model:
    """Copies a model with other layers and the same weights; nested models are merged into it.

    Args:
        model: Functional or Sequential model.
        replace: function of a layer and its new name that returns the new layer, or `None` to leave it out.

    Returns:
        A Functional model, not compiled. Layers of nested models have the names of both, such as "backbone_conv", or
        "backbone_conv_2" if that is taken.

    Raises:
        ValueError: the model has no graph.
    """
    made: dict[int, Any] = {}

    def visit(step: Step[Any]) -> Any:
        if step.nested is not None:
            return step.enter(visit)
        layer = step.operation
        if id(layer) not in made:
            is_nested = "/" in step.path
            made[id(layer)] = replace(
                layer, unused(step.path.replace("/", "_"), taken) if is_nested else layer.name
            )
        new = made[id(layer)]
        args, kwargs = step.arguments()
        outputs = args[0] if new is None else new(*args, **kwargs)
        if isinstance(new, keras.Layer):
            new.set_weights(layer.get_weights())
        return outputs

    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "Rounding needs a model's graph: a Functional model, or a Sequential one with a keras.Input. "
            f"Received: {model.name!r}, a {type(model).__name__}. "
            "Build it from keras.Input; for a Distiller, pass its student."
        )
    taken = names_of(graph)
    inputs = [input_like(tensor) for tensor in graph.inputs]
    return model_like(graph, inputs, run(graph, inputs, visit).of(graph.outputs), model.name)


def names_of(graph: Functional) -> set[str]:
    """Names of a graph's layers and operations, including its inputs."""
    return {operation.name for operation in graph.operations}


def unused(name: str, taken: set[str]) -> str:
    """The name, with the first number that makes it unique if it is taken; it is taken from then on."""
    numbered = (f"{name}_{i}" for i in itertools.count(2))
    free = next(one for one in itertools.chain([name], numbered) if one not in taken)
    taken.add(free)
    return free


def copy_of(layer: Any, name: str, kind: Any = None) -> Any:
    """A layer with the same config and weights of its own, of the same type or another."""
    return (kind or type(layer)).from_config({**layer.get_config(), "name": name})
