"""Read a stored architecture as a complete config of Keras 3, without building it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from distill._keras import Functional, operation_modules
from distill._types import Config
from distill.files._legacy import modern
from distill.files._stored import Stored


def understood(stored: Stored) -> Config:
    """The architecture of a file as `complete` returns it.

    Raises:
        ValueError: the file has no architecture, or one that cannot be read.
    """
    if stored.config is None:
        raise ValueError(
            f"A model cannot be loaded without its architecture. Received: {stored.source}, a file of weights. Build "
            "the model and use distill.load_weights, or pass the JSON that model.to_json wrote, and this file as "
            "weights."
        )
    old = str(stored.version).startswith(("1.", "2.")) if stored.version else "module" not in stored.config
    with making_sense(stored.source):
        return complete(modern(stored.config) if old else stored.config)


@contextlib.contextmanager
def making_sense(source: str) -> Iterator[None]:
    """Raise ValueError if a config turns out to have another form than Keras'.

    Args:
        source: name of the file in the error.
    """
    try:
        yield
    except (AttributeError, KeyError, IndexError, RecursionError, StopIteration, TypeError) as error:
        raise ValueError(
            f"The architecture cannot be read. Received: {source}: {type(error).__name__}: {error}."
        ) from error


def complete(config: Any, key: str = "") -> Any:
    """Add the module of every object to a config, which those of ".h5" files lack, and drop how models are compiled.

    Args:
        config: config of a model, or a part of one.
        key: name of the setting that holds this part.
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
    # Some operations and layers share a name, such as Add. Only layers can be trainable.
    if operations and "trainable" not in config:
        return operations[0].__name__
    return "keras.layers"
