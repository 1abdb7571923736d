"""Builds the smaller model: the same graph of new layers, with slices of the weights."""

import inspect
from collections.abc import Mapping, Set
from typing import Any

import keras
import numpy as np

from distill._graphs import Step, functional_of, needed_nodes, nodes_of, run
from distill._keras import (
    compute_output_spec,
    history_of,
)
from distill.pruning.structured._configs import (
    layers_in,
    may_need_own_dtype,
)
from distill.pruning.structured._copying import copy_weights
from distill.pruning.structured._cutting import Cut
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._making import NewLayers
from distill.pruning.structured._structure import Structure


def rebuild(
    structure: Structure,
    keep: np.ndarray,
    *,
    skipped: Mapping[int, keras.KerasTensor] | None = None,
    dtype: str | None = None,
    masked: bool = False,
) -> keras.Model:
    """Builds a new model without the atoms that are not kept; the original is left as it is.

    Args:
        structure: structure of the original.
        keep: (atoms,) bool, which atoms stay.
        skipped: id of a node -> the tensor that takes the place of its output. The calls of these nodes are left out,
            with everything that only they need.
        dtype: floating-point type of all layers in place of their own, except those that cannot compute in it.
        masked: keeps all sizes and sets the removed parts of weights, and of arrays in calls, to zero.

    Returns:
        A Functional model, or a Sequential one if the original is, with the same names; not compiled.
    """
    cut = Cut(structure, keep, masked=masked)
    own_dtype: set[int] = set()
    while True:
        builder = _Builder(structure, cut, skipped or {}, dtype, own_dtype)
        try:
            new = builder.model(structure.model, None)
        except _OwnDtype as only:
            own_dtype |= only.layers
        else:
            break
    copy_weights(structure, cut, builder.new.finished())
    return new


