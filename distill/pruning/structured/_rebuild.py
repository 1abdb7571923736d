"""A smaller model from a structure and what is kept of it: the same graph of new layers, with slices of the weights."""

import tempfile
import types
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# Keras exports no name for this: layers of the caller's own model may hold a Lambda.
from distill._graphs import Step, functional_of, needed_nodes, run
from distill._keras import SafeModeScope, flatten_layers, history_of
from distill.pruning.structured._configs import config_of, in_dtype, own_of, without_arrays
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._structure import Edit, Shape, Structure


def rebuild(
    structure: Structure,
    keep: np.ndarray,
    *,
    skipped: Mapping[int, keras.KerasTensor] | None = None,
    dtype: str | None = None,
    masked: bool = False,
) -> keras.Model:
    """A new model without what is not kept; the structure's own is left as it is.

    Args:
        structure: of the model.
        keep: (atoms,) bool.
        skipped: calls that are left out, with all that only they need: id of a graph's node -> the tensor that is
            passed on in place of its output.
        dtype: of all layers in place of their own.
        masked: whether sizes stay, and what is not kept of weights, and of arrays in calls, is zero.

    Returns:
        A Functional model, or a Sequential one where it was, of the same names; not compiled.
    """
    builder = _Builder(structure, keep, skipped or {}, dtype, masked)
    new = builder.model(structure.model, None)
    builder.copy_weights()
    return new


def keep_labels(structure: Structure, keep: np.ndarray) -> np.ndarray:
    """(labels,) bool: which are kept when these atoms are."""
    kept: np.ndarray = keep[structure.atoms.of]
    return kept


