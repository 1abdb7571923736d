"""Looking at a model leaves it as it was: its variables and attributes, and the random generators of the process."""

import contextlib
import operator
import random
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from distill._keras import flatten_layers, global_seeds, set_global_seeds, tracker_of

_CONTAINERS = (dict, list, set)


@contextlib.contextmanager
def untouched(model: keras.Model) -> Iterator[None]:
    """Runs a model without a trace: it computes with what it assigns to its variables, and then that is forgotten.

    Layers made in here would have no values: make them before.
    """
    with same_attributes(model), same_randomness(), keras.StatelessScope():
        yield


@contextlib.contextmanager
def same_attributes(model: keras.Model) -> Iterator[None]:
    """Puts back the attributes of a model and its layers: losses, compiled functions, flags, what a `call` keeps."""
    restore = [
        _kept(vars(owner))
        for layer in flatten_layers(model)
        for owner in (layer, tracker_of(layer))
        if owner is not None
    ]
    try:
        yield
    finally:
        for put_back in restore:
            put_back()


def _kept(container: Any) -> Callable[[], None]:
    """How to put back what a dictionary, list or set holds now, and the containers in it."""
    container = getattr(container, "__wrapped__", container)  # TensorFlow wraps the dictionaries of layers
    kind: Any = next(kind for kind in _CONTAINERS if isinstance(container, kind))
    content = kind(container)
    parts = content.values() if isinstance(content, dict) else content
    restore = [_kept(part) for part in parts if isinstance(part, _CONTAINERS)]
    if hasattr(container, "__dict__"):  # in which TensorFlow's lists keep what they hold
        restore.append(_kept(vars(container)))

    def put_back() -> None:
        for each in restore:
            each()
        if not _holds(container, content):
            # By the class itself: Keras' own containers would track what is put back.
            kind.clear(container)
            (kind.extend if kind is list else kind.update)(container, content)

    return put_back


def _holds(container: Any, content: Any) -> bool:
    """Whether a container holds these very objects."""
    if isinstance(content, dict):
        return container.keys() == content.keys() and all(container[key] is content[key] for key in content)
    return len(container) == len(content) and all(map(operator.is_, container, content))


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """Puts back the random generators of Python, numpy and Keras, from which new layers take their seeds too."""
    python, numpy, seeds = random.getstate(), np.random.get_state(), global_seeds()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        set_global_seeds(seeds)


def recurrent_states(layer: keras.Layer) -> list[keras.Variable]:
    """The states that stateful recurrent layers keep from batch to batch, which are not among their variables."""
    found = [
        one.states for one in flatten_layers(layer) if isinstance(one, keras.layers.RNN) and one.stateful
    ]
    return [state for state in keras.tree.flatten(found) if isinstance(state, keras.Variable)]
