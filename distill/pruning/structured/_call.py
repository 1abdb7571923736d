"""One call of a layer or operation, as the rule for its type sees it."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from distill._graphs import functional_of
from distill.pruning.structured._findings import Findings, Traced
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._structure import Argument, Edit, Factor, Product, Role, Shape, Size
from distill.pruning.structured._trying import Tried, tried

# Returns the axes of the outputs, without a list around them if there is only one output.
Rule = Callable[["Call"], Axes | list[Axes]]


class Call:
    """One call of a layer or operation, as its rule sees it.

    A rule says how the call ties the axes of its inputs, weights and outputs together. It returns the axes of the
    outputs: for each axis, the labels of an axis from `inputs` or `weight`, or `None` if nothing can be cut along it.

    ```python
    import keras
    from distill import pruning


    class Gain(keras.layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=shape[-1:], name="gain")

        def call(self, inputs):
            return inputs * self.gain


    def rule(call):
        (gain,) = call.weight(call.operation.gain, scales=[0])
        call.unite(gain, call.inputs[0][-1])
        return call.inputs[0]


    gained = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), Gain(), keras.layers.Dense(3)])
    small = pruning.prune_channels(gained, 0.5, rules={Gain: rule}, verify=True)
    ```

    Attributes:
        operation: the layer or operation.
        inputs: axes of the input tensors, in order.
        shapes: shapes of these tensors.
        output_shapes: shapes of the outputs.
        vanishes: function that tells whether the outputs are zero where channels are removed, that is, where the
            weights that make these channels are zero. Unless a rule sets it, the outputs are zero if all inputs are.
    """

    def __init__(self, findings: Findings, node: Any, path: str, inputs: Sequence[Traced]) -> None:
        self._findings = findings
        self._node = node
        self._path = path
        self._asked: set[tuple[int, int]] = set()
        self._vanishing = [traced.vanishes for traced in inputs]
        self._times: tuple[Size, ...] = ()
        self.vanishes: Callable[[], bool] = lambda: all(self.vanishing())
        self.operation: Any = node.operation
        self.inputs: list[Axes] = [traced.axes for traced in inputs]
        self.shapes: list[Shape] = [tuple(tensor.shape) for tensor in node.input_tensors]
        self.output_shapes: list[Shape] = [tuple(tensor.shape) for tensor in node.outputs]

    @property
    def path(self) -> str:
        """Path of the layer or operation, such as "block/conv"."""
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
        """Labels axes of a weight; every call of the layer gets the same labels.

        Args:
            variable: weight of the layer.
            inputs: axes that read channels.
            outputs: axes that make channels.
            scales: axes that change each channel on its own.
            repeats: number of positions of `outputs` that together make one channel, as the gates of a recurrent cell
                do.

        Returns:
            The labels of `inputs`, then of `outputs`, then of `scales`.
        """
        roles: list[tuple[int, Role]] = [
            *((axis, "input") for axis in inputs),
            *((axis, "output") for axis in outputs),
            *((axis, "scale") for axis in scales),
        ]
        self._asked.update((id(variable), axis) for axis, _ in roles)
        return [
            self._findings.slot(self._path, self.operation, variable, axis, role, repeats)
            for axis, role in roles
        ]

    def state(self, variable: keras.Variable, axes: Axes) -> None:
        """Sets the axes of a state that is not one of the layer's weights, as in stateful recurrent layers."""
        self._findings.states[id(variable)] = axes

    def keep_other_weights(self) -> None:
        """Locks all axes of weights that the rule does not mention, including weights of other layers in the call."""
        kind = self._findings.unknown.get(self._path)
        reason = f"{self._path}: {f'no rule is known for {kind}' if kind else 'it needs all of a weight'}"
        given = keras.tree.flatten((self._node.arguments.args, self._node.arguments.kwargs))
        among = [leaf for leaf in given if isinstance(leaf, keras.Variable)]
        for variable in [*among, *getattr(self.operation, "variables", ())]:
            for axis in range(len(variable.shape)):
                if (id(variable), axis) not in self._asked:
                    self._findings.whole.setdefault((id(variable), axis), reason)

    def unite(self, one: Axis, other: Axis) -> Axis:
        """Says that the positions of two axes go together, pair by pair.

        If one axis is `None`, which means that it cannot be cut, all positions of the other have to stay.
        """
        return self._findings.labels.unite(one, other, f"{self._path} ties it to a size that stays")

    def lock(self, axis: Axis, reason: str) -> None:
        """Says that all positions of an axis have to stay, and why."""
        self._findings.labels.lock(axis, f"{self._path}: {reason}")

    def mix(self, axis: Axis, reason: str) -> None:
        """Says that removing positions of an axis changes the others, so all stay unless `exact=False` is set."""
        if self._findings.exact:
            self.lock(axis, reason)

    def vanishing(self) -> list[bool]:
        """Returns, for each input, whether it is zero where channels are removed; an input made by e^x is not.

        A sum over channels that has no weight for each channel can only lose channels that are zero.
        """
        self._findings.settle()
        return [vanishes() for vanishes in self._vanishing]

    def tried(self, function: Any, shape: Sequence[int | None]) -> Tried:
        """Returns what trying a function on a tensor of this shape shows (see `_trying`); each is tried once."""
        key = id(function), tuple(shape)
        if key not in self._findings.tried:
            known = type(function) in self._findings.rules
            self._findings.tried[key] = tried(function, shape, with_weights=known)
        return self._findings.tried[key]

    def compute(self, values: Sequence[Any]) -> Any:
        """Runs the operation with these values in place of its tensors, in order."""
        if self._node is None:
            return self.operation.call(*values)
        given = iter(values)
        args, kwargs = keras.tree.map_structure(
            lambda leaf: next(given) if isinstance(leaf, keras.KerasTensor) else leaf,
            (self._node.arguments.args, self._node.arguments.kwargs),
        )
        return self.operation.call(*args, **kwargs)

    def lock_masks(self) -> None:
        """Locks the tensors that a layer is given as masks, in addition to what its rule locks."""
        if self._node is None:
            return
        for name in inspect.signature(self.operation.call).parameters:
            for axes, _ in self.arguments(name) if name.endswith("mask") else ():
                for axis in axes:
                    self.lock(axis, "it is a mask")

    def lock_all(self, reason: str) -> list[Axes]:
        """Locks all inputs, and returns output axes that cannot be cut."""
        for axes in self.inputs:
            for axis in axes:
                self.lock(axis, reason)
        return [(None,) * len(shape) for shape in self.output_shapes]

    def fixed(self, size: int, reason: str) -> np.ndarray:
        """Returns new labels for positions that have to stay, for the reason given."""
        labels = self._findings.labels.fresh(size)
        self.lock(labels, reason)
        return labels

    def groups(self, labels: np.ndarray, count: int) -> None:
        """Says that an axis consists of `count` equal runs, each of which stays or goes as a whole."""
        runs = labels.reshape(count, -1)
        self._findings.labels.unite(runs[:, 1:].ravel(), np.repeat(runs[:, 0], runs.shape[1] - 1), "")

    def alike(self, labels: np.ndarray, count: int) -> None:
        """Says that an axis consists of `count` equal runs, all of which lose the same positions."""
        runs = labels.reshape(count, -1)
        self._findings.labels.unite(runs[1:].ravel(), np.tile(runs[0], count - 1), "")

    @property
    def cuts_every_group(self) -> bool:
        """Whether a grouped convolution loses channels in every group, instead of whole groups."""
        self._findings.grouped[id(self.operation)] = self._path
        return id(self.operation) in self._findings.every_group

    def edit(self, key: str, *axes: Axis, value: Callable[..., Any] | None = None) -> None:
        """Says how the config changes when channels are removed.

        Args:
            key: key of the config.
            axes: axes whose sizes the new value depends on.
            value: function that takes these sizes (`None` for an axis that cannot be cut) and returns the new value; by
                default the new value is the size itself. It is not called if no size changes.
        """
        edits = self._findings.edits[id(self.operation)]
        for edit in edits:
            if edit.key == key:  # a layer that is called again has one config
                for one, other in zip(edit.axes, axes, strict=True):
                    self.unite(one, other)
                return
        edits.append(Edit(key, axes, value or (lambda size: size)))

    def argument(self, name: str, *axes: np.ndarray, value: Callable[..., Any]) -> None:
        """Says how an argument of the call changes when channels are removed.

        Args:
            name: name of the argument.
            axes: axes that the new value depends on.
            value: function that takes, for each of these axes, which positions stay, (size,) bool, and returns the new
                value. It is not called if all positions stay.
        """
        arguments, key = self._findings.arguments, (id(self._node), name)
        if key in arguments:  # a call in a nested model that is called again
            for one, other in zip(arguments[key].axes, axes, strict=True):
                self.unite(one, other)
        else:
            arguments[key] = Argument(name, axes, value)

    def copies(self, count: int) -> np.ndarray:
        """Returns new labels for `count` copies of one another, as many as what they meet; copies are not zero."""
        self.vanishes = lambda: False
        made = self._findings.labels.fresh(count)
        self._findings.copied.update(made.tolist())
        return made

    def are_copies(self, axis: np.ndarray) -> bool:
        """Whether positions along an axis are copies of one another, which are cut only along with what they meet."""
        return self._findings.copied.issuperset(axis.tolist())

    def multiplies(self, variable: keras.Variable | None, sizes: Sequence[Size]) -> None:
        """Says how often each number in a weight is used, for targets of multiply-adds.

        Args:
            variable: weight, or `None` for an array in the call, whose own axes are then among `sizes`.
            sizes: sizes whose product is the number of uses: the labels of an axis if it can be cut, else its size.
        """
        self._findings.products.append(Product(self._path, variable, (*self._times, *sizes)))

    def rescale(self, variable: keras.Variable, axis: np.ndarray, factor: Factor) -> None:
        """Says that a weight is multiplied by `factor(old size, new size)` of an axis."""
        self._findings.rescaled[id(variable)] = (axis, factor)

    def operands(self) -> list[tuple[Axes, Shape]]:
        """Returns axes and shapes of the tensors and arrays in the call, in order, without single numbers."""
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
                axes = tuple(self._findings.labels.fresh(size) if size > 1 else None for size in leaf.shape)
                # The same labels in every call of a nested model.
                axes = self._findings.constants.setdefault((id(self._node), id(leaf)), axes)
                found.append((axes, tuple(leaf.shape)))
        return found

    def value(self, name: str) -> Any:
        """Returns what is passed for an argument of `call`, or `None` if nothing is."""
        if self._node is None:
            return None
        given = inspect.signature(self.operation.call).bind_partial(
            *self._node.arguments.args, **self._node.arguments.kwargs
        )
        return given.arguments.get(name)

    def arguments(self, name: str) -> list[tuple[Axes, Shape]]:
        """Returns axes and shapes of the tensors that are passed for an argument of `call`, in order."""
        if self._node is None:
            return []
        wanted = keras.tree.flatten(self.value(name))
        tensors = zip(self._node.input_tensors, self.inputs, self.shapes, strict=True)
        known = {id(tensor): (axes, shape) for tensor, axes, shape in tensors}
        return [known[id(tensor)] for tensor in wanted if id(tensor) in known]

    def inner(
        self,
        layer: keras.Layer,
        shapes: Sequence[Shape],
        axes: list[Axes],
        times: Sequence[Size] = (),
    ) -> list[Axes]:
        """Applies the rule of a wrapped layer.

        Args:
            layer: wrapped layer; the wrapper's config has to hold it.
            shapes: shapes of the wrapped layer's input tensors.
            axes: axes of these tensors.
            times: sizes of the axes along which the wrapped layer is called repeatedly.

        Returns:
            The axes of the wrapped layer's outputs.
        """
        call = self.part(layer)
        call.inputs, call.shapes, call._times = axes, list(shapes), (*self._times, *times)
        if functional_of(layer) is not None:
            vanishing = self._vanishing[: len(axes)]
            traced = [Traced(*pair) for pair in zip(axes, vanishing, strict=True)]
            outputs = self._findings.enter(layer, traced, call)
            self.vanishes = lambda: all(one.vanishes() for one in outputs)
            return [one.axes for one in outputs]
        made = layer.compute_output_spec(*(keras.KerasTensor(shape) for shape in shapes))
        call.output_shapes = [tuple(tensor.shape) for tensor in keras.tree.flatten(made)]
        found = apply_rule(call, self._findings)
        self.vanishes = call.vanishes
        return found

    def part(self, layer: keras.Layer) -> "Call":
        """The call as a layer inside this one sees it, for its weights and its config."""
        call = object.__new__(Call)
        call.__dict__.update(
            self.__dict__,
            _node=None,  # other arguments of the wrapper's call do not reach the layer
            operation=layer,
            _path=f"{self._path}/{layer.name}",
        )
        self._findings.operations[call.path] = layer
        return call

    def within(self, node: Any, path: str, inputs: Sequence[Traced]) -> "Call":
        """A call in the graph of a model that this call's layer wraps."""
        call = Call(self._findings, node, path, inputs)
        call._asked, call._times = self._asked, self._times
        return call


def apply_rule(call: Call, findings: Findings) -> list[Axes]:
    """Returns the axes of a call's outputs by the rule for its type; without a rule, nothing in it can be cut."""
    findings.operations[call.path] = call.operation
    rule = findings.rules.get(type(call.operation))
    if rule is None:
        kind = findings.unknown[call.path] = type(call.operation).__name__
        return call.lock_all(f"no rule is known for {kind}")
    call.lock_masks()
    found = rule(call)
    return found if isinstance(found, list) else [found]


def outputs_of(call: Call, findings: Findings) -> list[Traced]:
    """What is known about the outputs of a call."""
    axes_of_outputs = apply_rule(call, findings)
    call.keep_other_weights()
    vanishes = functools.cache(call.vanishes)
    findings.settle_later(vanishes)
    return [
        Traced(axes, (lambda: True) if all(axis is None for axis in axes) else vanishes)
        for axes in axes_of_outputs
    ]
