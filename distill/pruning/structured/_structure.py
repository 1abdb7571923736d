"""What is known about the channels of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from distill.pruning.structured._labels import Atoms, Axes, Axis

Role = Literal["input", "output", "scale"]
# Sizes of a tensor's axes, `None` where unknown.
Shape = tuple[int | None, ...]
# A tensor: path of the layer or operation that made it, number of the call, number of the output.
Key = tuple[str, int, int]
# The size of an axis: its labels if it can be cut, otherwise the number, or `None` if that is unknown.
Size = np.ndarray | int | None
# A factor for a weight, from the old and the new size of an axis.
Factor = Callable[[int, int], float]


class Slot(NamedTuple):
    """An axis of a weight along which channels can be removed.

    Attributes:
        path: path of the layer, such as "block/conv".
        layer: layer that the weight belongs to.
        variable: the weight.
        axis: number of the axis.
        role: "output" if the axis makes channels, "input" if it reads them, "scale" if it changes each channel on its
            own.
        labels: labels along the axis.
        repeats: number of positions that together make one channel, as the gates of a recurrent cell do.

    An importance yields scores for the labels of slots:

    ```python
    import numpy as np
    from distill import pruning


    def by_norm(structure):
        for slot in structure.slots:
            if slot.role == "output":
                others = tuple(i for i in range(len(slot.variable.shape)) if i != slot.axis)
                yield slot.labels, np.square(slot.variable).sum(others)


    small = pruning.prune_channels(model, 0.5, importance=by_norm)
    ```
    """

    path: str
    layer: keras.Layer
    variable: keras.Variable
    axis: int
    role: Role
    labels: np.ndarray
    repeats: int


class Edit(NamedTuple):
    """A change to the config of a layer or operation, made when channels are removed.

    Attributes:
        key: key of the value in the config.
        axes: axes whose sizes the new value depends on. If none of the sizes changes, the config stays as it is.
        value: function that takes the new sizes of the axes (`None` for an axis that cannot be cut) and returns the new
            value.
    """

    key: str
    axes: tuple[Axis, ...]
    value: Callable[..., Any]


class Argument(NamedTuple):
    """A change to an argument of a call, made when channels are removed.

    Attributes:
        name: name of the argument.
        axes: axes that the new value depends on. If all their positions stay, the argument does not change.
        value: function that takes, for each axis, which positions stay, (size,) bool, and returns the new value.
    """

    name: str
    axes: tuple[np.ndarray, ...]
    value: Callable[..., Any]


class Product(NamedTuple):
    """The multiply-adds of a call with one weight, or with an array in the call.

    Attributes:
        path: path of the layer or operation.
        variable: the weight, each number of which is used once for every position in `sizes`; `None` for an array,
            whose own axes are then among `sizes`.
        sizes: sizes whose product is the number of positions.
    """

    path: str
    variable: keras.Variable | None
    sizes: tuple[Size, ...]


@dataclasses.dataclass(frozen=True)
class Structure:
    """Everything that is known about the channels of a model.

    Attributes:
        model: the model, unchanged.
        atoms: units that can be removed.
        slots: axes of weights along which channels can be removed.
        edits: id of a layer or operation -> changes to its config.
        arguments: id of a node and name of an argument of its call -> how it changes.
        constants: ids of a node and of an array among its arguments -> axes of the array.
        inputs: id of a nested model -> axes of its inputs.
        rescaled: id of a variable -> an axis and the factor for its size, by which the weight is multiplied when
            channels are removed.
        states: id of a state of a recurrent layer, which is not one of its weights -> axes of the state.
        tensors: axes of every tensor, in the order of the walk.
        operations: path -> layer or operation; wrapped layers and nested models are included.
        products: multiply-adds of every call.
        unknown: path -> type of each layer or operation without a known rule.
    """

    model: keras.Model
    atoms: Atoms
    slots: list[Slot]
    edits: dict[int, list[Edit]]
    arguments: dict[tuple[int, str], Argument]
    constants: dict[tuple[int, int], Axes]
    inputs: dict[int, list[Axes]]
    rescaled: dict[int, tuple[np.ndarray, Factor]]
    states: dict[int, Axes]
    tensors: dict[Key, Axes]
    operations: dict[str, Any]
    products: list[Product]
    unknown: dict[str, str]
