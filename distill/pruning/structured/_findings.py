"""Collects what the rules say about a model while its graph is walked."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Set
from typing import Any

import keras
import numpy as np

from distill.pruning.structured._labels import Axes, Labels
from distill.pruning.structured._structure import (
    Argument,
    Edit,
    Factor,
    Key,
    Product,
    Role,
    Shape,
    Slot,
    Structure,
)
from distill.pruning.structured._trying import Tried


@dataclasses.dataclass(frozen=True, eq=False)
class Traced:
    """What is known about a tensor.

    Attributes:
        axes: labels of its axes.
        vanishes: tells whether the tensor is zero where channels are removed. Computed when asked for, which is rare.
    """

    axes: Axes
    vanishes: Callable[[], bool]


class Findings:
    """What the rules have said so far. Attributes not listed here are those of `Structure`.

    Args:
        rules: type of a layer or operation -> its rule.
        exact: whether operations that mix channels keep all of them.
        every_group: ids of the grouped convolutions that lose channels of every group, instead of whole groups.

    Attributes:
        rules: the rules.
        exact: see above.
        every_group: see above.
        grouped: id of a grouped convolution -> its path.
        labels: labels issued so far, and what is known about them.
        tried: id of a function and the shape that it was tried on -> the result.
        enter: function that walks through a model that a wrapper calls. It takes the model, its inputs and the
            wrapper's call, and returns the model's outputs.
        whole: id of a weight and one of its axes that a call keeps from being cut -> why.
        copied: labels of positions that are copies of one another, which no weights make.
    """

    def __init__(
        self, rules: Mapping[type, Callable[..., Any]], exact: bool, every_group: Set[int] = frozenset()
    ) -> None:
        self.rules = rules
        self.exact = exact
        self.every_group = every_group
        self.grouped: dict[int, str] = {}
        self.labels = Labels()
        self.edits: dict[int, list[Edit]] = collections.defaultdict(list)
        self.arguments: dict[tuple[int, str], Argument] = {}
        self.constants: dict[tuple[int, int], Axes] = {}
        self.inputs: dict[int, list[Axes]] = {}
        self.rescaled: dict[int, tuple[np.ndarray, Factor]] = {}
        self.states: dict[int, Axes] = {}
        self.tensors: dict[Key, Axes] = {}
        self.operations: dict[str, Any] = {}
        self.products: list[Product] = []
        self.unknown: dict[str, str] = {}
        self.whole: dict[tuple[int, int], str] = {}
        self.copied: set[int] = set()
        self.tried: dict[tuple[int, Shape], Tried] = {}
        self.enter: Callable[[keras.Model, list[Traced], Any], list[Traced]] = _nowhere
        self._slots: dict[tuple[int, int], Slot] = {}
        self._unsettled: list[Callable[[], bool]] = []

    def slot(
        self, path: str, layer: keras.Layer, variable: keras.Variable, axis: int, role: Role, repeats: int
    ) -> np.ndarray:
        """Labels along an axis of a weight; the same ones each time."""
        key = (id(variable), axis)
        if key not in self._slots:
            labels = self.labels.fresh(variable.shape[axis])
            self._slots[key] = Slot(path, layer, variable, axis, role, labels, repeats)
        return self._slots[key].labels

    def settle_later(self, vanishes: Callable[[], bool]) -> None:
        """Remembers a question that depends on the answers for tensors before it."""
        self._unsettled.append(vanishes)

    def settle(self) -> None:
        """Answers the questions in graph order; going back from the end of a deep model would overflow the stack."""
        while self._unsettled:
            self._unsettled.pop(0)()

    def structure(self, model: keras.Model) -> Structure:
        """Everything found, once the whole graph has been walked."""
        for key in self._slots.keys() & self.whole.keys():
            self.labels.lock(self._slots[key].labels, self.whole[key])
        return Structure(
            model,
            self.labels.atoms(),
            list(self._slots.values()),
            dict(self.edits),
            self.arguments,
            self.constants,
            self.inputs,
            self.rescaled,
            self.states,
            self.tensors,
            self.operations,
            self.products,
            self.unknown,
        )


def _nowhere(*_: Any) -> list[Traced]:
    raise NotImplementedError("Only a walk over a graph can enter another one.")
