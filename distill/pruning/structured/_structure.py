"""What is known of what can be cut out of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from distill.pruning.structured._labels import Atoms, Axes, Axis

Role = Literal["input", "output", "scale"]
Shape = tuple[int | None, ...]
# Of a tensor: path of the layer or operation that made it, how many calls of it came before, which of its outputs.
Key = tuple[str, int, int]
# Of one axis: its labels where it can be cut, or its size, or `None` if that is not known.
Size = np.ndarray | int | None


class Slot(NamedTuple):
    """An axis of a weight that can be cut.

    Attributes:
        path: of the layer, such as "block/conv".
        layer: that it belongs to.
        variable: the weight.
        axis: of the weight.
        role: "output" where the axis makes channels, "input" where it reads them, "scale" where it changes each on
            its own.
        labels: along the axis.
        repeats: how many positions in a row of runs make one channel, as the gates of recurrent cells do.
    """

    path: str
    layer: keras.Layer
    variable: keras.Variable
    axis: int
    role: Role
    labels: np.ndarray
    repeats: int


class Edit(NamedTuple):
    """A change of a layer's or operation's config: what is at `path` becomes `value(size of each axis that stays)`.

    The size of an axis that cannot be cut is `None`; where no size changes, neither does the config.
    """

    path: tuple[str, ...]
    axes: tuple[Axis, ...]
    value: Callable[..., Any]


class Product(NamedTuple):
    """Multiply-adds of a call with one weight, or with an array of the call.

    Attributes:
        path: of the layer or operation.
        variable: each number of which is used at as many positions as the product of `sizes`; `None` for an array,
            whose axes are among `sizes`.
        sizes: of the axes that are gone through.
    """

    path: str
    variable: keras.Variable | None
    sizes: tuple[Size, ...]


@dataclasses.dataclass
class Structure:
    """All that is known of what can be cut out of a model.

    Attributes:
        model: it was read of; nothing of it is changed.
        atoms: what can be removed on its own.
        slots: the axes of weights that can be cut.
        edits: changes of configs, by the id of the layer or operation.
        constants: axes of arrays in calls, by the ids of the graph's node and of the array.
        inputs: axes of the inputs of nested models, by the id of the model.
        rescaled: weights that are multiplied when an axis is cut: id of the variable -> axis and function of the old
            and new size.
        tensors: labels of each, in the order of the walk.
        operations: the layers and operations by path, wrapped ones and nested models too.
        products: for multiply-adds.
        unknown: path -> type of what no rule is known for.
    """

    model: keras.Model
    atoms: Atoms
    slots: list[Slot]
    edits: dict[int, list[Edit]]
    constants: dict[tuple[int, int], Axes]
    inputs: dict[int, list[Axes]]
    rescaled: dict[int, tuple[np.ndarray, Callable[[int, int], float]]]
    tensors: dict[Key, Axes]
    operations: dict[str, Any]
    products: list[Product]
    unknown: dict[str, str]
