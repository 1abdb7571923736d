"""Configs for rebuilding layers: the classes and functions that they need, without what belongs to the old sizes."""

import contextlib
import inspect
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from distill._keras import MARK, SafeModeScope, flatten_layers


def layers_in(operation: Any) -> list[keras.Layer]:
    """The layers inside a layer; none in an operation."""
    return flatten_layers(operation, include_self=False) if isinstance(operation, keras.Layer) else []


@contextlib.contextmanager
def naming(old: Any) -> Iterator[None]:
    """Around Keras' work with a config: names the layer if that fails."""
    try:
        with (
            SafeModeScope(False),  # the user's own model may hold a Lambda
            keras.saving.CustomObjectScope(own_of(old)),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
            yield
    except Exception as error:  # a layer's code may raise anything
        raise ValueError(
            "Every layer must be made from its config to build a smaller model. Received: "
            f"{old.name!r}, a {type(old).__name__}, which cannot be. {_advice(old)} Keras says: {error}"
        ) from error


def _advice(old: Any) -> str:
    if _is_foreign(old):
        return "Implement its get_config and from_config."
    own = {type(part).__name__ for part in layers_in(old) if _is_foreign(part)}
    own |= {
        one.__name__
        for one in vars(old).values()
        if inspect.isfunction(one) and not _is_known(one.__module__)
    }
    if own:
        return f"Implement get_config and from_config of what is your own in it: {', '.join(sorted(own))}."
    return (
        "This is a fault of Keras, which cannot load a saved model with this layer either. Leave the layer out of the "
        "model; if it augments images, call it in the data's pipeline."
    )


def own_of(one: Any) -> dict[str, Any]:
    """The user's own classes and functions in a layer, an optimizer or a metric, by name."""
    parts = flatten_layers(one) if isinstance(one, keras.Layer) else [one]
    found = [value for part in parts for value in vars(part).values()]
    return {
        **{type(value).__name__: type(value) for value in found if _is_foreign(value)},
        **{value.__name__: value for value in found if isinstance(value, types.FunctionType)},
    }


def _is_foreign(value: Any) -> bool:
    """Whether the class of a value is the user's own."""
    return not _is_known(type(value).__module__)


def _is_known(module: str) -> bool:
    return module.startswith(("keras.", "builtins", "numpy", "tensorflow"))


def may_need_own_dtype(operation: Any) -> bool:
    """Whether you have to run an operation to learn if it computes in another floating-point type.

    This is so if the operation, a layer in it, or a function of theirs does not come from Keras or keras_hub, and for
    the one Keras layer that brings constants in float32.
    """
    parts = [operation, *layers_in(operation)]
    if any(isinstance(part, keras.layers.MelSpectrogram) for part in parts):
        return True
    functions = [value for part in parts for value in vars(part).values() if inspect.isfunction(value)]
    modules = [type(part).__module__ for part in parts] + [one.__module__ for one in functions]
    return any(not module.startswith(("keras.", "keras_hub.")) for module in modules)


def without_arrays(config: Any) -> Any:
    """A config in which no weight starts as an array, which would have the old size; the values are copied later."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(without_arrays, config))
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "Constant" and not isinstance(config["config"]["value"], (int, float)):
        return {"class_name": "Zeros", "module": "keras.initializers", "config": {}, "registered_name": None}
    return {key: without_arrays(value) for key, value in config.items()}


def config_of(old: Any) -> Any:
    """The config of a layer or operation, from which one like it can be made with other sizes."""
    if not type(old).__module__.startswith("keras_hub."):
        return _unbuilt(old.get_config())
    # Some configs of keras_hub lack arguments or have too many. Each argument is kept in an attribute of its name.
    names = [name for name in inspect.signature(type(old).__init__).parameters if name in vars(old)]
    base = keras.Layer.get_config(old)
    return {**base, **{name: getattr(old, name) for name in names}}


def _unbuilt(config: Any) -> Any:
    """A config without the instructions to build the layers inside it for their old inputs."""
    if isinstance(config, (list, tuple)):
        return type(config)(map(_unbuilt, config))
    if not isinstance(config, dict):
        return config
    return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}


def functions_of(one: Any, config: dict[str, Any]) -> dict[str, Any]:
    """The functions that a layer was made with, by their keys in its config: some cannot be rebuilt from a config."""
    found = {key: getattr(one, key, None) for key in config}
    return {key: value for key, value in found.items() if isinstance(value, types.FunctionType)}


def marks_in(config: Any) -> Iterator[int]:
    """The marks of the layers in a config, without those inside them; see `distill._keras.marking`."""
    if isinstance(config, dict) and MARK in config:
        yield config[MARK]
    elif isinstance(config, (dict, list, tuple)):
        for part in config.values() if isinstance(config, dict) else config:
            yield from marks_in(part)


def with_layers(config: Any, new: Callable[[keras.Layer], Any]) -> Any:
    """A config with new layers in place of those that it holds as they are."""
    if isinstance(config, (list, tuple)):
        return type(config)(with_layers(part, new) for part in config)
    if isinstance(config, dict):
        return {key: with_layers(value, new) for key, value in config.items()}
    return new(config) if isinstance(config, keras.Layer) else config
