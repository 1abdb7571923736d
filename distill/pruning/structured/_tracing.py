"""Walks a model's graph once and labels every axis of every tensor and weight, as the rules of its calls say."""

import collections
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from distill._graphs import Step, functional_of, run
from distill.pruning.structured._labels import Axes, Axis, Labels
from distill.pruning.structured._structure import Edit, Key, Product, Role, Shape, Size, Slot, Structure

Rule = Callable[["Call"], Axes | list[Axes]]


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """What is known of a tensor: labels of its axes, and whether it is zero where channels are removed.

    The latter is asked of few tensors, and answered when it is.
    """

    axes: Axes
    vanishes: Callable[[], bool]


class Call:
    """One call of a layer or operation, as its rule sees it.

    A rule says how the call ties the axes of its inputs, weights and outputs to each other, and returns the labels of
    its outputs: for each axis those of `inputs` or `weight`, or `None` where nothing can be cut.

    Attributes:
        operation: the layer or operation.
        inputs: labels of the tensors that it is called on, in order.
        shapes: their shapes.
        output_shapes: those of its outputs.
        vanishes: says whether its outputs are zero where channels are removed, that is, where the weights that make
            them are; if a rule says nothing, where its inputs are.
    """

    def __init__(self, tracer: "_Tracer", node: Any, path: str, inputs: list[Traced]) -> None:
        self._tracer = tracer
        self._node = node
        self._path = path
        self._owner = node.operation
        self._within: tuple[str, ...] = ()
        self._vanishing = [traced.vanishes for traced in inputs]
        self.vanishes: Callable[[], bool] = lambda: all(self.vanishing())
        self._times: tuple[Size, ...] = ()
        self.operation: Any = node.operation
        self.inputs = [traced.axes for traced in inputs]
        self.shapes: list[Shape] = [tuple(t.shape) for t in node.input_tensors]
        self.output_shapes: list[Shape] = [tuple(t.shape) for t in node.outputs]

    @property
    def path(self) -> str:
        """Of the layer or operation, such as "block/conv"."""
        return self._path

    def weight(
        self,
        variable: keras.Variable,
        *,
        inputs: Sequence[int] = (),
        outputs: Sequence[int] = (),
        scales: Sequence[int] = (),
        repeats: int = 1,
    ) -> list[np.ndarray]:
        """Labels along axes of a weight, those of `inputs` first; the same ones in every call of the layer.

        Args:
            variable: a weight of the layer.
            inputs: axes that read channels.
            outputs: axes that make channels.
            scales: axes that change each channel on its own.
            repeats: how many positions of `outputs` make one channel together, as the gates of recurrent cells do.
        """
        roles: list[tuple[int, Role]] = [
            *((axis, "input") for axis in inputs),
            *((axis, "output") for axis in outputs),
            *((axis, "scale") for axis in scales),
        ]
        return [
            self._tracer.slot(self._path, self.operation, variable, axis, role, repeats)
            for axis, role in roles
        ]

    def unite(self, one: Axis, other: Axis) -> Axis:
        """Says that positions of two axes go together, pair by pair; `None` keeps all of the other."""
        return self._tracer.labels.unite(one, other, f"{self._path} ties it to a size that stays")

    def lock(self, axis: Axis, reason: str) -> None:
        """Says that nothing of an axis can go."""
        self._tracer.labels.lock(axis, f"{self._path}: {reason}")

    def mix(self, axis: Axis, reason: str) -> None:
        """Says that cutting the axis changes what stays; it is kept unless the user allows that."""
        if self._tracer.exact:
            self.lock(axis, reason)

    def vanishing(self) -> list[bool]:
        """For each input whether it is zero where channels are removed; of e^x it is not.

        What sums over channels without a weight on each can lose those alone.
        """
        self._tracer.settle()
        return [vanishes() for vanishes in self._vanishing]

    def compute(self, values: Sequence[Any]) -> Any:
        """What the operation makes of these values in place of its tensors, in order."""
        if self._node is None:
            return self.operation.call(*values)
        given = iter(values)
        args, kwargs = keras.tree.map_structure(
            lambda leaf: next(given) if isinstance(leaf, keras.KerasTensor) else leaf,
            (self._node.arguments.args, self._node.arguments.kwargs),
        )
        return self.operation.call(*args, **kwargs)

    def lock_masks(self) -> None:
        """Locks the tensors that a layer is given as masks, beside those that its rule is about."""
        if self._node is None:
            return
        for name in inspect.signature(self.operation.call).parameters:
            for axes, _ in self.arguments(name) if name.endswith("mask") else ():
                for axis in axes:
                    self.lock(axis, "it is a mask")

    def lock_all(self, reason: str) -> list[Axes]:
        """Locks all inputs; returns outputs without labels."""
        for axes in self.inputs:
            for axis in axes:
                self.lock(axis, reason)
        return [(None,) * len(shape) for shape in self.output_shapes]

    def fixed(self, size: int, reason: str) -> np.ndarray:
        """Labels of positions that stay."""
        labels = self._tracer.labels.fresh(size)
        self.lock(labels, reason)
        return labels

    def groups(self, labels: np.ndarray, count: int) -> None:
        """Says that `count` equal runs of an axis go each as a whole."""
        runs = labels.reshape(count, -1)
        self._tracer.labels.unite(runs[:, 1:].ravel(), np.repeat(runs[:, 0], runs.shape[1] - 1), "")

    def edit(self, key: str, *axes: Axis, value: Callable[..., Any] | None = None) -> None:
        """Says that the config's `key` becomes `value(sizes of the axes that stay)`, or that size itself.

        The size of an axis that cannot be cut is `None`; where no size changes, neither does the config.
        """
        edits = self._tracer.edits[id(self._owner)]
        path = (*self._within, key)
        for edit in edits:
            if edit.path == path:  # a layer that is called again has one config
                for one, other in zip(edit.axes, axes, strict=True):
                    self.unite(one, other)
                return
        edits.append(Edit(path, axes, value or (lambda size: size)))

    def multiplies(self, variable: keras.Variable | None, sizes: Sequence[Size]) -> None:
        """Says that each number of a weight is used at as many positions as the product of `sizes`.

        Args:
            variable: the weight; `None` for an array in the call, whose axes are then among `sizes`.
            sizes: of the axes that are gone through: labels where one can be cut, else its size.
        """
        self._tracer.products.append(Product(self._path, variable, (*self._times, *sizes)))

    def rescale(
        self, variable: keras.Variable, axis: np.ndarray, factor: Callable[[int, int], float]
    ) -> None:
        """Says that a weight is multiplied by `factor(old size, new size)` of an axis."""
        self._tracer.rescaled[id(variable)] = (axis, factor)

    def operands(self) -> list[tuple[Axes, Shape]]:
        """Labels and shapes of tensors and of arrays in the call, in order; single numbers are left out."""
        if self._node is None:
            return list(zip(self.inputs, self.shapes, strict=True))
        found: list[tuple[Axes, Shape]] = []
        tensors = iter(zip(self.inputs, self.shapes, strict=True))
        args, kwargs = self._node.arguments.args, self._node.arguments.kwargs
        for leaf in keras.tree.flatten((args, kwargs)):
            if isinstance(leaf, keras.KerasTensor):
                found.append(next(tensors))
            elif isinstance(leaf, keras.Variable):
                found.append(((None,) * len(leaf.shape), tuple(leaf.shape)))
            elif getattr(leaf, "shape", ()):
                axes = tuple(self._tracer.labels.fresh(size) if size > 1 else None for size in leaf.shape)
                # The same ones in every call of a nested model.
                axes = self._tracer.constants.setdefault((id(self._node), id(leaf)), axes)
                found.append((axes, tuple(leaf.shape)))
        return found

    def value(self, name: str) -> Any:
        """What is passed as an argument of `call`; `None` if nothing is."""
        if self._node is None:
            return None
        given = inspect.signature(self.operation.call).bind_partial(
            *self._node.arguments.args, **self._node.arguments.kwargs
        )
        return given.arguments.get(name)

    def arguments(self, name: str) -> list[tuple[Axes, Shape]]:
        """Labels and shapes of the tensors that are passed as an argument of `call`, in order."""
        if self._node is None:
            return []
        wanted = keras.tree.flatten(self.value(name))
        tensors = zip(self._node.input_tensors, self.inputs, self.shapes, strict=True)
        known = {id(tensor): (axes, shape) for tensor, axes, shape in tensors}
        return [known[id(tensor)] for tensor in wanted if id(tensor) in known]

    def inner(
        self,
        key: str,
        layer: keras.Layer,
        shapes: Sequence[Shape],
        axes: list[Axes],
        times: Sequence[Size] = (),
    ) -> list[Axes]:
        """What the rule of a wrapped layer says.

        Args:
            key: where the wrapper's config holds the layer.
            layer: the wrapped one.
            shapes: of what it is called on.
            axes: their labels.
            times: sizes of the axes that it is called along.
        """
        call = object.__new__(Call)
        outputs = layer.compute_output_spec(*(keras.KerasTensor(shape) for shape in shapes))
        call.__dict__.update(
            self.__dict__,
            _node=None,  # what it is called with besides is the wrapper's affair
            operation=layer,
            inputs=axes,
            shapes=list(shapes),
            output_shapes=[tuple(tensor.shape) for tensor in keras.tree.flatten(outputs)],
            _within=(*self._within, key, "config"),
            _times=(*self._times, *times),
            _path=f"{self._path}/{layer.name}",
        )
        found = self._tracer.ask(call)
        self.vanishes = call.vanishes
        return found


