"""Parts of a model that share its layers: to find where a fault begins, and to put another layer in place of one."""

from collections.abc import Callable
from typing import Any

import keras

from distill._graphs import Step, functional_of, input_like, model_like, nodes_of, run
from distill._keras import twin
from distill._rewriting import unused

# The `call` that takes the place of a layer's, or `None`.
Replace = Callable[[Any], Callable[..., Any] | None]


def flat_twin(
    model: keras.Model, replace: Replace = lambda layer: None
) -> tuple[keras.Model, dict[int, str]] | None:
    """A model that computes the same with the same variables, with nested models merged into it.

    Args:
        model: any model; it is not changed.
        replace: gives the `call` of layers that compute the same in another way.

    Returns:
        The model, and by `id` of its layers and operations their paths in the original; `None` if it has no graph.
    """
    graph = functional_of(model)
    if graph is None:
        return None
    twins: dict[int, Any] = {}
    paths: dict[int, str] = {}
    names: set[str] = set()

    def visit(step: Step[Any]) -> Any:
        if step.nested is not None:
            return step.enter(visit)
        layer = step.operation
        if id(layer) not in twins:
            other = replace(layer)
            name = layer.name if layer.name not in names else unused(step.path.replace("/", "_"), names)
            names.add(name)  # layers of different models may share one
            twins[id(layer)] = twin(layer, name=name, **({} if other is None else {"call": other}))
            paths[id(twins[id(layer)])] = step.path
        args, kwargs = step.arguments()
        return twins[id(layer)](*args, **kwargs)

    inputs = [input_like(tensor) for tensor in graph.inputs]
    outputs = run(graph, inputs, visit).of(graph.outputs)
    return model_like(graph, inputs, outputs, graph.name), paths


def first_at_fault(model: keras.Model, fails: Callable[[keras.Model], bool]) -> str | None:
    """The layer or operation with which a fault begins: the parts before it are free of it.

    Args:
        model: a model with the fault.
        fails: tells whether a part of the model has it. The part has the same inputs, and gives all that the rest of
            the model reads from it. Asked for about log2(number of layers) parts.

    Returns:
        Such as "layer 'backbone/lstm' (LSTM)"; `None` if the model has no graph.
    """
    twinned = flat_twin(model)
    if twinned is None:
        return None
    flat, paths = twinned
    graph: Any = functional_of(flat)
    nodes = list(nodes_of(graph))
    right, wrong = 0, len(nodes)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if fails(_part(graph, nodes[:middle], nodes[middle:])):
            wrong = middle
        else:
            right = middle
    found = nodes[wrong - 1].operation
    kind = "layer" if isinstance(found, keras.Layer) else "operation"
    return f"{kind} {paths[id(found)]!r} ({type(found).__name__})"


def _part(graph: Any, done: list[Any], rest: list[Any]) -> keras.Model:
    read = {id(tensor) for node in rest for tensor in node.input_tensors} | {
        id(tensor) for tensor in graph.outputs
    }
    outputs = [tensor for node in done for tensor in node.outputs if id(tensor) in read]
    return keras.Model(graph.input, outputs, name=graph.name)
