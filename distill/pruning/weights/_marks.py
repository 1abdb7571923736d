"""Marks: which layers `prune_low_magnitude` wants pruned, and how; and guards against training them unpruned."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import keras

from distill._keras import flatten_layers
from distill._types import Tensor
from distill.pruning.weights._kernels import Kernel, find_kernels
from distill.pruning.weights._masks import Constraint, Mask
from distill.pruning.weights._patterns import Pattern
from distill.pruning.weights._schedules import Schedule


class PruningPolicy(Protocol):
    """Says which layers are pruned."""

    def allow_pruning(self, layer: keras.Layer) -> bool:
        """Returns whether to prune a layer, with all layers inside it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How marked layers are pruned.

    Attributes:
        schedule: steps and sparsities.
        pattern: the units that are pruned as a whole.
    """

    schedule: Schedule
    pattern: Pattern

    @property
    def key(self) -> tuple[int, Pattern]:
        """Key of the callback that prunes: layers with the same key share one."""
        return id(self.schedule), self.pattern


_plans: WeakKeyDictionary[keras.Layer, Plan] = WeakKeyDictionary()


def plan_of(layer: keras.Layer) -> Plan | None:
    """Returns the plan that a layer is marked with, or `None`."""
    return _plans.get(layer)


def mark(layer: keras.Layer, plan: Plan, policy: PruningPolicy | None) -> None:
    """Marks a layer and the layers inside it. The policy is asked about each layer of a model, not about its parts."""
    whole = isinstance(layer, keras.Model)
    if isinstance(layer, keras.layers.InputLayer):
        return
    if policy is not None and not whole and not policy.allow_pruning(layer):
        return
    if layer not in _plans:
        _plans[layer] = plan
        if not layer.built:
            _when_built(layer, lambda: _mark_inside(layer, plan, policy if whole else None))
    _mark_inside(layer, plan, policy if whole else None)


def unmark(model: keras.Model) -> None:
    """Removes the marks and guards of all layers of a model."""
    for layer in flatten_layers(model):
        _plans.pop(layer, None)
        for kernel in kernels_of(layer):
            take_guard(kernel.variable)


def take_guard(variable: keras.Variable) -> None:
    """Removes the guard of a variable, if it has one."""
    constraint = variable.constraint
    if isinstance(constraint, _Guard):
        variable.constraint = constraint.before
    elif isinstance(constraint, Mask) and isinstance(constraint.before, _Guard):
        constraint.before = constraint.before.before  # `prune` came after the mark


def kernels_of(layer: keras.Layer) -> tuple[Kernel, ...]:
    """Returns the kernels of a layer; none if it is not built or has nothing to prune."""
    if not layer.built:
        return ()
    try:
        return find_kernels(layer).found
    except ValueError:  # it has none
        return ()


class _Guard(keras.constraints.Constraint):
    """Stops a training step that would leave a marked kernel unpruned."""

    def __init__(self, name: str, before: Constraint | None) -> None:
        self.name = name
        self.before = before

    def __call__(self, w: keras.Variable) -> Tensor:
        raise ValueError(
            "Layers that prune_low_magnitude marked must be trained with UpdatePruningStep. Received: a training step "
            f"of {self.name!r} without it. Add callbacks=[UpdatePruningStep()] to fit, or call strip_pruning on the "
            "model."
        )


def _mark_inside(layer: keras.Layer, plan: Plan, policy: PruningPolicy | None) -> None:
    if layer not in _plans:
        return  # stripped before it was built
    for child in flatten_layers(layer, include_self=False, recursive=False):
        mark(child, plan, policy)
    for kernel in kernels_of(layer):
        constraint = kernel.variable.constraint
        guarded = isinstance(constraint, _Guard) or isinstance(getattr(constraint, "before", None), _Guard)
        if kernel.layer in _plans and not guarded:
            kernel.variable.constraint = _Guard(kernel.variable.path, constraint)


def _when_built(layer: keras.Layer, then: Callable[[], None]) -> None:
    build = layer.build  # Keras itself puts a function of this kind on each layer

    @functools.wraps(build)
    def build_and_then(*args: Any, **kwargs: Any) -> None:
        build(*args, **kwargs)
        layer.build = build
        then()

    layer.build = build_and_then
