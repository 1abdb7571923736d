"""Builds the smaller model: the same graph of new layers, with slices of the weights."""

import types
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from distill._graphs import Step, functional_of, needed_nodes, run
from distill._keras import SafeModeScope, history_of
from distill.pruning.structured._configs import config_of, in_dtype, own_of, without_arrays
from distill.pruning.structured._copying import copy_weights
from distill.pruning.structured._cutting import Cut
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._structure import Edit, Structure


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
        dtype: floating-point type of all layers in place of their own.
        masked: keeps all sizes and sets the removed parts of weights, and of arrays in calls, to zero.

    Returns:
        A Functional model, or a Sequential one if the original is, with the same names; not compiled.
    """
    cut = Cut(structure, keep, masked=masked)
    builder = _Builder(structure, cut, skipped or {}, dtype)
    new = builder.model(structure.model, None)
    copy_weights(structure, cut, builder.built)
    return new


class _Builder:
    """Builds new layers and models, each old one's only once.

    Attributes:
        built: id of an old layer, operation or model -> it and the new one.
    """

    def __init__(
        self, structure: Structure, cut: Cut, skipped: Mapping[int, keras.KerasTensor], dtype: str | None
    ) -> None:
        self._structure = structure
        self._cut = cut
        self._skipped = skipped
        self._dtype = dtype
        self.built: dict[int, tuple[Any, Any]] = {}

    def model(self, old: keras.Model, inputs: list[Axes] | None) -> keras.Model:
        """The new model for the original, or for one nested in it whose inputs have these axes."""
        graph: Any = functional_of(old)
        inputs = inputs or [(None,) * len(tensor.shape) for tensor in graph.inputs]
        entries = [self._input(tensor, axes) for tensor, axes in zip(graph.inputs, inputs, strict=True)]
        if isinstance(old, keras.Sequential):
            (entry,) = entries
            needed = needed_nodes(graph, self._skipped)
            kept = [self._operation(node.operation) for node in needed if id(node) not in self._skipped]
            new = keras.Sequential([history_of(entry).operation, *kept], name=old.name)
        else:
            new = self._functional(old, graph, entries)
        self.built[id(old)] = old, new
        return new

    def _functional(self, old: keras.Model, graph: Any, entries: list[keras.KerasTensor]) -> keras.Model:
        def visit(step: Step[keras.KerasTensor]) -> Any:
            if id(step.node) in self._skipped:
                return step.values[self._skipped[id(step.node)]]
            args, kwargs = self._arguments(step)
            return self._operation(step.operation)(*args, **kwargs)

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
            if not getattr(leaf, "shape", ()) or isinstance(leaf, keras.Variable):
                return leaf
            axes = self._structure.constants.get((id(step.node), id(leaf)), ())
            value = np.asarray(keras.ops.convert_to_numpy(leaf))
            if self._dtype is not None and np.issubdtype(value.dtype, np.floating):
                value = value.astype(self._dtype)
            return self._cut.array(value, axes)

        arguments = step.node.arguments
        found: tuple[Any, Any] = keras.tree.map_structure(new, (arguments.args, arguments.kwargs))
        return found

    def _operation(self, old: Any) -> Any:
        if id(old) in self.built:
            return self.built[id(old)][1]
        if functional_of(old) is not None:
            return self.model(old, self._structure.inputs[id(old)])
        new = self._from_config(old)
        new.name = old.name
        self.built[id(old)] = old, new
        return new

    def _from_config(self, old: Any) -> Any:
        """A layer or operation with the same config except for the edits; it shares the functions in it."""
        functions = {name: one for name, one in vars(old).items() if isinstance(one, types.FunctionType)}
        try:
            with (
                SafeModeScope(False),  # the user's own model may hold a Lambda
                keras.saving.CustomObjectScope(own_of(old)),
                warnings.catch_warnings(),
            ):
                warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
                config = config_of(old)
                if not isinstance(old, keras.layers.Lambda):  # which makes a function from its config itself
                    config.update({name: one for name, one in functions.items() if name in config})
                for edit in self._structure.edits.get(id(old), ()):
                    self._apply(edit, config)
                if isinstance(old, keras.Layer) and any(map(self._cut.makes_smaller, old.variables)):
                    config = without_arrays(config)
                new = type(old).from_config(config if self._dtype is None else in_dtype(config, self._dtype))
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                "Every layer must be made from its config to build a smaller model. Received: "
                f"{old.name!r}, a {type(old).__name__}, which cannot be. Implement its get_config and from_config. "
                f"Keras says: {error}"
            ) from error
        if isinstance(old, keras.layers.Lambda):
            new.function = (
                old.function
            )  # a lambda made from a config has lost the variables that it refers to
        return new

    def _apply(self, edit: Edit, config: Any) -> None:
        sizes = [None if axis is None else self._cut.size(axis) for axis in edit.axes]
        if sizes == [None if axis is None else axis.size for axis in edit.axes]:
            return
        *parents, key = edit.path
        for parent in parents:
            config = config[parent]
        config[key] = edit.value(*sizes)
