"""Check that an architecture can be built without running code that came with it."""

import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import keras

from distill._types import Config
from distill.files._bounds import ALWAYS_ALLOWED

_PLAIN = ("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__slice__", "__ellipsis__")
_PARTS = (
    keras.Operation,
    keras.DTypePolicy,
    keras.InputSpec,
    keras.constraints.Constraint,
    keras.initializers.Initializer,
    keras.quantizers.QuantizationConfig,
    keras.quantizers.Quantizer,
    keras.random.SeedGenerator,
    keras.regularizers.Regularizer,
)
_RUNS_CODE = (
    keras.layers.FlaxLayer,
    keras.layers.JaxLayer,
    keras.layers.Lambda,
    keras.layers.TFSMLayer,
    keras.layers.TorchModuleWrapper,
)
# Settings that are either a list of words or the name of a file to read them from.
_FILES = ("vocabulary", "merges", "special_tokens", "language_tokens", "proto")
_FUNCTIONS = (
    "builtins",  # how Keras stores its own activations and the like, by name
    "keras.activations",
    "keras.constraints",
    "keras.initializers",
    "keras.ops",
    "keras.regularizers",
)

# Settings of lookup layers, which make an object for each.
_NUMBERED = {
    "max_tokens": "places for the frequencies of words",
    "ngrams": "kinds of n-grams",
    "num_oov_indices": "places for unknown words",
}

TRUST = "Pass trust=True if you trust its writer."


def require_safe(config: Any, source: str) -> None:
    """Raise ValueError unless building from a config runs only Keras' own code and that of registered classes.

    Args:
        config: config as `complete` returns it. It is only read; nothing is imported or built.
        source: name of the file in errors.
    """
    if isinstance(config, list):
        for part in config:
            require_safe(part, source)
    if not isinstance(config, dict):
        return
    name = config.get("class_name")
    if name is not None and "config" in config and name not in _PLAIN:
        _require_known(config, source)
    _require_tensors(config.get("inbound_nodes") or (), config.get("name", name), source)
    for key, what in _NUMBERED.items():
        if key == "max_tokens" and not (
            config.get("pad_to_max_tokens") and config.get("output_mode") == "tf_idf"
        ):
            continue  # only then do words that are not there take memory
        if isinstance(config.get(key), int) and config[key] > ALWAYS_ALLOWED:
            raise ValueError(
                f"A lookup layer may have at most {ALWAYS_ALLOWED:,} {what}. Received: {source} with "
                f"{config[key]:,}. {TRUST}"
            )
    for key in _FILES:
        if isinstance(config.get(key), str):
            raise ValueError(
                "A model file must contain the model's words. Received: "
                f"{source}, which would read {key} from {config[key]!r}. {TRUST}"
            )
    if name in ("__numpy__", "__tensor__"):
        _require_numbers(config["config"], source)
    for part in config.values():
        require_safe(part, source)


def import_keras_hub(source: str) -> ModuleType:
    """Import keras_hub, or raise an ImportError that says what needs it.

    Args:
        source: name of the file in the error.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            f"{source} holds a keras_hub model, and keras_hub is not installed. Run: pip install keras-hub"
        ) from error
    return keras_hub


def _require_known(config: Config, source: str) -> None:
    name, module = config["class_name"], config.get("module")
    registered = config.get("registered_name", name)
    label = config["config"] if name == "function" else name
    if name == "__lambda__":
        raise ValueError(_carries_code(source, name))
    if (
        not isinstance(label, str)
        or not isinstance(module, str | None)
        or not isinstance(registered, str | None)
    ):
        raise ValueError(f"Classes must be given by name. Received: {source} with {name!r} of {module!r}.")
    if (module or "").partition(".")[0] == "keras_hub":
        import_keras_hub(source)  # which registers its layers
    if keras.saving.get_registered_object(label if name == "function" else registered) is not None:
        return  # a class of the caller's or of keras_hub
    if name == "function" and module in _FUNCTIONS:
        return
    found = vars(sys.modules[module]).get(label) if _is_keras(module) and module in sys.modules else None
    if isinstance(found, type) and issubclass(found, _RUNS_CODE):
        raise ValueError(_carries_code(source, name))
    if not isinstance(found, type) or not issubclass(found, _PARTS):
        raise ValueError(
            f"A model may consist of Keras' own classes and of yours. Received: {source} with {label!r} of module "
            f"{module!r}, which is neither. If it is yours, pass custom_objects={{{registered or label!r}: {label}}}. "
            "If only TensorFlow can run the model, it can teach as a SavedModel: export it (model.export(folder)) and "
            "load that folder with trust=True."
        )


def _require_tensors(calls: Iterable[Any], name: Any, source: str) -> None:
    for call in calls:
        if not _on_tensors(call):
            raise ValueError(
                "Operations in a model must be called on its tensors. Received: "
                f"{source} with {name!r}, which would compute with constants alone. {TRUST}"
            )


def _on_tensors(call: Any) -> bool:
    if isinstance(call, dict):
        return "keras_history" in call or any(map(_on_tensors, call.values()))
    return isinstance(call, list) and any(map(_on_tensors, call))


def _carries_code(source: str, name: str) -> str:
    return (
        "A file that carries code is not loaded, because the code could do anything. Received: "
        f"{source} with a {name}. {TRUST}"
    )


def _require_numbers(config: Any, source: str) -> None:
    kind = config.get("dtype") if isinstance(config, dict) else None
    if not isinstance(kind, str) or not kind.startswith(("bool", "int", "uint", "float", "bfloat")):
        raise ValueError(
            f"Constants in a model must be numbers. Received: {source} with one of type {kind!r}."
        )


def _is_keras(module: str | None) -> bool:
    return module is not None and (module == "keras" or module.startswith("keras."))
