"""What a file of weights holds of a model, in Keras' two layouts, and how to load it back.

Both layouts become the same here: parts by place. A part is the weights that one layer stores. In Keras 3's layout a
place is a path such as "layers/dense_1", whatever the layer's name. In the older layout it is the layer's number among
those with weights.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from distill._keras import DiskIOStore, H5IOStore, flatten_layers, load_state, save_state


class Weight(NamedTuple):
    """One weight, in a model or in a file.

    Attributes:
        label: name such as "kernel"; a number in files of Keras 3.
        shape: shape of the weight.
        read: callable that returns its value.
        owner: name of the layer that owns it, in a file of the older layout; "" if the file does not say.
    """

    label: str
    shape: tuple[int, ...]
    read: Callable[[], Any]
    owner: str = ""


class Part(NamedTuple):
    """Weights that one layer stores.

    Attributes:
        name: name of the layer, preceded by those of the layers around it; `None` if the file does not say.
        weights: weights by key: a position as a string, or the layer's own word for it.
    """

    name: str | None
    weights: dict[str, Weight]


Parts = dict[str, Part]
# Values by place and key.
Values = Mapping[str, Mapping[str, np.ndarray]]


def numbers_in(parts: Parts) -> int:
    """How many numbers all weights have together."""
    return sum(math.prod(weight.shape) for part in parts.values() for weight in part.weights.values())


def in_keras3(model: keras.Model) -> Parts:
    """What `model.save_weights` would write, without the state of optimizers and metrics; no value is read."""
    store = _Recorder()
    # A layer that writes values instead of variables may have none yet, and none may be created here.
    with keras.StatelessScope(initialize_variables=False):
        save_state(model, store, None, _training_state(model))
    return {path: Part(store.name_of(path), weights) for path, weights in store.kept.items() if weights}


def in_legacy(model: keras.Model) -> Parts:
    """What Keras wrote before version 3, and still writes when it saves a whole model as ".h5"."""
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


def assign_keras3(model: keras.Model, values: Values, assets: str | None) -> None:
    """Load values into a model; parts without values keep theirs.

    Args:
        model: built model.
        values: values by place and key; a part is given as a whole.
        assets: folder with whatever is not an array, such as vocabularies.
    """
    kept = {
        path: {key: weight.read() for key, weight in part.weights.items()}
        for path, part in in_keras3(model).items()
        if path not in values
    }
    store = _Values({**kept, **values})
    files = None if assets is None else DiskIOStore(assets, mode="r")
    load_state(model, store, files, _training_state(model))


def assign_legacy(model: keras.Model, values: Values) -> None:
    """As `assign_keras3`, with places of the older layout."""
    for place, (_, variables) in enumerate(_legacy_variables(model)):
        for i, variable in enumerate(variables if str(place) in values else ()):
            variable.assign(values[str(place)][str(i)])
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with values derived from its weights


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
        super().__setitem__(key, _weight(key, value))


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


def owner_of(path: str) -> str:
    """The layer in the path of a weight, such as "dense" in "model/dense/kernel:0"."""
    return path.rpartition("/")[0].rpartition("/")[2]


def name_at(path: str, names: Mapping[str, str]) -> str:
    """The name of the layer at `path`, preceded by those of the layers around it except the outermost."""
    steps = path.split("/")
    above = ["/".join(steps[: i + 1]) for i in range(len(steps))] if path else []
    return "/".join(names[place] for place in above if place in names)


def _legacy_variables(model: keras.Model) -> list[tuple[str, list[keras.Variable]]]:
    """The variables that each layer stores, in the order of the older layout; the model's own come last."""
    stored = [(layer.name, layer.trainable_weights + layer.non_trainable_weights) for layer in model.layers]
    inner = {id(variable) for _, variables in stored for variable in variables}
    own = [variable for variable in model.weights if id(variable) not in inner]
    return [(name, variables) for name, variables in [*stored, ("top_level_model_weights", own)] if variables]


def _weight(key: str, value: Any) -> Weight:
    if isinstance(value, keras.Variable):
        return Weight(value.name, tuple(value.shape), lambda: keras.ops.convert_to_numpy(value))
    return Weight(key, tuple(np.shape(value)), lambda: value)


def _training_state(model: keras.Model) -> set[int]:
    """Ids of the parts that Keras is told it has visited already, so that it leaves them out."""
    return {
        id(part) for part in (model.optimizer if model.compiled else None, *model.metrics) if part is not None
    }
