"""Keras' layouts of files of weights: which parts a model has in each, and how values get back into it.

In Keras 3's layout a place is a path such as "layers/dense_1", whatever the layer's name. In the older layout it is the
layer's number among those with weights.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from distill._keras import DiskIOStore, H5IOStore, flatten_layers, load_state, save_state
from distill.files._parts import Part, Parts, Values, Weight, name_at, owner_of, weight_of


class Layout(NamedTuple):
    """A way to store the weights of a model.

    Attributes:
        parts_of: function of a model that returns its parts; no value is read.
        assign: function of a model, values by place and key, and the folder of assets or `None`, that loads the values.
            A part is given as a whole; parts without values keep theirs.
    """

    parts_of: Callable[[keras.Model], Parts]
    assign: Callable[[keras.Model, Values, str | None], None]


def _in_keras3(model: keras.Model) -> Parts:
    """What `model.save_weights` would write, without the state of optimizers and metrics; no value is read."""
    store = _Recorder()
    # A layer that writes values instead of variables may have none yet, and none may be created here.
    with keras.StatelessScope(initialize_variables=False), _frequencies_to_come(model):
        save_state(model, store, None, _training_state(model))
    return {path: Part(store.name_of(path), weights) for path, weights in store.kept.items() if weights}


class _AnyLength:
    """Stands for word frequencies whose values and number a file will provide."""

    shape = (None,)

    def numpy(self) -> "_AnyLength":
        return self


@contextlib.contextmanager
def _frequencies_to_come(model: keras.Model) -> Iterator[None]:
    """Let lookup layers that weight words by frequency, and know none yet, say what they store."""
    lookups = keras.layers.StringLookup | keras.layers.IntegerLookup
    empty = [
        layer
        for layer in flatten_layers(model)
        if isinstance(layer, lookups)
        and layer.output_mode == "tf_idf"
        and not hasattr(layer, "idf_weights_const")
    ]
    for layer in empty:
        layer.idf_weights_const = _AnyLength()
    try:
        yield
    finally:
        for layer in empty:
            del layer.idf_weights_const


def _in_legacy(model: keras.Model) -> Parts:
    """What Keras wrote before version 3, and still writes when it saves a whole model as ".h5"."""
    stored = enumerate(_legacy_variables(model))
    return {str(place): Part(name, _numbered(variables)) for place, (name, variables) in stored}


def _assign_keras3(model: keras.Model, values: Values, assets: str | None) -> None:
    kept = {
        path: {key: weight.read() for key, weight in part.weights.items()}
        for path, part in _in_keras3(model).items()
        if path not in values
    }
    store = _Values({**kept, **values})
    files = None if assets is None else DiskIOStore(assets, mode="r")
    load_state(model, store, files, _training_state(model))


def _assign_legacy(model: keras.Model, values: Values, assets: str | None) -> None:
    for place, (_, variables) in enumerate(_legacy_variables(model)):
        _assign_numbered(variables, values.get(str(place)))
    finalize(model)


def by_owner(part: Part) -> Parts:
    """The weights that the older layout stores of a nested model, in which those of a layer are not together."""
    owners: dict[str, dict[str, Weight]] = {}
    for key, weight in part.weights.items():
        owners.setdefault(weight.owner, {})[key] = weight
    return {
        str(place): Part(owner, {str(i): weight for i, weight in enumerate(weights.values())})
        for place, (owner, weights) in enumerate(owners.items())
    }


def _in_nested(model: keras.Model) -> Parts:
    return by_owner(Part(model.name, _numbered(_variables_of(model))))


def _assign_nested(model: keras.Model, values: Values, assets: str | None) -> None:
    owners: dict[str, list[keras.Variable]] = {}
    for variable in _variables_of(model):
        owners.setdefault(owner_of(variable.path), []).append(variable)
    for place, variables in enumerate(owners.values()):
        _assign_numbered(variables, values.get(str(place)))
    finalize(model)


def finalize(model: keras.Model) -> None:
    """Compute what layers derive from their weights when they are loaded one by one."""
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


class _Recorder(H5IOStore):
    """A store that records shapes instead of writing a file. Keras requires a subclass of its own store."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Weight]] = {}
        self._names: dict[str, str] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, str] | None = None) -> "_Weights":
        if metadata:
            self._names[path] = metadata["name"]
        self.kept[path] = made = _Weights()
        return made

    def name_of(self, path: str) -> str:
        return name_at(path, self._names)


class _Weights(dict[str, Weight]):
    """The mapping to which a layer writes its weights."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, weight_of(key, value))


class _Values(H5IOStore):
    """A store that reads given values instead of a file."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def __bool__(self) -> bool:
        return True

    def get(self, path: str) -> Mapping[str, np.ndarray]:
        return self._values.get(path, {})

    def has_path(self, path: str) -> bool:
        return any(f"{known}/".startswith(f"{path}/") for known in self._values)


def _legacy_variables(model: keras.Model) -> list[tuple[str, list[keras.Variable]]]:
    """The variables that each layer stores, in the order of the older layout; the model's own come last."""
    stored = [(layer.name, _variables_of(layer)) for layer in model.layers]
    inner = {id(variable) for _, variables in stored for variable in variables}
    own = [variable for variable in model.weights if id(variable) not in inner]
    return [(name, variables) for name, variables in [*stored, ("top_level_model_weights", own)] if variables]


def _variables_of(layer: keras.Layer) -> list[keras.Variable]:
    """The weights of a layer in the order of the older layout."""
    return layer.trainable_weights + layer.non_trainable_weights


def _numbered(variables: Sequence[keras.Variable]) -> dict[str, Weight]:
    return {
        str(i): weight_of(str(i), variable)._replace(owner=owner_of(variable.path))
        for i, variable in enumerate(variables)
    }


def _assign_numbered(variables: Sequence[keras.Variable], values: Mapping[str, np.ndarray] | None) -> None:
    if values is not None:
        for i, variable in enumerate(variables):
            variable.assign(values[str(i)])


def _training_state(model: keras.Model) -> set[int]:
    """Ids of the parts that Keras is told it has visited already, so that it leaves them out."""
    return {
        id(part) for part in (model.optimizer if model.compiled else None, *model.metrics) if part is not None
    }


KERAS3 = Layout(_in_keras3, _assign_keras3)
LEGACY = Layout(_in_legacy, _assign_legacy)
NESTED = Layout(_in_nested, _assign_nested)  # a model that is a part of another, in the older layout
