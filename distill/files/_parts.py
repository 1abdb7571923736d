"""The parts of a model that a file of weights holds, by place.

A part is the weights that one layer stores. `_layouts` says what places are called in each of Keras' layouts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np


class Weight(NamedTuple):
    """One weight, in a model or in a file.

    Attributes:
        label: name such as "kernel"; a number in files of Keras 3.
        shape: shape of the weight; a size may be `None` in a model that takes any.
        read: callable that returns its value.
        owner: name of the layer that owns it, in a file of the older layout; "" if the file does not say.
    """

    label: str
    shape: tuple[int | None, ...]
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
    return sum(
        math.prod(size or 0 for size in weight.shape)
        for part in parts.values()
        for weight in part.weights.values()
    )


def owner_of(path: str) -> str:
    """The layer in the path of a weight, such as "dense" in "model/dense/kernel:0"."""
    return path.rpartition("/")[0].rpartition("/")[2]


def name_at(path: str, names: Mapping[str, str]) -> str:
    """The name of the layer at `path`, preceded by those of the layers around it except the outermost."""
    steps = path.split("/")
    above = ["/".join(steps[: i + 1]) for i in range(len(steps))] if path else []
    return "/".join(names[place] for place in above if place in names)


def weight_of(key: str, value: Any) -> Weight:
    """A weight of a model: a variable, or a value that a layer stores instead."""
    if isinstance(value, keras.Variable):
        return Weight(value.name, tuple(value.shape), lambda: keras.ops.convert_to_numpy(value))
    return Weight(key, tuple(np.shape(value)), lambda: value)
