"""Walks through the graph of a model and labels every axis of every tensor and weight, as the rules say."""

import collections
from collections.abc import Mapping

import keras

from distill._graphs import Step, functional_of, run
from distill.pruning.structured._call import Call, Rule, Traced, outputs_of
from distill.pruning.structured._findings import Findings
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
    findings = Findings(rules, exact)
    calls: collections.Counter[str] = collections.Counter()

    def visit(step: Step[Traced]) -> list[Traced]:
        findings.operations[step.path] = step.operation
        if step.nested is not None:
            return step.enter(visit, _inputs_of_nested(step, findings))
        outputs = outputs_of(Call(findings, step.node, step.path, step.inputs()), findings)
        for i, traced in enumerate(outputs):
            findings.tensors[step.path, calls[step.path], i] = traced.axes
        calls[step.path] += 1
        return outputs

    inputs = [Traced((None,) * len(tensor.shape), lambda: True) for tensor in graph.inputs]
    for traced in run(graph, inputs, visit).of(graph.outputs):
        for axis in traced.axes:
            findings.labels.lock(axis, "it is an output of the model")
    return findings.structure(model)


def _inputs_of_nested(step: Step[Traced], findings: Findings) -> list[Traced]:
    """What is known about the inputs of a nested model. It is rebuilt once, so all its calls get the same channels."""
    given = step.inputs()
    first = findings.inputs.setdefault(id(step.operation), [traced.axes for traced in given])
    reason = f"{step.path} is called on sizes that stay"
    united = []
    for one, other in zip(first, given, strict=True):
        axes = tuple(findings.labels.unite(a, b, reason) for a, b in zip(one, other.axes, strict=True))
        united.append(Traced(axes, other.vanishes))
    return united
