"""Copies models with some of their layers replaced."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from distill._graphs import Step, functional_of, input_like, model_like, run
from distill._keras import Functional

# A layer or operation and its new name -> what takes its place, or `None` to leave it out.
Replace = Callable[[Any, str], Any]


def rewrite(
    model: keras.Model,
    replace: Replace,
    *,
    weights: Callable[[Any], list[np.ndarray]] = lambda layer: layer.get_weights(),
    merge: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Copies a model with other layers and the same weights.

    Args:
        model: Functional or Sequential model.
        replace: function of a layer and its new name that returns the new layer, or `None` to leave it out.
        weights: function of a layer that returns the weights of the new one; by default the same.
        merge: whether nested models are merged into it. Their layers then have the names of both, such as
            "backbone_conv", or "backbone_conv_2" if that is taken.
        name: name of the copy; the same by default.

    Returns:
        A Functional model, not compiled.

    Raises:
        ValueError: the model has no graph.
    """
    made: dict[int, Any] = {}

    def visit(step: Step[Any]) -> Any:
        if step.nested is not None and merge:
            return step.enter(visit)
        old = step.operation
        if id(old) not in made:
            if step.nested is not None:
                made[id(old)] = copied(step.nested, old.name)
            else:
                is_nested = merge and "/" in step.path
                made[id(old)] = replace(
                    old, unused(step.path.replace("/", "_"), taken) if is_nested else old.name
                )
        new = made[id(old)]
        args, kwargs = step.arguments()
        outputs = args[0] if new is None else new(*args, **kwargs)
        if isinstance(new, keras.Layer) and step.nested is None:
            new.set_weights(weights(old))
            if isinstance(new, keras.layers.Normalization):
                new.finalize_state()  # it computes with what it took from its weights when it was built
        return outputs

    def copied(graph: Functional, name: str) -> keras.Model:
        inputs = [input_like(tensor) for tensor in graph.inputs]
        return model_like(graph, inputs, run(graph, inputs, visit).of(graph.outputs), name)

    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "To be copied with other layers, a model needs a graph: a Functional model, or a Sequential one with a "
            f"keras.Input. Received: {model.name!r}, a {type(model).__name__}. Build it from keras.Input; for a "
            "Distiller, pass its student."
        )
    taken = names_of(graph)
    return copied(graph, model.name if name is None else name)


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


def in_dtype(config: Any, dtype: str) -> Any:
    """A config, with those inside it, that computes in another floating-point type; quantized layers stay quantized."""
    if isinstance(config, (list, tuple)):
        return type(config)(in_dtype(part, dtype) for part in config)
    if not isinstance(config, dict):
        return config
    return {
        key: dtype if key == "dtype" and _is_floating(value) else in_dtype(value, dtype)
        for key, value in config.items()
    }


def _is_floating(dtype: Any) -> bool:
    if isinstance(dtype, dict):
        return dtype["class_name"] == "DTypePolicy" and "float" in dtype["config"]["name"]
    return "float" in str(dtype) and "_from_" not in str(dtype)
