"""Build a stored architecture, and take memory for its weights only once the file is known to hold them."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import keras

from distill._keras import (
    ObjectSharingScope,
    initialize_all_variables,
    set_uninitialized_variables,
    uninitialized_variables,
)
from distill._types import Config
from distill.files._guards import guarded


@contextlib.contextmanager
def planned(config: Config, source: str, *, held: int, trust: bool) -> Iterator[keras.Model]:
    """Build a model whose weights have shapes and no memory; `allocate` gives it to them, within the block.

    Models of a registered class, and those that keep states between batches, may take memory at once. The file is then
    checked first, with `require_held`.

    Args:
        config: config as `complete` returns it.
        source: name of the file in errors.
        held: how many numbers the file has for weights.
        trust: whether code in the config may run.

    Raises:
        ValueError: the model cannot be built.
    """
    waiting = uninitialized_variables()
    set_uninitialized_variables([])
    try:
        if _stateless(config) != config:
            model = _held(config, source, held, trust)  # Keras makes states with their values
        else:
            try:
                model = _plan(config, source, held, trust)
            except ValueError:
                # A class that is not Keras' own may need values when it is made, as tasks of keras_hub do.
                if keras.saving.get_registered_object(config.get("registered_name")) is None:
                    raise
                model = _held(config, source, held, trust)
        yield model
    finally:
        # The variables of a refused model must never be made, and Keras would do so on the next occasion.
        set_uninitialized_variables(waiting)


allocate = initialize_all_variables


def require_held(config: Config, source: str, *, held: int, trust: bool) -> None:
    """Raise ValueError if a model has more weights than its file.

    Args:
        config: config of a model with states, or of a registered class. Such a class may compile itself when it is
            made, as tasks of keras_hub do. Its optimizer would take memory, so this is prevented.
        source: name of the file in errors.
        held: how many numbers the file has for weights.
        trust: whether code in the config may run.
    """
    name = config.get("registered_name")
    kind = keras.saving.get_registered_object(name)
    quiet = {} if kind is None else {name: type(kind.__name__, (kind,), {"compile": _not_compiled})}
    with keras.saving.custom_object_scope(quiet):
        try:
            model = _plan(_stateless(config), source, held, trust)
        except ValueError:
            if kind is None:
                raise
            return  # a class of the caller's that needs values: they are counted as it makes them
    count = model.count_params()
    if count > held:
        raise ValueError(
            f"A file must hold all weights of its model. Received: {source} with {held:,} numbers, where "
            f"{config['class_name']} has {count:,}. Nothing was allocated."
        )


def _plan(config: Config, source: str, held: int, trust: bool) -> keras.Model:
    with guarded(source, held), keras.StatelessScope(initialize_variables=False), ObjectSharingScope():
        return _built(config, source, trust)


def _held(config: Config, source: str, held: int, trust: bool) -> keras.Model:
    """A model with values, made once it is known that the file holds as many."""
    require_held(config, source, held=held, trust=trust)
    set_uninitialized_variables([])
    with guarded(source, held), ObjectSharingScope():
        return _built(config, source, trust)


def _built(config: Config, source: str, trust: bool) -> keras.Model:
    try:
        # Keras takes configs apart as it goes.
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=not trust)
    except Exception as error:
        cause = str(error).rpartition("Exception encountered:")[2].strip()  # the innermost of Keras' reports
        raise ValueError(
            f"Keras cannot build the stored architecture. Received: {source}: {type(error).__name__}: {cause}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"The file must hold a model. Received: {source}, with a {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"A stored model must know the shape of its inputs. Received: {source}, which does not. Build the model in "
            "Python, call it on an example, and use distill.load_weights."
        )
    return model


def _not_compiled(self: keras.Model, *args: Any, **kwargs: Any) -> None:
    """Stand-in for `compile` that does nothing."""


def _stateless(config: Any) -> Any:
    """A config in which no recurrent layer keeps its states between batches."""
    if isinstance(config, list):
        return [_stateless(part) for part in config]
    if not isinstance(config, dict):
        return config
    return {key: False if key == "stateful" else _stateless(part) for key, part in config.items()}
