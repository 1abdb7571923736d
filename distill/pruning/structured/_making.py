"""Makes the layers of a smaller model from the configs of the original's."""

from collections.abc import Callable, Set
from typing import Any

import keras

from distill._graphs import functional_of, nested_calls
from distill._keras import compute_output_spec, inbound_nodes, marking, taking
from distill._rewriting import in_dtype
from distill.pruning.structured._configs import (
    config_of,
    functions_of,
    layers_in,
    marks_in,
    naming,
    with_layers,
    without_arrays,
)
from distill.pruning.structured._cutting import Cut
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._sharing import refuse_references
from distill.pruning.structured._structure import Edit, Structure


class NewLayers:
    """Makes a new layer for each old one, only once even if it is used several times, directly or inside others.

    Args:
        structure: structure of the original.
        cut: what stays.
        dtype: floating-point type of all layers in place of their own.
        own_dtype: ids of the old layers that keep their own.
        model: builds the new model for a nested one whose inputs have these axes.
    """

    def __init__(
        self,
        structure: Structure,
        cut: Cut,
        dtype: str | None,
        own_dtype: Set[int],
        model: Callable[[keras.Model, list[Axes]], keras.Model],
    ) -> None:
        self._structure = structure
        self._cut = cut
        self._dtype = dtype
        self._own_dtype = own_dtype
        self._model = model
        self._built: dict[int, Any] = {}
        self._called: dict[int, tuple[Any, Any]] = {}

    def add(self, old: keras.Model, new: keras.Model) -> None:
        """Notes the new model in place of an old one."""
        self._built[id(old)] = new
        self._called[id(old)] = old, new

    def finished(self) -> list[tuple[Any, Any]]:
        """Each old layer, operation or model that the graph calls and the new one; models come after their layers."""
        for old, new in self._called.values():
            _build_inner(old, new)
        return list(self._called.values())

    def weight(self, old: keras.Variable, path: str) -> keras.Variable:
        """The new weight for one that an operation is called on; a weight of no layer is the user's and stays."""
        graph: Any = functional_of(self._structure.model)
        owners = (node.operation for _, node, _ in nested_calls(graph) if _owns(node.operation, old))
        if (owner := next(owners, None)) is None:
            return old
        new = self.called(owner)
        if not new.built and not any(map(self._cut.makes_smaller, owner.variables)):
            new.build_from_config(owner.get_build_config())
        if not new.built:
            raise ValueError(
                "An operation can only use the weights of layers that are called before it. Received: "
                f"{path!r}, which uses {old.path!r}. Write it as a layer that holds that layer."
            )
        place = [id(variable) for variable in owner.variables].index(id(old))
        variable: keras.Variable = new.variables[place]
        return variable

    def called(self, old: Any) -> Any:
        """The new layer or operation in place of one that the graph calls."""
        new = self._made(old)
        self._called.setdefault(id(old), (old, new))
        return new

    def _made(self, old: Any) -> Any:
        """The new layer, operation or model in place of an old one."""
        if id(old) not in self._built:
            if functional_of(old) is not None and id(old) in self._structure.inputs:
                return self._model(old, self._structure.inputs[id(old)])
            self._built[id(old)] = self._from_config(old)
            self._built[id(old)].name = old.name
        return self._built[id(old)]

    def _from_config(self, old: Any) -> Any:
        """A layer or operation with the same config except for the edits.

        The new layers that take the place of those in its config are part of it, and it shares the functions in it.
        """
        parts = {id(part): part for part in layers_in(old)}
        with naming(old), marking(parts.values()):
            config = config_of(old)
            if not isinstance(old, keras.layers.Lambda):  # which makes a function from its config itself
                config.update(functions_of(old, config))
        for edit in self._structure.edits.get(id(old), ()):
            self._apply(edit, config)
        if isinstance(old, keras.Layer) and any(map(self._cut.makes_smaller, old.variables)):
            config = without_arrays(config)
        if self._dtype is not None and id(old) not in self._own_dtype:
            config = in_dtype(config, self._dtype)
        inner = {mark: self._made(parts[mark]) for mark in marks_in(config)}
        config = with_layers(config, self._made)
        with naming(old), taking(inner):
            new = type(old).from_config(config)
        functions = functions_of(old, config)
        if isinstance(old, keras.layers.Lambda):
            new.function = old.function  # one made from a config has lost the variables that it refers to
            functions = {"function": old.function}
        refuse_references(old.name, functions.values(), self._structure.model)
        return new

    def _apply(self, edit: Edit, config: Any) -> None:
        sizes = [None if axis is None else self._cut.size(axis) for axis in edit.axes]
        if sizes == [None if axis is None else axis.size for axis in edit.axes]:
            return
        config[edit.key] = edit.value(*sizes)


def _build_inner(old: Any, new: Any) -> None:
    """Builds what only a call with values builds, such as a PReLU that is the activation of another layer."""
    pairs = zip(layers_in(old), layers_in(new), strict=False)
    if functional_of(old) is None and any(one.built and not other.built for one, other in pairs):
        arguments = inbound_nodes(new)[0].arguments
        compute_output_spec(new.call, *arguments.args, **arguments.kwargs)


def _owns(operation: Any, variable: keras.Variable) -> bool:
    is_layer = isinstance(operation, keras.Layer) and functional_of(operation) is None
    return is_layer and any(one is variable for one in operation.variables)
