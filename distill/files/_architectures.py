"""From a stored architecture to a model: understood first, built without memory for its weights, filled last."""

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import keras

from distill._keras import (
    Functional,
    ObjectSharingScope,
    compute_output_spec,
    flatten_layers,
    initialize_all_variables,
    operation_modules,
    set_uninitialized_variables,
    uninitialized_variables,
)
from distill.files._bounds import require_proportion
from distill.files._legacy import Config, modern
from distill.files._stored import Stored


def understood(stored: Stored) -> Config:
    """The architecture of a file in the words of Keras 3, see `complete`; nothing is built.

    Raises:
        ValueError: there is none, or it makes no sense.
    """
    if stored.config is None:
        raise ValueError(
            f"Weights need an architecture. Received: {stored.source}, a file of weights. Build the model and use "
            "distill.load_weights, or pass the JSON that model.to_json wrote, and this file as weights."
        )
    old = str(stored.version).startswith(("1.", "2.")) if stored.version else "module" not in stored.config
    with making_sense(stored.source):
        return complete(modern(stored.config) if old else stored.config)


@contextlib.contextmanager
def making_sense(source: str) -> Iterator[None]:
    """Raises ValueError where a config proves to be of another form than Keras'."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, RecursionError, StopIteration, TypeError) as error:
        raise ValueError(
            f"This architecture cannot be read. Received: {source}: {type(error).__name__}: {error}."
        ) from error


def complete(config: Any, key: str = "") -> Any:
    """A config in which every object says what module it is of, which those of ".h5" files do not.

    How a model is compiled is left out: it is no part of what it answers.
    """
    if isinstance(config, list):
        return [complete(part, key) for part in config]
    if not isinstance(config, dict):
        return config
    config = {name: complete(part, name) for name, part in config.items() if name != "compile_config"}
    name = config.get("class_name")
    if isinstance(name, str) and "config" in config and not config.get("module"):
        registered = config.get("registered_name") or name
        known = keras.saving.get_registered_object(registered) is not None
        return {
            **config,
            "module": None if known else _module_of(name, key, config["config"]),
            "registered_name": registered if known else None,
        }
    return config


def _module_of(name: str, key: str, config: Any) -> str | None:
    for ending in ("initializer", "regularizer", "constraint"):
        if key.endswith(ending):
            return f"keras.{ending}s"
    if name.startswith("__"):
        return None
    if key == "dtype":
        return "keras"
    if name in (kinds := {"Functional": Functional, "Sequential": keras.Sequential}):
        return kinds[name].__module__
    operations = [module for module in operation_modules() if isinstance(vars(module).get(name), type)]
    # The sum of two tensors and the layer that adds have one name; only layers can be trained.
    if operations and "trainable" not in config:
        return operations[0].__name__
    return "keras.layers"


@contextlib.contextmanager
def planned(config: Config, trust: bool, source: str, held: int) -> Iterator[keras.Model]:
    """A model whose weights have shapes and no memory; `allocate` gives it to them, within the block.

    Only models of a class that is not Keras' own, and those that keep states between batches, may take memory at once,
    after what they hold was looked at.

    Args:
        config: see `complete`.
        trust: whether code in the config may run.
        source: how errors call it.
        held: how many numbers the file has for weights.

    Raises:
        ValueError: it cannot be built.
    """
    waiting = uninitialized_variables()
    set_uninitialized_variables([])
    try:
        if _stateless(config) != config:
            model = _held(config, trust, source, held)  # a plan would compute the states, which may be huge
        else:
            try:
                model = _planned(config, trust, source)
            except ValueError:
                # A class that is not Keras' own may want values when it is made, as tasks of keras_hub do.
                if keras.saving.get_registered_object(config.get("registered_name")) is None:
                    raise
                model = _held(config, trust, source, held)
        yield model
    finally:
        # Those of a model that was refused must never be made: Keras would do so on the next occasion.
        set_uninitialized_variables(waiting)


allocate = initialize_all_variables


def _held(config: Config, trust: bool, source: str, held: int) -> keras.Model:
    """A model with values, made once it is known that the file holds as much."""
    require_held(config, trust, source, held)
    set_uninitialized_variables([])
    with ObjectSharingScope():
        return _built(config, trust, source)


def _planned(config: Config, trust: bool, source: str) -> keras.Model:
    with keras.StatelessScope(initialize_variables=False), ObjectSharingScope():
        return _built(config, trust, source)


def require_held(config: Config, trust: bool, source: str, held: int) -> None:
    """Raises ValueError where a model has more weights than its file, or states far larger than them.

    Args:
        config: of a model with states, or of a registered class, which may compile itself when it is made, as tasks of
            keras_hub do: then its optimizer takes memory, which a plan must not.
        trust: whether code in the config may run.
        source: how errors call it.
        held: how many numbers the file has for weights.
    """
    name = config.get("registered_name")
    kind = keras.saving.get_registered_object(name)
    quiet = {} if kind is None else {name: type(kind.__name__, (kind,), {"compile": _not_compiled})}
    with keras.saving.custom_object_scope(quiet):
        try:
            model = _planned(_stateless(config), trust, source)
        except ValueError:
            if kind is None:
                raise
            return  # a class of the caller's that makes variables in its own way
    count = model.count_params()
    if count > held:
        raise ValueError(
            f"A file holds the weights of its model. Received: {source} with {held:,} numbers, where "
            f"{config['class_name']} has {count:,}. Nothing was allocated."
        )
    require_proportion(4 * _states_of(model), 4 * held, source)


def _not_compiled(self: Any, *args: Any, **kwargs: Any) -> None:
    """In place of `compile`."""


def _stateless(config: Any) -> Any:
    """A config in which no recurrent layer keeps its states between batches."""
    if isinstance(config, list):
        return [_stateless(part) for part in config]
    if not isinstance(config, dict):
        return config
    return {key: False if key == "stateful" else _stateless(part) for key, part in config.items()}


def _states_of(model: keras.Model) -> int:
    """How many numbers the recurrent layers of a model keep between batches, if all of them do."""
    return sum(_state_of(layer) for layer in flatten_layers(model) if isinstance(layer, keras.layers.RNN))


def _state_of(layer: keras.layers.RNN) -> int:
    built = layer.get_build_config() or {}
    shape = built.get("input_shape") or built.get("shapes_dict", {}).get("sequences_shape")
    if shape is None or None in (shape[0], *shape[2:]):
        return 0  # Keras refuses to keep states whose size it does not know
    states = compute_output_spec(lambda: layer.get_initial_state(shape[0]))
    return sum(math.prod(state.shape) for state in keras.tree.flatten(states))


def _built(config: Config, trust: bool, source: str) -> keras.Model:
    try:
        # Keras takes configs apart as it goes.
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=not trust)
    except Exception as error:
        cause = str(error).rpartition("Exception encountered:")[2].strip()  # the innermost of Keras' reports
        raise ValueError(
            f"Keras cannot build what is stored. Received: {source}: {type(error).__name__}: {cause}"
        ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"A file holds a model. Received: {source}, with a {type(model).__name__}.")
    if not model.built:
        raise ValueError(
            f"A stored model knows the shape of its inputs. Received: {source}, which does not. Build the model in "
            "Python, call it on an example, and use distill.load_weights."
        )
    return model
