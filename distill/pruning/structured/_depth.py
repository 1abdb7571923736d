"""Takes whole layers and residual blocks out of a model, those that it misses least."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from distill._graphs import functional_of, needed_nodes, nested_calls, node_of, nodes_of
from distill._keras import inbound_nodes
from distill.pruning.structured._compiling import compile_settings, compile_with
from distill.pruning.structured._operation_rules import is_addition
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read
from distill.pruning.weights._patterns import is_whole
from distill.pruning.weights.criteria._batches import batches, require_examples, require_finite

Harm = Callable[[keras.Model], float]


class Removable(NamedTuple):
    """A call that can be left out: what it is given is passed on.

    Attributes:
        path: of the layer; of a residual block, of the addition at its end.
        node: of the graph.
        passed: the tensor that takes the place of its output.
    """

    path: str
    node: Any
    passed: keras.KerasTensor


def removable_layers(model: keras.Model) -> list[str]:
    """Paths of what `prune_layers` can take out, in the order of the graph.

    Args:
        model: Functional or Sequential, possibly with such models nested.

    Returns:
        Paths of layers that return the shape that they are given, and of the additions that end residual blocks, with
        whose absence weights go: not those of layers that are called elsewhere too. What has none costs little.
    """
    return [one.path for one in _removable(_graph(model))]


def output_change(model: keras.Model, data: Any) -> Harm:
    """How much the outputs of a shortened model differ: mean squared difference, over the outputs' mean square.

    Args:
        model: the original; its outputs are computed once and kept.
        data: a finite `tf.data.Dataset` of batches x, (x, y) or (x, y, sample_weight), of which x is used, or an array;
            as for `criteria.wanda`.

    Returns:
        A function of a model; 0 if nothing changes, about 1 if nothing is left.

    Raises:
        ValueError: the data can be gone through only once, never end, or are arrays of several lengths.
    """
    require_finite(data)

    def outputs_of(one: keras.Model) -> list[np.ndarray]:
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
    """A shallower model without those layers and residual blocks whose absence does least harm.

    One goes after the other: each time all that are left are tried, and that goes without which `harm` is smallest. So
    `harm` is asked for `number` times as often as there are candidates.

    Args:
        model: Functional or Sequential, possibly with such models nested, built. It is left as it is.
        number: how many go, >= 1.
        harm: a function of a shortened model, such as its loss on dev, or `output_change(model, x)`. Smaller is better.

    Returns:
        The new model with copied weights, Functional or Sequential as before, compiled if the old one was; the
        optimizer starts afresh.

    Raises:
        ValueError: number is not an integer >= 1, or more than what can go; a harm is NaN; the model has no graph.
    """
    if not is_whole(number) or number < 1:
        raise ValueError(f"An integer >= 1 says how many layers go. Received: number={number!r}.")
    graph = _graph(model)
    compiling = compile_settings(model)
    structure = read(model, rules_with())
    everything = np.ones(structure.atoms.count, bool)
    candidates = list(_removable(graph))
    skipped: dict[int, keras.KerasTensor] = {}
    shortest = model
    for _ in range(number):
        tried = []
        for one in candidates:
            if id(one.node) in skipped:
                continue
            shortened = rebuild(structure, everything, skipped={**skipped, id(one.node): one.passed})
            if shortened.count_params() == shortest.count_params():
                continue  # it went with another
            value = float(harm(shortened))
            if np.isnan(value):
                raise ValueError(f"A harm is a number. Received: NaN without {one.path!r}.")
            tried.append((value, one, shortened))
        if not tried:
            raise ValueError(
                f"As many layers go as can. Received: number={number}, where {len(skipped)} of {model.name!r} can: "
                f"{', '.join(one.path for one in candidates) or 'none keeps its shape'}."
            )
        _, chosen, shortest = min(tried, key=lambda one: one[0])
        skipped[id(chosen.node)] = chosen.passed
    compile_with(compiling, model, shortest)
    return shortest


def _graph(model: keras.Model) -> Any:
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "Layers are found in the graph of a Functional model, or of a Sequential one that is built. Received: "
            f"{getattr(model, 'name', model)!r}, a {type(model).__name__}."
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