class _Builder:
    def __init__(
        self,
        structure: Structure,
        keep: np.ndarray,
        skipped: Mapping[int, keras.KerasTensor],
        dtype: str | None,
        masked: bool,
    ) -> None:
        self._structure = structure
        self._skipped = skipped
        self._kept = keep_labels(structure, keep)
        self._dtype = dtype
        self._masked = masked
        # Ids of the weights that get smaller.
        self._smaller = {
            id(slot.variable) for slot in structure.slots if not masked and not self._kept[slot.labels].all()
        }
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
            needed = needed_nodes(graph, self._skipped)
            kept = [self._operation(node.operation) for node in needed if id(node) not in self._skipped]
            new = keras.Sequential([history_of(entry).operation, *kept], name=old.name)
        else:
            new = self._functional(old, graph, entries)
        self._built[id(old)] = old, new
        return new

    def _functional(self, old: Any, graph: Any, entries: list[Any]) -> Any:
        def visit(step: Step[Any]) -> Any:
            if id(step.node) in self._skipped:
                return step.values[self._skipped[id(step.node)]]
            args, kwargs = self._arguments(step)
            return self._operation(step.operation)(*args, **kwargs)

        values = run(graph, entries, visit, nodes=needed_nodes(graph, self._skipped))
        return keras.Model(values.of(graph.input), values.of(graph.output), name=old.name)

    def _input(self, tensor: Any, axes: Axes) -> Any:
        return keras.Input(
            batch_shape=self._shape(axes, tensor.shape),
            dtype=self._dtype if self._dtype is not None and "float" in tensor.dtype else tensor.dtype,
            sparse=tensor.sparse,
            name=history_of(tensor).operation.name,
            optional=getattr(history_of(tensor).operation, "optional", False),
        )

    def _operation(self, old: Any) -> Any:
        if id(old) in self._built:
            return self._built[id(old)][1]
        if functional_of(old) is not None:
            return self.model(old, self._structure.inputs[id(old)])
        new = self._from_config(old)
        new.name = old.name
        self._built[id(old)] = old, new
        return new

    def _from_config(self, old: Any) -> Any:
        """A layer or operation of the same config, but for the edits; functions in it are passed on as they are."""
        functions = {name: one for name, one in vars(old).items() if isinstance(one, types.FunctionType)}
        try:
            with (
                SafeModeScope(False),
                keras.saving.CustomObjectScope(own_of(old)),
                warnings.catch_warnings(),
            ):
                warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
                config = config_of(old)
                if not isinstance(old, keras.layers.Lambda):  # which makes a function of its config itself
                    config.update({name: one for name, one in functions.items() if name in config})
                for edit in self._structure.edits.get(id(old), ()):
                    self._apply(edit, config)
                if isinstance(old, keras.Layer) and any(id(one) in self._smaller for one in old.variables):
                    config = without_arrays(config)
                new = type(old).from_config(config if self._dtype is None else in_dtype(config, self._dtype))
        except (NotImplementedError, TypeError) as error:
            raise ValueError(
                "A model is built anew from the configs of its layers. Received: "
                f"{old.name!r}, a {type(old).__name__}, whose config does not make another. Write its get_config and "
                f"from_config. Keras said: {error}"
            ) from error
        if isinstance(old, keras.layers.Lambda):
            new.function = old.function  # a lambda that comes out of a config has lost what it refers to
        return new

    def _apply(self, edit: Edit, config: Any) -> None:
        sizes = [None if axis is None else self._size(axis) for axis in edit.axes]
        if sizes == [None if axis is None else axis.size for axis in edit.axes]:
            return
        *parents, key = edit.path
        for parent in parents:
            config = config[parent]
        config[key] = edit.value(*sizes)

    def _arguments(self, step: Step[Any]) -> tuple[Any, Any]:
        node = step.node

        def new(leaf: Any) -> Any:
            if isinstance(leaf, keras.KerasTensor):
                return step.values[leaf]
            if not getattr(leaf, "shape", ()) or isinstance(leaf, keras.Variable):
                return leaf
            axes = self._structure.constants.get((id(node), id(leaf)), ())
            value = np.asarray(keras.ops.convert_to_numpy(leaf))
            if self._dtype is not None and np.issubdtype(value.dtype, np.floating):
                value = value.astype(self._dtype)
            return self._cut(value, axes)

        found: tuple[Any, Any] = keras.tree.map_structure(new, (node.arguments.args, node.arguments.kwargs))
        return found

    def copy_weights(self) -> None:
        """Gives the new layers what is kept of the old ones' weights, all other state, and what can be trained."""
        axes: dict[int, list[Any]] = {}
        for slot in self._structure.slots:
            axes.setdefault(id(slot.variable), [None] * len(slot.variable.shape))[slot.axis] = slot.labels
        # Models come after their layers: from the end, so that what holds for a layer alone is said last.
        for old, new in reversed(self._built.values()):
            if not isinstance(old, keras.Layer):
                continue
            if functional_of(old) is not None:
                if new.trainable != old.trainable:
                    new.trainable = old.trainable
                continue
            pairs = _pairs(old, new)
            for one, other in zip(flatten_layers(old), flatten_layers(new), strict=True):
                if not any(id(variable) in axes for variable in one.variables):
                    _copy_state(one, other)  # first: what is loaded may be computed anew from other weights
            for source, target in pairs:
                value = keras.ops.convert_to_numpy(source)
                if id(source) in axes:
                    value = self._cut(value, tuple(axes[id(source)]))
                if id(source) in self._structure.rescaled:
                    labels, factor = self._structure.rescaled[id(source)]
                    size = self._size(labels)
                    value = value if size == labels.size else value * factor(labels.size, size)
                target.assign(value)
            for one, other in zip(flatten_layers(old), flatten_layers(new), strict=True):
                if other.trainable != one.trainable:
                    other.trainable = one.trainable
            for source, target in pairs:
                if target.trainable != source.trainable:
                    target.trainable = source.trainable

    def _cut(self, value: np.ndarray, axes: Axes) -> np.ndarray:
        for i, axis in enumerate(axes):
            if axis is not None and not self._kept[axis].all():
                if self._masked:
                    shape = [-1 if j == i else 1 for j in range(value.ndim)]
                    value = np.where(self._kept[axis].reshape(shape), value, np.zeros_like(value))
                else:
                    value = np.compress(self._kept[axis], value, i)
        return value

    def _size(self, axis: np.ndarray) -> int:
        return axis.size if self._masked else int(np.count_nonzero(self._kept[axis]))

    def _shape(self, axes: Axes, shape: Shape) -> Shape:
        return tuple(
            size if axis is None else self._size(axis) for axis, size in zip(axes, shape, strict=True)
        )


def _pairs(old: keras.Layer, new: keras.Layer) -> list[tuple[keras.Variable, keras.Variable]]:
    """Each weight of a layer with that of one which was made of its config."""
    sources, targets = old.variables, new.variables
    by_path = {target.path: target for target in targets}
    # A layer that was quantized to float8 has its weights in another order than one that is made so.
    if len(by_path) == len(targets) and {source.path for source in sources} == by_path.keys():
        targets = [by_path[source.path] for source in sources]

    def make_up(layer: keras.Layer, variables: list[keras.Variable]) -> tuple[list[type], list[int]]:
        return [type(one) for one in flatten_layers(layer)], [len(one.shape) for one in variables]

    if make_up(old, sources) != make_up(new, targets):
        raise ValueError(
            f"A model is built anew from the configs of its layers. Received: {old.name!r}, a "
            f"{type(old).__name__}, whose config makes one of other weights. Write its get_config."
        )
    return list(zip(sources, targets, strict=True))


def _copy_state(one: keras.Layer, other: keras.Layer) -> None:
    """What a layer that nothing is cut of keeps beside its variables, as the vocabulary of a lookup."""
    if type(one).load_own_variables is not keras.Layer.load_own_variables:
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        other.load_own_variables(store)
    if (save := getattr(one, "save_assets", None)) is not None:
        with tempfile.TemporaryDirectory() as folder:
            save(folder)
            other.load_assets(folder)
