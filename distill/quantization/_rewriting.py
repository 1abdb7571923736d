"""Copies of models in which layers are replaced by others."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from distill._graphs import Step, functional_of, run
from distill._keras import history_of

Replace = Callable[[Any, str], Any]


def rewrite(model: keras.Model, replace: Replace) -> keras.Model:
    """The model with other layers and the same weights; nested models become part of it.

    Args:
        model: Functional or Sequential.
        replace: a layer and its new name -> the new layer, or `None` for nothing.

    Returns:
        A Functional model, not compiled; layers of nested models have the names of both, "backbone_conv", or
            "backbone_conv_2" where that is taken.

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

    graph: Any = functional_of(model)
    if graph is None:
        raise ValueError(
            "What is rounded is read from a model's graph: of a Functional model, or of a Sequential one with a "
            f"keras.Input. Received: {model.name!r}, a {type(model).__name__}. Build it from keras.Input; of a "
            "Distiller, take its student."
        )
    taken = names_of(graph)
    inputs = [input_like(tensor) for tensor in graph.inputs]
    return model_like(graph, inputs, run(graph, inputs, visit).of(graph.outputs), model.name)


def names_of(graph: Any) -> set[str]:
    """The names of a graph's layers and operations, inputs among them."""
    return {operation.name for operation in graph.operations}


def unused(name: str, taken: set[str]) -> str:
    """The name, or with the first number that makes it one of its own; it is taken from then on."""
    numbered = (f"{name}_{i}" for i in itertools.count(2))
    free = next(one for one in itertools.chain([name], numbered) if one not in taken)
    taken.add(free)
    return free


def copy_of(layer: Any, name: str, kind: Any = None) -> Any:
    """A layer of the same config, of the same type or another; weights are its own."""
    return (kind or type(layer)).from_config({**layer.get_config(), "name": name})


def input_like(tensor: Any) -> Any:
    """A new input of the same shape, type and name."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=history_of(tensor).operation.name)


def model_like(graph: Any, inputs: Sequence[Any], outputs: Sequence[Any], name: str) -> keras.Model:
    """A Functional model that takes and returns its tensors in the same structures as another."""
    structures = zip((graph.input, graph.output), (inputs, outputs), strict=True)
    return keras.Model(*(keras.tree.pack_sequence_as(*pair) for pair in structures), name=name)
