"""Configs for rebuilding layers: the classes and functions that they need, without what belongs to the old sizes."""

import inspect
import types
from typing import Any

import keras

from distill._keras import flatten_layers


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
    return not type(value).__module__.startswith(("keras.", "builtins", "numpy", "tensorflow"))


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


def in_dtype(config: Any, dtype: str) -> Any:
    """A config, with those inside it, that computes in another floating-point type; quantized layers stay quantized."""
    if isinstance(config, (list, tuple)):
        return type(config)(in_dtype(part, dtype) for part in config)
    if not isinstance(config, dict):
        return config
    return {
        key: dtype if key == "dtype" and _is_floating(value) else in_dtype(value, dtype)
        for key, value in config.items()
    }


def _is_floating(dtype: Any) -> bool:
    if isinstance(dtype, dict):
        return dtype["class_name"] == "DTypePolicy"
    return "float" in str(dtype) and "_from_" not in str(dtype)
