"""Translate architectures stored by Keras 1 and 2 into those of Keras 3."""

from collections.abc import Callable
from typing import Any

import keras

from distill._types import Config
from distill.files import _keras2_layers as _keras2_layers  # which registers them

# Settings that Keras 3 no longer has -> the value that loses nothing when it is dropped, or ... if any value does.
_NO_KERNEL = {"groups": 1, "kernel_initializer": ..., "kernel_regularizer": ..., "kernel_constraint": ...}
_RNN = {"time_major": False, "implementation": ...}
_RANDOM = {"rng_type": ...}
_OF_WHOLE_MAPS = {"trainable": ..., "noise_shape": ...}  # the shape was chosen by the class
_GONE: dict[str, dict[str, Any]] = {
    "ConvLSTM1D": _RNN,
    "ConvLSTM2D": _RNN,
    "ConvLSTM3D": _RNN,
    "Discretization": {"trainable": ...},
    "RandomBrightness": _RANDOM,
    "RandomContrast": _RANDOM,
    "RandomCrop": _RANDOM,
    "RandomFlip": _RANDOM,
    "RandomRotation": _RANDOM,
    "RandomTranslation": _RANDOM,
    "RandomZoom": _RANDOM,
    "Conv1DTranspose": {"groups": 1},
    "Conv2DTranspose": {"groups": 1},
    "Conv3DTranspose": {"groups": 1},
    "DepthwiseConv1D": _NO_KERNEL,
    "DepthwiseConv2D": _NO_KERNEL,
    "Embedding": {"input_length": ..., "activity_regularizer": None},
    "GRU": _RNN,
    "GRUCell": _RNN,
    "InputLayer": {"ragged": False},
    "LSTM": _RNN,
    "LSTMCell": _RNN,
    "Lambda": {"module": ..., "function_type": ..., "output_shape_type": ..., "output_shape_module": ...},
    "MultiHeadAttention": {
        "query_shape": ...,
        "key_shape": ...,
        "value_shape": ...,
        "softmax_robust_masking": False,
    },
    "RNN": _RNN,
    "SeparableConv1D": _NO_KERNEL,
    "SeparableConv2D": _NO_KERNEL,
    "SimpleRNN": _RNN,
    "SimpleRNNCell": _RNN,
    "SpatialDropout1D": _OF_WHOLE_MAPS,
    "SpatialDropout2D": _OF_WHOLE_MAPS,
    "SpatialDropout3D": _OF_WHOLE_MAPS,
}
_RENAMED = {
    "InputLayer": ("batch_input_shape", "batch_shape"),
    "LeakyReLU": ("alpha", "negative_slope"),
    "ThresholdedReLU": ("theta", "threshold"),
}
# Classes that in Keras 3 are a special case of another class, or behave differently -> the class that does the same,
# and the settings that make it so.
_REPLACED: dict[str, tuple[str, Config]] = {
    "RandomCrop": ("distill>ResizingRandomCrop", {}),
    "BatchNormalizationV1": ("BatchNormalization", {}),
    "SyncBatchNormalization": ("BatchNormalization", {"synchronized": True}),
    "ThresholdedReLU": ("ReLU", {}),
}
_LOST = (
    *("CuDNNGRU", "CuDNNLSTM", "LocallyConnected1D", "LocallyConnected2D"),
    *("RadialConstraint", "RandomHeight", "RandomWidth"),
)
_RECURRENT = ("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")

_EXPORT = "Load the model with tf_keras and export it (model.export(folder)): as a SavedModel it can teach."
_MODELS = ("Model", "Functional", "Sequential")


def modern(config: Config) -> Config:
    """Translate an architecture to Keras 3.

    Args:
        config: config of a model, as a Keras before version 3 stored it; it is not changed.

    Returns:
        The config of the same model in Keras 3.

    Raises:
        ValueError: a layer has a setting that Keras 3 lacks.
    """
    names = _names_with_slashes(config)
    new = _each_object(_mapped(config, lambda value: names.get(value, value)), _object)
    return {**new, "build_config": config["build_config"]} if "build_config" in config else new


def _names_with_slashes(config: Any) -> dict[Any, str]:
    """Names of layers with slashes, which Keras 3 does not allow -> the same names with underscores."""
    if isinstance(config, list):
        return {old: new for part in config for old, new in _names_with_slashes(part).items()}
    if not isinstance(config, dict):
        return {}
    found = {old: new for part in config.values() for old, new in _names_with_slashes(part).items()}
    name = config.get("name")
    return {**found, name: name.replace("/", "_")} if isinstance(name, str) and "/" in name else found


def _mapped(config: Any, change: Callable[[Any], Any]) -> Any:
    """A config with every string changed."""
    if isinstance(config, list):
        return [_mapped(part, change) for part in config]
    if isinstance(config, dict):
        return {key: _mapped(part, change) for key, part in config.items()}
    return change(config) if isinstance(config, str) else config


def _each_object(config: Any, change: Callable[[Config], Config]) -> Any:
    """A config with every object in it changed, from the outermost in."""
    if isinstance(config, list):
        return [_each_object(part, change) for part in config]
    if not isinstance(config, dict):
        return config
    if isinstance(config.get("class_name"), str) and "config" in config:
        config = change(config)
    return {key: _each_object(part, change) for key, part in config.items()}


