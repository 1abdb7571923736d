"""What a file of weights would hold of a model, in the two layouts that Keras has had, and how it gets back into it.

Both are the same here: parts by place, a part being the weights that one layer stores. In Keras 3's layout a place is a
path such as "layers/dense_1", whatever the layer is called; in the older one it is the number of a layer among those
with weights.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from distill._keras import DiskIOStore, H5IOStore, flatten_layers, load_state, save_state


class Weight(NamedTuple):
    """A weight of a model, or one that a file holds.

    Attributes:
        label: such as "kernel"; files of Keras 3 have numbers only.
        shape: its own.
        read: returns its value.
        owner: the name of the layer that has it, in a file of the older layout; "" where a file does not say.
    """

    label: str
    shape: tuple[int, ...]
    read: Callable[[], Any]
    owner: str = ""


class Part(NamedTuple):
    """What one layer stores.

    Attributes:
        name: of the layer, after those that it lies in; `None` where a file does not say.
        weights: by key: a position as a string, or what a layer of its own kind calls it.
    """

    name: str | None
    weights: dict[str, Weight]


Parts = dict[str, Part]


def numbers_in(parts: Parts) -> int:
    """How many numbers all weights have together."""
    return sum(math.prod(weight.shape) for part in parts.values() for weight in part.weights.values())


def in_keras3(model: keras.Model) -> Parts:
    """What `model.save_weights` would write, without the state of optimizers and metrics; no value is read."""
    store = _Recorder()
    # A layer that writes values, not variables, may have none yet; and none may be made.
    with keras.StatelessScope(initialize_variables=False):
        save_state(model, store, None, _training_state(model))
    return {path: Part(store.name_of(path), weights) for path, weights in store.kept.items() if weights}


def in_legacy(model: keras.Model) -> Parts:
    """What Keras wrote before version 3, and still writes to whole models in ".h5"."""
    return {
        str(place): Part(
            name,
            {
                str(i): _weight(str(i), variable)._replace(owner=owner_of(variable.path))
                for i, variable in enumerate(variables)
            },
        )
        for place, (name, variables) in enumerate(_legacy_variables(model))
    }


def assign_keras3(
    model: keras.Model, values: Mapping[str, Mapping[str, np.ndarray]], assets: str | None
) -> None:
    """Gives a model the values of its parts; parts that are not among them keep theirs.

    Args:
        model: a built model.
        values: by place and key, all those of a part.
        assets: a folder with what is no array, such as the words of a vocabulary.
    """
    kept = {
        path: {key: weight.read() for key, weight in part.weights.items()}
        for path, part in in_keras3(model).items()
        if path not in values
    }
    store = _Values({**kept, **values})
    files = None if assets is None else DiskIOStore(assets, mode="r")
    load_state(model, store, files, _training_state(model))


def assign_legacy(model: keras.Model, values: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """As `assign_keras3`, for places of the older layout."""
    for place, (_, variables) in enumerate(_legacy_variables(model)):
        for i, variable in enumerate(variables if str(place) in values else ()):
            variable.assign(values[str(place)][str(i)])
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # what it computes with is made of its weights


class _Recorder(H5IOStore):
    """Stands for a file; keeps shapes. Keras asks for the class."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Weight]] = {}
        self._names: dict[str, str] = {}

    def __bool__(self) -> bool:
        return True

    def make(self, path: str, metadata: dict[str, Any] | None = None) -> Any:
        if metadata:
            self._names[path] = metadata["name"]
        self.kept[path] = _Weights()
        return self.kept[path]

    def name_of(self, path: str) -> str:
        return name_at(path, self._names)


class _Weights(dict):
    """What a layer writes its weights to."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _weight(key, value))


class _Values(H5IOStore):
    """Stands for a file that holds these values."""

    def __init__(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        self._values = values

    def __bool__(self) -> bool:
        return True

    def get(self, path: str) -> Mapping[str, Any]:
        return self._values.get(path, {})

    def has_path(self, path: str) -> bool:
        return any(f"{known}/".startswith(f"{path}/") for known in self._values)


def owner_of(path: str) -> str:
    """The layer in the path of a weight, such as "dense" in "model/dense/kernel:0"."""
    return path.rpartition("/")[0].rpartition("/")[2]


def name_at(path: str, names: Mapping[str, str]) -> str:
    """The name of the layer at `path`, after the names of those that it lies in; the outermost one's is left out."""
    steps = path.split("/")
    above = ["/".join(steps[: i + 1]) for i in range(len(steps))] if path else []
    return "/".join(names[place] for place in above if place in names)


def _legacy_variables(model: keras.Model) -> list[tuple[str, list[keras.Variable]]]:
    """The variables that each layer stores, in the order of the older layout; last those of the model itself."""
    stored = [(layer.name, layer.trainable_weights + layer.non_trainable_weights) for layer in model.layers]
    inner = {id(variable) for _, variables in stored for variable in variables}
    own = [variable for variable in model.weights if id(variable) not in inner]
    return [(name, variables) for name, variables in [*stored, ("top_level_model_weights", own)] if variables]


def _weight(key: str, value: Any) -> Weight:
    if isinstance(value, keras.Variable):
        return Weight(value.name, tuple(value.shape), lambda: keras.ops.convert_to_numpy(value))
    return Weight(key, tuple(np.shape(value)), lambda: value)


def _training_state(model: keras.Model) -> set[int]:
    """What Keras is told to have visited, so that it passes it by."""
    return {
        id(part) for part in (model.optimizer if model.compiled else None, *model.metrics) if part is not None
    }
