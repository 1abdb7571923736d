"""A smaller model from a structure and what is kept of it: the same graph of new layers, with slices of the weights."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# Keras exports no name for this: layers of the caller's own model may hold a Lambda.
from keras.src.saving.serialization_lib import SafeModeScope

from distill.graphs import functional_of
from distill.pruning.structured.labels import Axes
from distill.pruning.structured.structure import Edit, Shape, Structure, nodes_of


def rebuild(
    structure: Structure,
    keep: np.ndarray,
    *,
    skipped: Mapping[int, int] | None = None,
    dtype: str | None = None,
) -> keras.Model:
    """A new model without what is not kept; the structure's own is left as it is.

    Args:
        structure: of the model.
        keep: (atoms,) bool.
        skipped: calls that are left out, with all that only they need: id of a graph's node -> that of the tensor that
            is passed on in place of its output.
        dtype: of all layers in place of their own.

    Returns:
        A Functional model, or a Sequential one where it was, of the same names; not compiled.
    """
    builder = _Builder(structure, keep, skipped or {}, dtype)
    new = builder.model(structure.model, None)
    builder.copy_weights()
    return new


def keep_labels(structure: Structure, keep: np.ndarray) -> np.ndarray:
    """(labels,) bool: which are kept when these atoms are."""
    kept: np.ndarray = keep[structure.atoms.of]
    return kept


class _Builder:
    def __init__(
        self, structure: Structure, keep: np.ndarray, skipped: Mapping[int, int], dtype: str | None
    ) -> None:
        self._structure = structure
        self._skipped = skipped
        self._kept = keep_labels(structure, keep)
        self._dtype = dtype
        self._passed: dict[int, int] = {}  # id of a skipped call's output -> that of what takes its place
        self._built: dict[
            int, tuple[Any, Any]
        ] = {}  # by id of the old layer or operation: it and the new one

    def model(self, old: Any, inputs: list[Axes] | None) -> Any:
        """The new one of the model, or of one nested in it whose inputs have these labels."""
        graph = functional_of(old)
        if graph is None:
            raise TypeError(f"A model with a graph is rebuilt. Received: {old!r}.")
        inputs = inputs or [(None,) * len(tensor.shape) for tensor in graph.inputs]
        entries = [self._input(tensor, axes) for tensor, axes in zip(graph.inputs, inputs, strict=True)]
        if isinstance(old, keras.Sequential):
            (entry,) = entries
            kept = [self._operation(node.operation) for node in self._needed(graph)]
            new = keras.Sequential([entry._keras_history.operation, *kept], name=old.name)
        else:
            new = self._functional(old, graph, entries)
        self._built[id(old)] = old, new
        return new

    def _functional(self, old: Any, graph: Any, entries: list[Any]) -> Any:
        tensors = {id(tensor): entry for tensor, entry in zip(graph.inputs, entries, strict=True)}
        for node in self._needed(graph):
            args, kwargs = self._arguments(node, tensors)
            outputs = self._operation(node.operation)(*args, **kwargs)
            for symbolic, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                tensors[id(symbolic)] = value
        inputs, outputs = (
            keras.tree.map_structure(lambda tensor: tensors[self._passed.get(id(tensor), id(tensor))], ends)
            for ends in (graph._inputs_struct, graph._outputs_struct)
        )
        return keras.Model(inputs, outputs, name=old.name)

    def _needed(self, graph: Any) -> list[Any]:
        """The calls that the outputs depend on, without those that are skipped."""
        nodes = list(nodes_of(graph))
        for node in nodes:
            if id(node) in self._skipped:
                passed = self._skipped[id(node)]
                self._passed[id(node.outputs[0])] = self._passed.get(passed, passed)
        needed = {self._passed.get(id(tensor), id(tensor)) for tensor in graph.outputs}
        found = []
        for node in reversed(nodes):
            if id(node) not in self._skipped and any(id(tensor) in needed for tensor in node.outputs):
                found.append(node)
                needed |= {self._passed.get(id(tensor), id(tensor)) for tensor in node.input_tensors}
        return found[::-1]

    def _input(self, tensor: Any, axes: Axes) -> Any:
        return keras.Input(
            batch_shape=self._shape(axes, tensor.shape),
            dtype=self._dtype if self._dtype is not None and "float" in tensor.dtype else tensor.dtype,
            sparse=tensor.sparse,
            name=tensor._keras_history.operation.name,
            optional=getattr(tensor._keras_history.operation, "optional", False),
        )

    def _operation(self, old: Any) -> Any:
        if id(old) in self._built:
            return self._built[id(old)][1]
        if functional_of(old) is not None:
            return self.model(old, self._structure.inputs[id(old)])
        config = _unbuilt(old.get_config())
        for edit in self._structure.edits.get(id(old), ()):
            self._apply(edit, config)
        with SafeModeScope(False):
            new = type(old).from_config(config if self._dtype is None else _in_dtype(config, self._dtype))
        new.name = old.name
        self._built[id(old)] = old, new
        return new

    def _apply(self, edit: Edit, config: Any) -> None:
        if not edit.axes or any(axis is None for axis in edit.axes):
            return
        sizes = [int(np.count_nonzero(self._kept[axis])) for axis in edit.axes]
        if sizes == [axis.size for axis in edit.axes if axis is not None]:
            return
        *parents, key = edit.path
        for parent in parents:
            config = config[parent]
        config[key] = edit.value(*sizes)

    def _arguments(self, node: Any, tensors: dict[int, Any]) -> tuple[Any, Any]:
        def new(leaf: Any) -> Any:
            if isinstance(leaf, keras.KerasTensor):
                return tensors[self._passed.get(id(leaf), id(leaf))]
            axes = self._structure.constants.get((id(node), id(leaf)))
            return leaf if axes is None else self._cut(np.asarray(keras.ops.convert_to_numpy(leaf)), axes)

        found: tuple[Any, Any] = keras.tree.map_structure(new, (node.arguments.args, node.arguments.kwargs))
        return found

    def copy_weights(self) -> None:
        """Gives the new layers what is kept of the old ones' weights, and what can be trained of them."""
        axes: dict[int, list[Any]] = {}
        for slot in self._structure.slots:
            axes.setdefault(id(slot.variable), [None] * len(slot.variable.shape))[slot.axis] = slot.labels
        # Models come after their layers: from the end, so that what holds for a layer alone is said last.
        for old, new in reversed(self._built.values()):
            if not isinstance(old, keras.Layer):
                continue
            if new.trainable != old.trainable:
                new.trainable = old.trainable
            if functional_of(old) is not None:
                continue
            for source, target in zip(old.variables, new.variables, strict=True):
                value = keras.ops.convert_to_numpy(source)
                if id(source) in axes:
                    value = self._cut(value, tuple(axes[id(source)]))
                if id(source) in self._structure.rescaled:
                    labels, factor = self._structure.rescaled[id(source)]
                    size = int(np.count_nonzero(self._kept[labels]))
                    value = value if size == labels.size else value * factor(labels.size, size)
                target.assign(value)

    def _cut(self, value: np.ndarray, axes: Axes) -> np.ndarray:
        for i, axis in enumerate(axes):
            if axis is not None and not self._kept[axis].all():
                value = np.compress(self._kept[axis], value, i)
        return value

    def _shape(self, axes: Axes, shape: Shape) -> Shape:
        return tuple(
            size if axis is None else int(np.count_nonzero(self._kept[axis]))
            for axis, size in zip(axes, shape, strict=True)
        )


def _unbuilt(config: Any) -> Any:
    """A config that does not build the layers inside it for their old inputs."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_unbuilt, config))
    if not isinstance(config, dict):
        return config
    return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}


def _in_dtype(config: Any, dtype: str) -> Any:
    """A config, and those inside, with another type for floating-point numbers."""
    if isinstance(config, (list, tuple)):
        return type(config)(_in_dtype(part, dtype) for part in config)
    if not isinstance(config, dict):
        return config
    return {
        key: dtype
        if key == "dtype" and (isinstance(value, dict) or "float" in str(value))
        else _in_dtype(value, dtype)
        for key, value in config.items()
    }