class _Builder:
    """Builds the new graph, and those of the models nested in it.

    Attributes:
        new: the new layers and models.
    """

    def __init__(
        self,
        structure: Structure,
        cut: Cut,
        skipped: Mapping[int, keras.KerasTensor],
        dtype: str | None,
        own_dtype: Set[int],
    ) -> None:
        self._structure = structure
        self._cut = cut
        self._skipped = skipped
        self._dtype = dtype
        self._own_dtype = own_dtype
        self.new = NewLayers(structure, cut, dtype, own_dtype, self.model)

    def model(self, old: keras.Model, inputs: list[Axes] | None) -> keras.Model:
        """The new model for the original, or for one nested in it whose inputs have these axes."""
        graph: Any = functional_of(old)
        inputs = inputs or [(None,) * len(tensor.shape) for tensor in graph.inputs]
        entries = [self._input(tensor, axes) for tensor, axes in zip(graph.inputs, inputs, strict=True)]
        if isinstance(old, keras.Sequential):
            new = self._sequential(old, graph, entries)
        else:
            new = self._functional(old, graph, entries)
        self.new.add(old, new)
        return new

    def _sequential(self, old: keras.Model, graph: Any, entries: list[keras.KerasTensor]) -> keras.Model:
        needed = [node for node in needed_nodes(graph, self._skipped) if id(node) not in self._skipped]
        stack = [node.operation for node in needed if isinstance(node.operation, keras.Layer)]
        by_hand = _Builder(self._structure, self._cut, self._skipped, self._dtype, self._own_dtype)
        if self._dtype is not None and any(map(may_need_own_dtype, stack)):
            by_hand._functional(old, graph, entries)  # which tells what computes in its own type
        try:
            new = keras.Sequential(
                [history_of(entries[0]).operation, *map(self.new.called, stack)], name=old.name
            )
        except Exception:  # a layer's code may raise anything
            by_hand._functional(old, graph, entries)  # which names the layer
            raise
        # Keras has made the masks anew, in operations that are no layers of the model.
        again: Any = functional_of(new)
        for node, other in zip(needed, nodes_of(again), strict=True):
            other.operation.name = node.operation.name
        return new

    def _functional(self, old: keras.Model, graph: Any, entries: list[keras.KerasTensor]) -> keras.Model:
        def visit(step: Step[keras.KerasTensor]) -> Any:
            if id(step.node) in self._skipped:
                return step.values[self._skipped[id(step.node)]]
            args, kwargs = self._arguments(step)
            return self._outputs(step.operation, args, kwargs)

        values = run(graph, entries, visit, nodes=needed_nodes(graph, self._skipped))
        return keras.Model(values.of(graph.input), values.of(graph.output), name=old.name)

    def _input(self, tensor: keras.KerasTensor, axes: Axes) -> keras.KerasTensor:
        entry = history_of(tensor).operation
        return keras.Input(
            batch_shape=self._cut.shape(axes, tuple(tensor.shape)),
            dtype=self._dtype if self._dtype is not None and "float" in tensor.dtype else tensor.dtype,
            sparse=tensor.sparse,
            name=entry.name,
            optional=getattr(entry, "optional", False),
        )

    def _arguments(self, step: Step[keras.KerasTensor]) -> tuple[Any, Any]:
        """The arguments of a call: new tensors for the old ones, and arrays without what is removed."""

        def new(leaf: Any) -> Any:
            if isinstance(leaf, keras.KerasTensor):
                return step.values[leaf]
            if isinstance(leaf, keras.Variable):
                return self.new.weight(leaf, step.path)
            if not getattr(leaf, "shape", ()):
                return leaf
            axes = self._structure.constants.get((id(step.node), id(leaf)), ())
            value = np.asarray(keras.ops.convert_to_numpy(leaf))
            if self._dtype is not None and np.issubdtype(value.dtype, np.floating):
                value = value.astype(self._dtype)
            return self._cut.array(value, axes)

        arguments = step.node.arguments
        args, kwargs = keras.tree.map_structure(new, (arguments.args, arguments.kwargs))
        for (node, _), change in self._structure.arguments.items():
            kept = [self._cut.kept(axis) for axis in change.axes]
            if node == id(step.node) and not all(which.all() for which in kept):
                given = inspect.signature(step.operation.call).bind(*args, **kwargs)
                given.arguments[change.name] = change.value(*kept)
                args, kwargs = given.args, given.kwargs
        return args, kwargs

    def _outputs(self, old: Any, args: Any, kwargs: Any) -> Any:
        """Calls the new layer or operation in place of an old one."""
        new = self.new.called(old)
        try:
            outputs = new(*args, **kwargs)
            if self._dtype is not None and id(old) not in self._own_dtype and may_need_own_dtype(old):
                # Its code, from which the output need not have been inferred.
                compute_output_spec(new.call, *_in_dtype_of(new, args), **_in_dtype_of(new, kwargs))
        except _OwnDtype:
            raise
        except Exception as error:  # a layer's code may raise anything
            everything = layers_in(self._structure.model)
            alike = [layer for layer in everything if type(layer) is type(old)] or [old]
            own = {id(one) for layer in alike for one in (layer, *layers_in(layer))}
            if self._dtype is not None and not own <= self._own_dtype:
                raise _OwnDtype(own) from error
            raise ValueError(
                "Every layer must run in the smaller model as it does in the original. Received: "
                f"{old.name!r}, a {type(old).__name__}, which does not. What it computes with must come from its "
                "config, such as another layer that it uses, and its rule must tell every size that changes. "
                f"Keras says: {error}"
            ) from error
        return outputs


def _in_dtype_of(operation: Any, arguments: Any) -> Any:
    """Arguments as the code of a layer gets them."""

    def cast(leaf: Any) -> Any:
        is_number = isinstance(leaf, keras.KerasTensor) and "float" in leaf.dtype
        return keras.KerasTensor(leaf.shape, operation.compute_dtype) if is_number else leaf

    return keras.tree.map_structure(cast, arguments) if isinstance(operation, keras.Layer) else arguments


class _OwnDtype(Exception):
    """Some layers cannot compute in the type that is asked for, because they bring constants of another."""

    def __init__(self, layers: set[int]) -> None:
        self.layers = layers
