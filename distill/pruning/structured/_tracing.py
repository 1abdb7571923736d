"""Walks through the graph of a model and labels every axis of every tensor and weight, as the rules say."""

import collections
from collections.abc import Mapping, Sequence, Set
from typing import Any

import keras
import numpy as np

from distill._graphs import Step, functional_of, run
from distill.pruning.structured._call import Call, Rule, outputs_of
from distill.pruning.structured._findings import Findings, Traced
from distill.pruning.structured._structure import Structure


def read(model: keras.Model, rules: Mapping[type, Rule], *, exact: bool = True) -> Structure:
    """Walks through the graph of a model and labels it.

    Args:
        model: Functional or Sequential model, built.
        rules: type of a layer or operation -> its rule. A rule does not hold for subclasses.
        exact: whether layers that mix channels, such as LayerNormalization, keep all of them.

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
            return other
    return structure


def _free(structure: Structure, path: str) -> bool:
    """Whether something of the channels that a layer makes can go."""
    made = [slot.labels for slot in structure.slots if slot.path == path and slot.role == "output"]
    atoms = np.unique(structure.atoms.of[np.concatenate(made)]) if made else np.empty(0, int)
    return atoms.size > 1 and not structure.atoms.locked[atoms].all()


def _walked(
    model: keras.Model, graph: Any, rules: Mapping[type, Rule], exact: bool, every_group: Set[int]
) -> tuple[Structure, dict[int, str]]:
    """What one walk finds, and the paths of the grouped convolutions on it."""
    findings = Findings(rules, exact, every_group)
    calls: collections.Counter[str] = collections.Counter()

    def visit(step: Step[Traced]) -> list[Traced]:
        findings.operations[step.path] = step.operation
        if step.nested is not None:
            return step.enter(visit, _united(step.operation, step.path, step.inputs(), findings))
        outputs = outputs_of(Call(findings, step.node, step.path, step.inputs()), findings)
        for i, traced in enumerate(outputs):
            findings.tensors[step.path, calls[step.path], i] = traced.axes
        calls[step.path] += 1
        return outputs

    def enter(inner: keras.Model, given: list[Traced], wrapper: Call) -> list[Traced]:
        """Walks through a model in a wrapper, which the proof and the counts take for one layer."""

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
