"""Which weights of a file belong to which of a model, and a table of those that do not fit."""

import dataclasses
import re
import textwrap
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from distill._keras import to_snake_case

# Keras exports no name for how it makes names.
from distill._tables import aligned
from distill.files._parts import Part, Parts

Shape = tuple[int, ...]
SHOWN, WIDEST = 12, 60
_KINDS = {to_snake_case(name) for name in vars(keras.layers)} | {"functional", "model", "sequential"}


class Difference(NamedTuple):
    """What a model and a file do not agree on.

    Attributes:
        layer: its name.
        what: of the layer, a weight or a setting.
        expected: what the model has, a shape or a setting's value.
        found: what the file has.
    """

    layer: str
    what: str
    expected: str
    found: str


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What `load_weights` took; `print` shows it.

    Attributes:
        taken: names of the layers that have the file's weights now.
        differences: what was left, empty unless `partial=True` was asked for.
    """

    taken: tuple[str, ...]
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        text = f"{len(self.taken)} layers were loaded: {', '.join(self.taken)}."
        return f"{text}\nNot loaded:\n{table(self.differences)}" if self.differences else text


def table(differences: tuple[Difference, ...] | list[Difference]) -> str:
    """The first differences, one a line."""
    shown = [[textwrap.shorten(cell, WIDEST, placeholder="…") for cell in row] for row in differences[:SHOWN]]
    rows = [["layer", "what", "expected", "found"], *shown]
    more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
    return "\n".join([*aligned(rows, "<<<<"), *more])


def fit(expected: Parts, found: Parts) -> tuple[dict[str, str], list[Difference]]:
    """Pairs the parts of a model with those of a file.

    By the names of their layers if all agree, so that another order of layers does no harm; by their places elsewhere,
    and where names differ in place that nobody gave: Keras numbers those as layers are made.

    Returns:
        Place in the model -> place in the file, and what does not fit, with either pairing the fewer.
    """
    named, placed = _by_name(expected, found), _by_place(expected, found)
    of_named, of_placed = (differences_of(expected, found, pairs) for pairs in (named, placed))
    if of_named or of_placed or named == placed:
        return (named, of_named) if len(of_named) <= len(of_placed) else (placed, of_placed)
    moved = [place for place in expected if named[place] != placed[place]]
    given = [place for place in moved if not _is_automatic(_name(place, expected))]
    if not given:
        return placed, []
    rows = [
        Difference(_name(place, expected), "place", place, named[place])
        for place in moved
        if place not in given
    ]
    return named, rows


def fit_by_name(expected: Parts, found: Parts) -> tuple[dict[str, str], list[Difference]]:
    """As `fit`, by the names of layers alone; pairs that do not fit in every weight are left out."""
    pairs = _by_name(expected, found)
    fitting = {
        here: there
        for here, there in pairs.items()
        if not _weight_differences(_name(here, expected), expected[here], found[there])
    }
    return fitting, differences_of(expected, found, pairs)


def differences_of(expected: Parts, found: Parts, pairs: Mapping[str, str]) -> list[Difference]:
    """What does not fit: of layers that are paired, that the file lacks, or that the model lacks."""
    nothing = Part(None, {})
    rows = []
    for place, part in expected.items():
        there = found[pairs[place]] if place in pairs else nothing
        rows += _weight_differences(_name(place, expected), part, there)
    paired = set(pairs.values())
    for place, part in found.items():
        if place not in paired:
            rows += _weight_differences(_name(place, found), nothing, part)
    return rows


def values(found: Parts, pairs: Mapping[str, str], source: str) -> dict[str, dict[str, np.ndarray]]:
    """Reads the weights of a file, all of them before any is put into a model.

    Raises:
        ValueError: the file is damaged there, or has no numbers.
    """
    read = {}
    try:
        for here, there in pairs.items():
            read[here] = {key: weight.read() for key, weight in found[there].weights.items()}
    except OSError as error:
        raise ValueError(
            f"The weights cannot be read. Received: {source}, which is damaged: {error}."
        ) from error
    if not all(
        array.dtype in (bool, "bfloat16")
        or (np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array))
        for part in read.values()
        for array in part.values()
    ):
        raise ValueError(f"Weights are real numbers. Received: {source}, with an array of something else.")
    return read


def _by_name(expected: Parts, found: Parts) -> dict[str, str]:
    there = {part.name: place for place, part in found.items() if part.name is not None}
    return {place: there[part.name] for place, part in expected.items() if part.name in there}


def _by_place(expected: Parts, found: Parts) -> dict[str, str]:
    there = {_public(place): place for place in found}
    return {place: there[_public(place)] for place in expected if _public(place) in there}


def _is_automatic(name: str) -> bool:
    """Whether the last step of a name is one that Keras gives a layer of its own, numbered."""
    return re.sub(r"_\d+$", "", name.rpartition("/")[2]) in _KINDS


def _public(place: str) -> str:
    """A place without the underscores of private attributes, which Keras 2 gave to parts of its attention."""
    return "/".join(step.lstrip("_") for step in place.split("/"))


def _name(place: str, parts: Parts) -> str:
    return parts[place].name or place


def _weight_differences(layer: str, expected: Part, found: Part) -> list[Difference]:
    owners = [[weight.owner for weight in part.weights.values()] for part in (expected, found)]
    # Of a model in the model the older layout has what is trained first.
    if owners[0] != owners[1] and sorted(owners[0]) == sorted(owners[1]):
        orders = [", ".join(dict.fromkeys(names)) for names in owners]
        return [Difference(layer, "order of weights", *orders)]
    rows = []
    for key in {**expected.weights, **found.weights}:
        here, there = expected.weights.get(key), found.weights.get(key)
        if here is None and there is not None:
            rows.append(Difference(layer, there.label, "–", f"{there.shape}, unexpected"))
        elif here is not None and there is None:
            rows.append(Difference(layer, here.label, str(here.shape), "missing"))
        elif here is not None and there is not None and here.shape != there.shape:
            rows.append(Difference(layer, here.label, str(here.shape), str(there.shape)))
    return rows
