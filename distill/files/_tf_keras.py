"""Models of tf_keras in memory, as if they had been saved."""

from collections.abc import Iterator
from typing import Any

from distill._keras import lookup_of
from distill._types import Config
from distill.files._layouts import LEGACY
from distill.files._parts import Part, Weight
from distill.files._stored import Stored, parsed


def stored_in(model: Any) -> Stored:
    """The content of a model in memory.

    The config also holds what layers have learned by `adapt` and do not keep in weights, such as words.

    Raises:
        ValueError: it is not a model of tf_keras.
    """
    if not any(base.__module__.partition(".")[0] == "tf_keras" for base in type(model).__mro__):
        raise ValueError(f"load_model takes a path or a tf_keras model. Received: {model!r}.")
    source = f"the tf_keras model {model.name!r}"
    config = parsed(model.to_json(), source)
    adapted = set()
    for layer, settings in _layers(model, config):
        if (learned := _learned(layer)) is not None:
            settings.update(learned)
            adapted |= {id(value) for value in layer.weights}
    found = [(layer.name, layer.trainable_weights + layer.non_trainable_weights) for layer in model.layers]
    kept = [(name, [value for value in values if id(value) not in adapted]) for name, values in found]
    parts = {
        str(place): Part(name.replace("/", "_"), {str(i): _weight(value) for i, value in enumerate(values)})
        for place, (name, values) in enumerate((name, values) for name, values in kept if values)
    }
    return Stored(source, config, config["keras_version"], parts, LEGACY)


def _layers(model: Any, config: Config) -> Iterator[tuple[Any, Config]]:
    """The layers of a model and of the models in it, each with its settings."""
    for stored in config["config"].get("layers", []):
        layer = model.get_layer(stored["config"]["name"]) if stored["class_name"] != "InputLayer" else None
        if layer is not None and "layers" in stored["config"]:
            yield from _layers(layer, stored)
        elif layer is not None:
            yield layer, stored["config"]


def _learned(layer: Any) -> Config | None:
    """What a preprocessing layer has learned, as settings; `None` for other layers."""
    kinds = {base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("tf_keras.")}
    if "Discretization" in kinds:
        return {"bin_boundaries": [float(bound) for bound in layer.bin_boundaries or ()]}
    if kinds & {"TextVectorization", "StringLookup", "IntegerLookup"}:
        words = layer.get_vocabulary(include_special_tokens=False)
        lookup = lookup_of(layer) if "TextVectorization" in kinds else layer
        settings: Config = {"vocabulary": [word if isinstance(word, str) else int(word) for word in words]}
        if lookup.output_mode == "tf_idf":
            # The first is that of unknown words, and some at the end may stand for no word.
            weights = lookup.idf_weights.numpy()[lookup.num_oov_indices :]
            settings["idf_weights"] = weights[: len(words)].tolist()
        return settings if words else None
    return None


def _weight(variable: Any) -> Weight:
    return Weight(variable.name.rpartition("/")[2].removesuffix(":0"), tuple(variable.shape), variable.numpy)
