"""Match the weights in a file with those of a model."""

import collections
import itertools
import re
from collections.abc import Collection, Mapping, Sequence

import keras
import numpy as np

from distill._keras import to_snake_case
from distill.files._differences import Difference
from distill.files._parts import Part, Parts

# Names that Keras gives to layers, without their numbers.
_KINDS = {to_snake_case(name) for name in vars(keras.layers)} | {"functional", "model", "sequential"}


def matched(
    expected: Parts, found: Parts, kinds: Collection[str] = ()
) -> tuple[dict[str, str], list[Difference]]:
    """Match the parts of a model with those of a file.

    Parts go by the names of their layers if all names agree, so that layers may be in another order. Otherwise they go
    by their places. They also go by their places where only names that Keras chose disagree: it numbers layers in the
    order in which they are made.

    Args:
        expected: parts of the model.
        found: parts of the file.
        kinds: names that Keras gives to layers of the caller's own classes, without their numbers.

    Returns:
        Place in the model -> place in the file, and the differences, for whichever way has fewer of them.
    """
    named, placed = _by_name(expected, found), _by_place(expected, found)
    of_named, of_placed = (_differences(expected, found, pairs) for pairs in (named, placed))

    def is_crossed(here: str) -> bool:
        """Whether a part goes by its place to one that somebody gave another name."""
        own = _given(expected[here].name, kinds)
        return set(own) != {"*"} and own != _given(found[placed[here]].name, kinds)

    if of_named or of_placed or named == placed:
        if len(of_named) <= len(of_placed):
            return named, of_named
        # A name that somebody gave and that both know must not get the weights of another.
        known = {_given(part.name, kinds) for part in found.values()}
        crossed = [
            Difference(_name(here, expected), "place", here, there)
            for here, there in placed.items()
            if _given(expected[here].name, kinds) in known and is_crossed(here)
        ]
        return placed, [*of_placed, *crossed]
    moved = [place for place in expected if named[place] != placed[place]]
    given = [place for place in moved if is_crossed(place)]
    if not given:
        return placed, []
    rows = [
        Difference(_name(place, expected), "place", place, named[place])
        for place in moved
        if place not in given
    ]
    return named, rows


def matched_partly(
    expected: Parts, found: Parts, kinds: Collection[str] = ()
) -> tuple[dict[str, str], list[Difference]]:
    """As `matched`, by the names of layers alone; leaves out parts that differ in any weight.

    Names that Keras chose pair parts only where their places agree too. A file that tells no names must have all of the
    model at the same places, or the model all of the file.
    """
    named, placed = _by_name(expected, found), _by_place(expected, found)
    if any(part.name is not None for part in found.values()):
        pairs = {
            here: there
            for here, there in named.items()
            if "*" not in _given(expected[here].name, kinds) or placed.get(here) == there
        }
    else:
        pairs = placed if len(_fitting(expected, found, placed)) == min(len(expected), len(found)) else {}
    return _fitting(expected, found, pairs), _differences(expected, found, pairs)


def _fitting(expected: Parts, found: Parts, pairs: Mapping[str, str]) -> dict[str, str]:
    return {
        here: there
        for here, there in pairs.items()
        if not _weight_differences(_name(here, expected), expected[here], found[there])
    }


def values(found: Parts, pairs: Mapping[str, str], source: str) -> dict[str, dict[str, np.ndarray]]:
    """Read the weights of a file, all of them before any is loaded into a model.

    Args:
        found: parts of the file.
        pairs: place in the model -> place in the file.
        source: name of the file in errors.

    Returns:
        Values by place in the model and key.

    Raises:
        ValueError: the file is damaged there, or holds something other than real numbers.
    """
    read = {}
    try:
        for here, there in pairs.items():
            read[here] = {key: weight.read() for key, weight in found[there].weights.items()}
    except OSError as error:
        raise ValueError(
            f"The weights cannot be read because the file is damaged. Received: {source}: {error}. "
            "Copy or download it again."
        ) from error
    for array in (array for part in read.values() for array in part.values()):
        if not _is_real(array):
            raise ValueError(
                f"Weights must be real numbers. Received: {source}, with an array of {array.dtype}."
            )
    return read


