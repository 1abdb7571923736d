"""Collects what the rules say about a model while its graph is walked."""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from distill.pruning.structured._labels import Axes, Labels
from distill.pruning.structured._structure import Edit, Factor, Key, Product, Role, Shape, Slot, Structure
from distill.pruning.structured._trying import Tried


class Findings:
    """What the rules have said so far. Attributes not listed here are those of `Structure`.

    Args:
        rules: type of a layer or operation -> its rule.
        exact: whether operations that mix channels keep all of them.

    Attributes:
        rules: the rules.
        exact: see above.
        labels: labels issued so far, and what is known about them.
        tried: id of a function and the shape that it was tried on -> what that has shown.
        whole: id of a weight and an axis of it that a call does not let be cut -> why.
    """

    def __init__(self, rules: Mapping[type, Callable[..., Any]], exact: bool) -> None:
        self.rules = rules
        self.exact = exact
        self.labels = Labels()
        self.edits: dict[int, list[Edit]] = collections.defaultdict(list)
        self.constants: dict[tuple[int, int], Axes] = {}
        self.inputs: dict[int, list[Axes]] = {}
        self.rescaled: dict[int, tuple[np.ndarray, Factor]] = {}
        self.states: dict[int, Axes] = {}
        self.tensors: dict[Key, Axes] = {}
        self.operations: dict[str, Any] = {}
        self.products: list[Product] = []
        self.unknown: dict[str, str] = {}
        self.whole: dict[tuple[int, int], str] = {}
        self.tried: dict[tuple[int, Shape], Tried] = {}
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
        """Answers the questions in the order of the graph: a deep model would overflow Python's stack from its end."""
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
            self.constants,
            self.inputs,
            self.rescaled,
            self.states,
            self.tensors,
            self.operations,
            self.products,
            self.unknown,
        )
