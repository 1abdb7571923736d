"""Removes the layers and residual blocks of a model whose absence does the least harm."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from distill._graphs import functional_of, needed_nodes, nested_calls, node_of, nodes_of
from distill._keras import inbound_nodes
from distill._models import require_model
from distill._replicas import own_scope
from distill._types import Data
from distill._untouched import same_randomness, untouched
from distill.pruning._numbers import is_whole
from distill.pruning.structured._compiling import compile_settings, compile_with
from distill.pruning.structured._operation_rules import is_addition
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read
from distill.pruning.weights.importance._batches import batches, require_examples, require_finite

# Layers with a weight for every number of their input at most.
_ELEMENTWISE = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.Normalization,
    layers.PReLU,
    layers.RMSNormalization,
)
# A shortened model -> how much worse it is than the original.
Harm = Callable[[keras.Model], float]


class Removable(NamedTuple):
    """A call that can be left out: one of its inputs is passed on.

    Attributes:
        path: path of the layer, or of the addition at the end of a residual block.
        node: Keras' record of the call.
        passed: input that takes the place of the output.
    """

    path: str
    node: Any
    passed: keras.KerasTensor


def removable_layers(model: keras.Model) -> list[str]:
    """Lists what `prune_layers` can remove, in the order of the graph.

    These are layers whose output has the same shape as their input, and residual blocks. Each has weights of its own,
    which are removed with it. A layer that is also called elsewhere is not a candidate, nor is one that costs little:
    a layer without weights, a normalization, or another that only scales its input.

    Args:
        model: built Functional or Sequential model, possibly with nested models.

    Returns:
        Paths of the layers, and of the additions at the ends of the residual blocks.

    Raises:
        ValueError: the model has no graph.

    Example:
        >>> from distill import pruning
        >>> net = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8, name=name) for name in ("one", "two"))])
        >>> pruning.removable_layers(net)
        ['one', 'two']
    """
    return [one.path for one in _removable(_graph(model))]


def output_change(model: keras.Model, data: Data) -> Harm:
    """Makes a measure of harm for `prune_layers`: how much the outputs change.

    It is the mean squared difference of the outputs, divided by their mean square.

    Args:
        model: original model; its outputs are computed once and kept.
        data: finite `tf.data.Dataset` of batches x, (x, y) or (x, y, sample_weight), of which only x is used; or
            anything else that `pruning.weights.importance.wanda` takes, such as an array.

    Returns:
        A function of a shortened model: 0 if no output changes, about 1 if nothing is left of the outputs.

    Raises:
        ValueError: the data can be read only once, never ends, or consists of arrays of different lengths.

    Example:
        >>> from distill import pruning
        >>> harm = pruning.output_change(model, x)
        >>> harm(model)
        0.0
    """
    require_finite(data)

    def outputs_of(one: keras.Model) -> list[np.ndarray]:
        with untouched(one):
            rows = [keras.tree.flatten(one(x, training=False)) for _, (x, _, _) in batches(data)]
        require_examples(len(rows))
        return [
            np.concatenate([np.asarray(ops.convert_to_numpy(part), np.float64) for part in parts])
            for parts in zip(*rows, strict=True)
        ]

    expected = outputs_of(model)

    def harm(shortened: keras.Model) -> float:
        changes = [
            np.square(found - wanted).mean() / max(np.square(wanted).mean(), np.finfo(np.float64).tiny)
            for found, wanted in zip(outputs_of(shortened), expected, strict=True)
        ]
        return float(np.mean(changes))

    return harm


def prune_layers(model: keras.Model, number: int, harm: Harm) -> keras.Model:
    """Returns a shallower model without the layers and residual blocks whose absence does the least harm.

    Layers and blocks are removed one at a time. Each step tries all remaining candidates, so `harm` is called about
    `number` times for each candidate.

    Args:
        model: built Functional or Sequential model, possibly with nested models; it does not change.
        number: number of layers and blocks to remove, >= 1.
        harm: function of a shortened model, such as its loss on held-out data or `output_change(model, x)`; smaller is
            better.

    Returns:
        The new model with copied weights: Functional or Sequential like the original, and compiled if the original is,
        with a fresh optimizer.

    Raises:
        ValueError: number is not an integer >= 1 or too large, harm returns NaN, or the model has no graph.

    Example:
        >>> from distill import pruning
        >>> hidden = [keras.layers.Dense(8, activation="relu", name=name) for name in ("one", "two", "three")]
        >>> net = keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(3)])
        >>> shallower = pruning.prune_layers(net, 1, pruning.output_change(net, np.ones((4, 8))))
        >>> len(shallower.layers)
        3
    """
    require_model(model, "prune_layers")
    if not is_whole(number) or number < 1:
        raise ValueError(f"number must be an integer >= 1. Received: number={number!r}.")
    graph = _graph(model)
    compiling = compile_settings(model)
    structure = read(model, rules_with())
    everything = np.ones(structure.atoms.count, bool)
    candidates = list(_removable(graph))
    skipped: dict[int, keras.KerasTensor] = {}
    shortest = model
    for _ in range(number):
        best: tuple[float, Removable, keras.Model] | None = None
        for one in candidates:
            if id(one.node) in skipped:
                continue
            with own_scope(model), same_randomness():
                shortened = rebuild(structure, everything, skipped={**skipped, id(one.node): one.passed})
            if shortened.count_params() == shortest.count_params():
                continue  # it went together with another
            value = float(harm(shortened))
            if np.isnan(value):
                raise ValueError(
                    f"harm() returned NaN for the model without {one.path!r}. It must return a number, smaller for "
                    "less harm."
                )
            if best is None or value < best[0]:
                best = value, one, shortened
        if best is None:
            raise ValueError(
                f"number must be at most {len(skipped)} for {model.name!r}, of which no more layers or blocks can be "
                f"removed. Received: number={number}. Candidates: "
                f"{', '.join(one.path for one in candidates) or 'none, no layer with weights keeps its shape'}."
            )
        _, chosen, shortest = best
        skipped[id(chosen.node)] = chosen.passed
    compile_with(compiling, model, shortest)
    return shortest


def _graph(model: keras.Model) -> Any:
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "Layers can only be removed from the graph of a Functional model or of a built Sequential model. Received: "
            f"{getattr(model, 'name', model)!r}, a {type(model).__name__}. Build the model from keras.Input."
        )
    return graph


def _removable(graph: Any) -> Iterator[Removable]:
    def saves(within: Any, node: Any, passed: keras.KerasTensor) -> bool:
        left = [one for one in needed_nodes(within, {id(node): passed}) if one is not node]
        return _weights(left) < _weights(nodes_of(within))

    # What goes from one call of a nested model goes from all.
    for path, node, within in nested_calls(graph, enter=lambda node: len(inbound_nodes(node.operation)) == 1):
        operation = node.operation
        if is_addition(operation) and len(node.input_tensors) == 2:
            one, other = node.input_tensors
            for shortcut, branch in ((one, other), (other, one)):
                if (
                    shortcut.shape == branch.shape
                    and _depends(branch, shortcut)
                    and saves(within, node, shortcut)
                ):
                    yield Removable(path, node, shortcut)
                    break
        elif (
            isinstance(operation, layers.Layer)
            and not isinstance(operation, _ELEMENTWISE)
            and any(len(variable.shape) > 1 for variable in operation.variables)
            and functional_of(operation) is None
            and len(node.input_tensors) == len(node.outputs) == 1
            and node.input_tensors[0].shape == node.outputs[0].shape
            and len(list(nodes_of(within))) > 1
            and saves(within, node, node.input_tensors[0])
        ):
            yield Removable(path, node, node.input_tensors[0])


def _weights(calls: Iterable[Any]) -> set[int]:
    return {
        id(variable)
        for node in calls
        if isinstance(node.operation, layers.Layer)
        for variable in node.operation.weights
    }


def _depends(tensor: keras.KerasTensor, source: keras.KerasTensor) -> bool:
    """Whether a tensor is computed from another of the same graph."""
    seen: set[int] = set()
    waiting = [tensor]
    while waiting:
        current = waiting.pop()
        if current is source:
            return True
        if id(current) not in seen:
            seen.add(id(current))
            waiting += node_of(current).input_tensors
    return False