def _object(old: Config) -> Config:
    # Layers are built when they are called, and some cannot read the older form of this entry.
    old = {key: part for key, part in old.items() if key != "build_config"}
    name, config = old["class_name"], old["config"]
    if name == "Sequential":
        return {**old, "module": None, "config": _sequential(config)}
    if name in ("Model", "Functional") and "layers" in config:
        return {**old, "module": None, "class_name": "Functional", "config": _functional(config)}
    if not isinstance(config, dict) or keras.saving.get_registered_object(name) is not None:
        return old
    if name in _LOST:
        raise ValueError(
            f"Keras 3 has no {name}. Received: {config.get('name', name)!r}. {_EXPORT} "
            f"Or write the class yourself, and pass custom_objects={{{name!r}: {name}}}."
        )
    new = {**old, "config": _settings(name, config)}
    if name in _REPLACED:
        kind, case = _REPLACED[name]
        known = kind if ">" in kind else None
        new |= {"class_name": kind.rpartition(">")[2], "module": None, "registered_name": known}
        new["config"] = {**new["config"], **case}
    return new


def _settings(name: str, config: Config) -> Config:
    """The settings of a layer."""
    config = dict(config)
    for key, harmless in _GONE.get(name, {}).items():
        value = config.pop(key, harmless)
        if harmless is not ... and value != harmless:
            raise ValueError(
                f"{name} has no setting {key} in Keras 3. Received: {config.get('name', name)!r} with {key}={value!r}. "
                f"{_EXPORT}"
            )
    if "name" not in config and isinstance(vars(keras.initializers).get(name), type):
        config.pop("dtype", None)  # which TensorFlow 1 stored with initializers
    old, new = _RENAMED.get(name, ("", ""))
    if old in config:
        config[new] = config.pop(old)
    for key, value in config.items():
        if key.endswith("activation") and value == "hard_sigmoid":
            stored = {"class_name": "function", "config": "distill>hard_sigmoid"}
            config[key] = {**stored, "module": "builtins", "registered_name": "distill>hard_sigmoid"}
    config.pop("batch_input_shape", None)  # `_sequential` reads it
    if "BatchNormalization" in name and isinstance(config.get("axis"), list):
        (config["axis"],) = config["axis"]
    if name in ("GRU", "GRUCell"):
        config.setdefault("reset_after", False)  # what every GRU did before there was a choice
    if isinstance(config.get("dtype"), dict) and config["dtype"]["class_name"] == "Policy":
        config["dtype"] = config["dtype"]["config"]["name"]
    if name == "Lambda" and isinstance(config.get("function"), list):
        code, defaults, closure = config["function"]
        stored = {"code": code, "defaults": defaults, "closure": closure}
        config["function"] = {"class_name": "__lambda__", "config": stored}
    return config


def _sequential(config: Any) -> Config:
    """The settings of a Sequential, with an InputLayer where the first layer held the shape of the inputs."""
    if isinstance(config, list):  # up to Keras 2.2.2
        config = {"name": None, "layers": config}
    config = dict(config)
    shape = _input_shape(config) or config.get("build_input_shape")
    config.pop("build_input_shape", None)
    if shape is not None and config["layers"][0]["class_name"] != "InputLayer":
        config["layers"] = [{"class_name": "InputLayer", "config": {"batch_shape": shape}}, *config["layers"]]
    return config


def _input_shape(config: Any) -> Any:
    """The shape of the inputs of a layer, or of a model's first layer; `None` if it is not stored."""
    layers = config if isinstance(config, list) else config.get("layers")
    if layers is not None:
        return _input_shape(layers[0]["config"])
    return config.get("batch_input_shape", config.get("batch_shape"))


def _functional(config: Config) -> Config:
    """The settings of a Functional, with calls as Keras 3 writes them."""
    names = {layer["name"] for layer in config["layers"]}
    # Keras 2 numbered the calls of a model with known inputs from 1. Keras 3 numbers them from 0, except where a
    # Functional is an output.
    models = {layer["name"]: layer["class_name"] for layer in config["layers"] if _has_input(layer)}

    def history(name: str, call: int, output: int) -> list[Any]:
        return [name, call - 1 if name in models else call, output]

    def tensors(value: Any) -> Any:
        if (
            isinstance(value, list)
            and len(value) in (3, 4)
            and isinstance(value[0], str)
            and value[0] in names
        ):
            stored = {"shape": [1], "dtype": "float32", "keras_history": history(*value[:3])}
            return {"class_name": "__keras_tensor__", "config": stored}
        if isinstance(value, list):
            return [tensors(part) for part in value]
        return {key: tensors(part) for key, part in value.items()} if isinstance(value, dict) else value

    def call(layer: Config, node: Any) -> Config:
        arguments = [tensors(node[0] if isinstance(node, list) and len(node) == 1 else node)]
        named = tensors(_settings_of_call(node))
        if named.get("constants", ...) is None:  # Bidirectional passed it on
            del named["constants"]
        if layer["class_name"] in _RECURRENT and len(node) > 1:
            arguments, named["initial_state"] = arguments[0][:1], arguments[0][1:]
        return {"args": arguments, "kwargs": named}

    def ends(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ends(part) for key, part in value.items()}
        if isinstance(value[0], str):
            return history(*value) if models.get(value[0]) == "Sequential" else value
        return ends(value[0]) if len(value) == 1 else [ends(part) for part in value]

    layers = [
        {**layer, "inbound_nodes": [call(layer, node) for node in layer["inbound_nodes"]]}
        for layer in config["layers"]
    ]
    inputs, outputs = ends(config["input_layers"]), ends(config["output_layers"])
    return {**config, "layers": layers, "input_layers": inputs, "output_layers": outputs}


def _settings_of_call(node: Any) -> Config:
    """The arguments of a call by name, of which Keras 2 stored a copy with each tensor."""
    if isinstance(node, dict):
        node = list(node.values())
    if not node:
        return {}
    if isinstance(node[0], str):
        return node[3] if len(node) == 4 else {}
    return _settings_of_call(node[0])


def _has_input(layer: Config) -> bool:
    return layer["class_name"] in _MODELS and _input_shape(layer["config"]) is not None