def _is_real(array: np.ndarray) -> bool:
    return array.dtype in (bool, "bfloat16") or (
        np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    )


def _by_name(expected: Parts, found: Parts) -> dict[str, str]:
    """Pairs of one name, which no other part on either side has."""
    counts = [collections.Counter(part.name for part in parts.values()) for parts in (expected, found)]
    there = {part.name: place for place, part in found.items() if part.name is not None}
    return {
        place: there[part.name]
        for place, part in expected.items()
        if part.name in there and all(count[part.name] == 1 for count in counts)
    }


def _by_place(expected: Parts, found: Parts) -> dict[str, str]:
    there = {_public(place): place for place in found}
    return {place: there[_public(place)] for place in expected if _public(place) in there}


def _is_automatic(name: str, kinds: Collection[str] = ()) -> bool:
    """Whether the last step of a name is one that Keras chose, possibly with a number."""
    kind = re.sub(r"_\d+$", "", name.rpartition("/")[2])
    return kind in _KINDS or kind in kinds


def _given(name: str | None, kinds: Collection[str]) -> tuple[str, ...]:
    """The steps of a name, with * for each that Keras chose."""
    return tuple("*" if _is_automatic(step, kinds) else step for step in (name or "*").split("/"))


def _ranks(names: Sequence[str]) -> list[int]:
    """The place of each name among those that there are, numbers in their order: dense_9 before dense_10."""
    parts = {name: re.fullmatch(r"(.*?)(?:_(\d+))?", name) for name in names}
    order = sorted(parts, key=lambda name: (parts[name][1], int(parts[name][2] or 0)))  # type: ignore[index]
    return [order.index(name) for name in names]


def _inverted(here: Sequence[int], there: Sequence[int]) -> bool:
    """Whether some layer comes before another here and after it there. Layers may share a name on one side alone."""
    pairs = dict.fromkeys(zip(here, there, strict=False))
    return any(a < c and b > d for (a, b), (c, d) in itertools.permutations(pairs, 2))


def _public(place: str) -> str:
    """A place without the underscores of private attributes, which Keras 2 gave to parts of its attention."""
    return "/".join(step.lstrip("_") for step in place.split("/"))


def _name(place: str, parts: Parts) -> str:
    return parts[place].name or place


def _differences(expected: Parts, found: Parts, pairs: Mapping[str, str]) -> list[Difference]:
    """Differences in matched layers, layers that the file lacks, and layers that the model lacks."""
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


def _fits(here: tuple[int | None, ...], there: tuple[int | None, ...]) -> bool:
    return len(here) == len(there) and all(a is None or a == b for a, b in zip(here, there, strict=True))


def _weight_differences(layer: str, expected: Part, found: Part) -> list[Difference]:
    owners = [[weight.owner for weight in part.weights.values()] for part in (expected, found)]
    # The older layout stores the trainable weights of a nested model first. Names that Keras chose have other numbers.
    is_automatic = all(_is_automatic(name) for names in owners for name in names)
    if (owners[0] != owners[1] and sorted(owners[0]) == sorted(owners[1])) or (
        is_automatic and _inverted(*map(_ranks, owners))
    ):
        orders = [", ".join(dict.fromkeys(names)) for names in owners]
        return [Difference(layer, "order of weights", *orders)]
    rows = []
    for key in {**expected.weights, **found.weights}:
        here, there = expected.weights.get(key), found.weights.get(key)
        if here is None and there is not None:
            rows.append(Difference(layer, there.label, "–", f"{there.shape}, unexpected"))
        elif here is not None and there is None:
            rows.append(Difference(layer, here.label, str(here.shape), "missing"))
        elif here is not None and there is not None and not _fits(here.shape, there.shape):
            rows.append(Difference(layer, here.label, str(here.shape), str(there.shape)))
    return rows
