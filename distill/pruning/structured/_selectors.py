"""Finds the groups of channels that a selector of layers means."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from distill.pruning.structured._groups import Group
from distill.pruning.structured._structure import Structure
from distill.pruning.weights._kernels import Selector, as_selectors, fits


def without(
    structure: Structure, groups: Sequence[Group], exclude: Selector | Sequence[Selector]
) -> list[Group]:
    """The groups in which no excluded layer makes or scales channels.

    Raises:
        TypeError: a selector is not a name, a type or a function.
        ValueError: a selector fits no layer.
    """
    left_alone = {i for one in as_selectors("exclude", exclude) for i in _fitting(structure, groups, one)}
    return [group for i, group in enumerate(groups) if i not in left_alone]


def own_ratios(
    structure: Structure, groups: Sequence[Group], ratios: Mapping[Selector, float] | None
) -> dict[int, float]:
    """Position of a group -> the share to remove that is asked for its layers.

    Raises:
        TypeError: a selector is not a name, a type or a function.
        ValueError: a selector fits no layer, or a share is not in [0, 1).
    """
    found: dict[int, float] = {}
    for selector, ratio in (ratios or {}).items():
        if not isinstance(ratio, (int, float, np.number)) or not 0 <= ratio < 1:
            raise ValueError(
                "The share of channels to remove must be at least 0 and less than 1. Received: ratios with "
                f"{ratio!r} for {selector!r}."
            )
        (checked,) = as_selectors("ratios", selector)
        found.update(dict.fromkeys(_fitting(structure, groups, checked), float(ratio)))
    return found


def _fitting(structure: Structure, groups: Sequence[Group], selector: Selector) -> list[int]:
    """Positions of the groups whose channels are made or scaled by layers that fit a selector."""
    meant = [
        path
        for path, layer in structure.operations.items()
        # A function is one of a layer; a raw operation, such as an addition, has none of its attributes.
        if (isinstance(layer, keras.Layer) or isinstance(selector, (str, type)))
        and fits(selector, path, layer)
    ]
    if not meant:
        raise ValueError(
            f"A selector must fit at least one layer. Received: {selector!r}, which fits none of "
            f"{structure.model.name!r}. Its layers: {', '.join(structure.operations)}."
        )
    # What holds for a layer holds for the layers inside it, wherever else they are used.
    held = {id(one) for path in meant for one in getattr(structure.operations[path], "variables", ())}
    own = np.zeros(structure.atoms.count, bool)
    for slot in structure.slots:
        if id(slot.variable) in held and slot.role != "input":
            own[structure.atoms.of[slot.labels]] = True
    return [i for i, group in enumerate(groups) if own[group.atoms].any()]
