"""Walks through the graph of a model and labels every axis of every tensor and weight, as the rules say."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import keras
import numpy as np

from distill._graphs import Step, functional_of, run
from distill._untouched import untouched
from distill.cost import Lengths, calls_of
from distill.pruning.structured._call import Call, Rule, outputs_of
from distill.pruning.structured._findings import Findings, Traced
from distill.pruning.structured._structure import Shape, Structure


def read(
    model: keras.Model,
    rules: Mapping[type, Rule],
    *,
    exact: bool = True,
    counted: bool = False,
    lengths: Lengths = None,
) -> Structure:
    """Walks through the graph of a model and labels it.

    Args:
        model: Functional or Sequential model, built.
        rules: type of a layer or operation -> its rule. A rule does not hold for subclasses.
        exact: whether layers that mix channels, such as LayerNormalization, keep all of them.
        counted: whether the multiply-adds will be counted, so that the sizes of all calls must be known.
        lengths: the sizes that the model leaves open, to count them; see `distill.cost.macs`.

    Returns:
        What can be removed, and how weights and configs change with it.

    Raises:
        ValueError: the model has no graph.
    """
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "Channels can only be found in the graph of a Functional model or of a built Sequential model. Received: "
            f"{getattr(model, 'name', model)!r}, a {type(model).__name__}. Build the model from keras.Input, or wrap "
            "its call in a Functional model."
        )
    structure, grouped = _walked(model, graph, rules, exact, frozenset())
    # Where whole groups cannot go, as behind a shuffle of the channels, some channels of every group may.
    stuck = {conv for conv, path in grouped.items() if not _free(structure, path)}
    if stuck:
        other, _ = _walked(model, graph, rules, exact, stuck)
        if np.count_nonzero(~other.atoms.locked) > np.count_nonzero(~structure.atoms.locked):
            structure = other
        else:
            stuck = set()
    # Keras leaves sizes open behind some layers, even where those of the inputs are known.
    is_known = all(size is not None for product in structure.products for size in product.sizes)
    is_open = any(None in tensor.shape[1:] for tensor in graph.inputs)
    if not counted or (lengths is None and (is_known or is_open)):
        return structure
    # What can go must hold for all lengths; how often weights are used is counted for these.
    sized, _ = _walked(model, graph, rules, exact, stuck, _sizes(model, graph, lengths))
    if sized.atoms.of.size != structure.atoms.of.size:
        raise ValueError(
            "Multiply-adds of a model with open sizes are counted where its channels do not depend on them. Received: "
            f"{model.name!r}, where they do. Rebuild it with a fixed keras.Input shape."
        )
    return dataclasses.replace(structure, products=sized.products)


class _Shapes(NamedTuple):
    """The shapes of the inputs and outputs of a call."""

    inputs: list[Shape]
    outputs: list[Shape]


def _sizes(model: keras.Model, graph: Any, lengths: Lengths) -> Iterator[_Shapes]:
    """The shapes of every call, with open sizes filled in, in the order of the walk."""
    found: list[_Shapes] = []
    counted = calls_of(model, lengths=lengths)
    made = collections.defaultdict(list)
    for call in reversed(counted.calls):
        made[call.path].append(call.outputs)

    def shapes_of(structure: Any) -> list[Shape]:
        leaves = keras.tree.flatten(structure)
        return [(None, *leaf.shape[1:]) for leaf in leaves if isinstance(leaf, keras.KerasTensor)]

    def visit(step: Step[keras.KerasTensor]) -> Any:
        if step.nested is not None:
            return step.enter(visit)
        args, kwargs = step.arguments()
        outputs = step.operation.compute_output_spec(*args, **kwargs)
        known = made[step.path].pop() if made[step.path] else ()
        if len(known) == len(keras.tree.flatten(outputs)):  # may have sizes that Keras leaves open
            outputs = keras.tree.pack_sequence_as(outputs, known)
        found.append(_Shapes(shapes_of((args, kwargs)), shapes_of(outputs)))
        return outputs

    with untouched(model):
        run(graph, counted.inputs, visit)
    return iter(found)


def _free(structure: Structure, path: str) -> bool:
    """Whether any of the channels that a layer makes can be removed."""
    made = [slot.labels for slot in structure.slots if slot.path == path and slot.role == "output"]
    atoms = np.unique(structure.atoms.of[np.concatenate(made)]) if made else np.empty(0, int)
    return atoms.size > 1 and not structure.atoms.locked[atoms].all()


def _walked(
    model: keras.Model,
    graph: Any,
    rules: Mapping[type, Rule],
    exact: bool,
    every_group: Set[int],
    sizes: Iterator[_Shapes] | None = None,
) -> tuple[Structure, dict[int, str]]:
    """What one walk finds, and the paths of its grouped convolutions; by default, shapes are those of the graph."""
    findings = Findings(rules, exact, every_group)
    calls: collections.Counter[str] = collections.Counter()

    def visit(step: Step[Traced]) -> list[Traced]:
        findings.operations[step.path] = step.operation
        if step.nested is not None:
            return step.enter(visit, _united(step.operation, step.path, step.inputs(), findings))
        call = Call(findings, step.node, step.path, step.inputs())
        if sizes is not None:
            call.shapes, call.output_shapes = next(sizes)
        outputs = outputs_of(call, findings)
        for i, traced in enumerate(outputs):
            findings.tensors[step.path, calls[step.path], i] = traced.axes
        calls[step.path] += 1
        return outputs

    def enter(inner: keras.Model, given: list[Traced], wrapper: Call) -> list[Traced]:
        """Walks through a model in a wrapper, which the proof and the counts treat as one layer."""

        def visit(step: Step[Traced]) -> list[Traced]:
            findings.operations[step.path] = step.operation
            if step.nested is not None:
                return step.enter(visit, _united(step.operation, step.path, step.inputs(), findings))
            return outputs_of(wrapper.within(step.node, step.path, step.inputs()), findings)

        nested: Any = functional_of(inner)
        united = _united(inner, wrapper.path, given, findings)
        return run(nested, united, visit, path=wrapper.path).of(nested.outputs)

    findings.enter = enter
    inputs = [Traced((None,) * len(tensor.shape), lambda: True) for tensor in graph.inputs]
    for traced in run(graph, inputs, visit).of(graph.outputs):
        for axis in traced.axes:
            findings.labels.lock(axis, "it is an output of the model")
    return findings.structure(model), findings.grouped


def _united(model: keras.Model, path: str, given: Sequence[Traced], findings: Findings) -> list[Traced]:
    """What is known about the inputs of a nested model. It is rebuilt once, so all its calls get the same channels."""
    first = findings.inputs.setdefault(id(model), [traced.axes for traced in given])
    reason = f"{path} is called on sizes that stay"
    united = []
    for one, other in zip(first, given, strict=True):
        axes = tuple(findings.labels.unite(a, b, reason) for a, b in zip(one, other.axes, strict=True))
        united.append(Traced(axes, other.vanishes))
    return united
