"""Selectors: how a user says which layers are meant, by name, by type or by a function."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import keras

# A layer's name or path with shell wildcards, a layer type, or a function of a layer that returns a bool.
Selector = str | type[keras.Layer] | Callable[[keras.Layer], bool]
# What `include=` and `exclude=` take.
Selectors = Selector | Sequence[Selector] | None


def as_selectors(name: str, given: Selectors) -> list[Selector]:
    """Returns what was given for the argument `name` as a list.

    Raises:
        TypeError: something in it is not a selector.
    """
    if given is None:
        return []
    selectors: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    for selector in selectors:
        is_type = isinstance(selector, type) and issubclass(selector, keras.Layer)
        known = isinstance(selector, str) or is_type
        if not known and (isinstance(selector, (type, keras.Layer)) or not callable(selector)):
            raise TypeError(
                f"{name} must be layer names, layer types, functions of a layer, or a list of these. Received: "
                f"{selector!r}."
            )
    return selectors


def fits(selector: Selector, path: str, layer: keras.Layer) -> bool:
    """Whether a selector matches a layer."""
    if isinstance(selector, str):
        return fnmatchcase(path, selector) or fnmatchcase(layer.name, selector)
    if isinstance(selector, type):
        return isinstance(layer, selector)
    return bool(selector(layer))