def read(model: keras.Model, rules: Mapping[type, Rule], *, exact: bool = True) -> Structure:
    """Walks a model's graph and labels it.

    Args:
        model: Functional or Sequential, built.
        rules: for types of layers and operations, exactly those.
        exact: whether what mixes channels, as LayerNormalization does, keeps them all.

    Raises:
        ValueError: the model has no graph.
    """
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "Channels are found in the graph of a Functional model, or of a Sequential one that is built. Received: "
            f"{getattr(model, 'name', model)!r}, a {type(model).__name__}. Build it from keras.Input, or wrap its call "
            "in a Functional model."
        )
    tracer = _Tracer(rules, exact)
    inputs = [Traced((None,) * len(tensor.shape), lambda: True) for tensor in graph.inputs]
    for traced in run(graph, inputs, tracer.visit).of(graph.outputs):
        for axis in traced.axes:
            tracer.labels.lock(axis, "it is an output of the model")
    return Structure(
        model,
        tracer.labels.atoms(),
        list(tracer.slots.values()),
        dict(tracer.edits),
        tracer.constants,
        tracer.inputs,
        tracer.rescaled,
        tracer.tensors,
        tracer.operations,
        tracer.products,
        tracer.unknown,
    )


class _Tracer:
    def __init__(self, rules: Mapping[type, Rule], exact: bool) -> None:
        self.exact = exact
        self.labels = Labels()
        self.slots: dict[tuple[int, int], Slot] = {}
        self.edits: dict[int, list[Edit]] = collections.defaultdict(list)
        self.constants: dict[tuple[int, int], Axes] = {}
        self.inputs: dict[int, list[Axes]] = {}
        self.rescaled: dict[int, tuple[np.ndarray, Callable[[int, int], float]]] = {}
        self.tensors: dict[Key, Axes] = {}
        self.operations: dict[str, Any] = {}
        self.products: list[Product] = []
        self.unknown: dict[str, str] = {}
        self._rules = rules
        self._calls: collections.Counter[str] = collections.Counter()
        self._unsettled: list[Callable[[], bool]] = []

    def visit(self, step: Step[Traced]) -> list[Traced]:
        self.operations[step.path] = step.operation
        if step.nested is not None:
            return step.enter(self.visit, self._nested_inputs(step))
        outputs = self._traced(Call(self, step.node, step.path, step.inputs()))
        for i, traced in enumerate(outputs):
            self.tensors[step.path, self._calls[step.path], i] = traced.axes
        self._calls[step.path] += 1
        return outputs

    def _traced(self, call: Call) -> list[Traced]:
        outputs = self.ask(call)
        vanishes = functools.cache(call.vanishes)
        self._unsettled.append(vanishes)
        return [
            Traced(axes, (lambda: True) if all(axis is None for axis in axes) else vanishes)
            for axes in outputs
        ]

    def settle(self) -> None:
        """Finds out, from the inputs on, what is asked of one tensor: deep networks are deeper than Python's stack."""
        while self._unsettled:
            self._unsettled.pop(0)()

    def ask(self, call: Call) -> list[Axes]:
        """What the rule says of a call; where none is known, nothing can be cut."""
        self.operations[call.path] = call.operation
        rule = self._rules.get(type(call.operation))
        if rule is None:
            kind = self.unknown[call.path] = type(call.operation).__name__
            return call.lock_all(f"no rule is known for {kind}")
        call.lock_masks()
        found = rule(call)
        return found if isinstance(found, list) else [found]

    def slot(
        self, path: str, layer: keras.Layer, variable: keras.Variable, axis: int, role: Role, repeats: int
    ) -> np.ndarray:
        key = (id(variable), axis)
        if key not in self.slots:
            labels = self.labels.fresh(variable.shape[axis])
            self.slots[key] = Slot(path, layer, variable, axis, role, labels, repeats)
        return self.slots[key].labels

    def _nested_inputs(self, step: Step[Traced]) -> list[Traced]:
        """A nested model is rebuilt once, so all its calls are on the same channels."""
        given = step.inputs()
        first = self.inputs.setdefault(id(step.operation), [traced.axes for traced in given])
        reason = f"{step.path} is called on sizes that stay"
        united = []
        for one, other in zip(first, given, strict=True):
            axes = tuple(self.labels.unite(a, b, reason) for a, b in zip(one, other.axes, strict=True))
            united.append(Traced(axes, other.vanishes))
        return united
