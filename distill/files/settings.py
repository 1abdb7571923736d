"""What two architectures do differently where their weights have the same shapes."""

import math
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

from distill.files.fitting import Difference
from distill.files.legacy import Config

# What changes no answer of a trained model, or goes by other names in other versions.
_IRRELEVANT = (
    "name",
    "trainable",
    "dtype",
    "rate",
    "momentum",
    "seed",
    "stateful",
    "unroll",
    "quantization_config",
)
_IN_TRAINING = ("initializer", "regularizer", "constraint", "_clipping", "_momentum")

_MODES = ("training", "mask")  # arguments of calls that are no inputs

_OTHER_NAMES = {"swish": "silu", "hard_swish": "hard_silu"}


class _Layer(NamedTuple):
    name: str
    kind: str
    settings: dict[str, Any]
    inputs: (
        list[tuple[str, int]] | None
    )  # names of layers, with which of their outputs; numbers in their place
    trainable: bool


def setting_differences(
    expected: Config, found: Config, named: Set[str | None], legacy: bool
) -> list[Difference]:
    """Layers of another kind, settings of another value, and layers that are called on others.

    Args:
        expected: config of a model, see `architectures.complete`.
        found: of the model in a file; settings that only one of them knows are passed by, as versions of Keras
            have other ones.
        named: layers whose weights were paired by name, and so are they; the others are paired by their order.
        legacy: whether the file is in the older layout, where the weights of a model inside the model lie in an order
            that depends on which of its layers are trained.

    Returns:
        Nothing where the two are of one architecture, or where the layers of one cannot be known.
    """
    ours, theirs = list(_layers(expected)), list(_layers(found))
    if not ours or not theirs:
        return []
    rows = []
    known = {layer.name: layer for layer in theirs}
    if len(ours) != len(theirs):
        rows.append(Difference("(the model)", "layers", str(len(ours)), str(len(theirs))))
        pairs = [(layer, known[layer.name]) for layer in ours if layer.name in known]
    else:
        fixed = {name for name in known if not named.isdisjoint((name, name.split("/")[0]))}
        fixed &= {layer.name for layer in ours}
        rest = (layer for layer in theirs if layer.name not in fixed)
        pairs = [(layer, known[layer.name] if layer.name in fixed else next(rest)) for layer in ours]
    names = {there.name: here.name for here, there in pairs}
    if legacy:
        rows += [
            Difference(here.name, "trainable", str(here.trainable), str(there.trainable))
            for here, there in pairs
            if "/" in here.name and here.trainable != there.trainable
        ]
    for here, there in pairs:
        if here.kind != there.kind:
            rows.append(Difference(here.name, "layer", here.kind, there.kind))
            continue
        rows += [
            Difference(here.name, key, str(value), str(there.settings[key]))
            for key, value in here.settings.items()
            if key in there.settings and not _same(value, there.settings[key], axis=key in ("axis", "axes"))
        ]
        if here.inputs is not None and there.inputs is not None:
            inputs = [(names.get(name, name), output) for name, output in there.inputs]
            if inputs != here.inputs:
                rows.append(Difference(here.name, "called on", _said(here.inputs), _said(inputs)))
    return rows


def _layers(config: Config, above: str = "") -> Iterator[_Layer]:
    """The layers of a Sequential or Functional, those of models in it among them, inputs apart."""
    layers = config["config"].get("layers", [])
    entries = {layer["config"].get("name"): layer["class_name"] == "InputLayer" for layer in layers}

    def named(source: str) -> str:
        if source not in entries:
            return source  # a number
        return "(an input)" if entries[source] else f"{above}{source}"

    for layer in layers:
        name = f"{above}{layer['config'].get('name')}"
        if "layers" in layer["config"]:
            yield from _layers(layer, f"{name}/")
        elif layer["class_name"] != "InputLayer":
            calls = layer.get("inbound_nodes")
            inputs = None if calls is None else [(named(n), output) for n, output in _sources(calls)]
            trainable = layer["config"].get("trainable", True)
            yield _Layer(name, layer["class_name"], _relevant(layer["config"]), inputs, trainable)


def _sources(calls: Any) -> Iterator[tuple[str, int]]:
    """What a layer is called on: names of layers with which of their outputs, and numbers."""
    if isinstance(calls, dict) and "keras_history" in calls:
        name, _, output = calls["keras_history"]
        yield name, output
    elif isinstance(calls, dict | list):
        for part in (v for k, v in calls.items() if k not in _MODES) if isinstance(calls, dict) else calls:
            yield from _sources(part)
    elif isinstance(calls, int | float):
        yield repr(float(calls)), 0


def _said(inputs: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name}[{output}]" if output else name for name, output in inputs)


def _relevant(config: Config) -> dict[str, Any]:
    return {
        key: _plain(key, value)
        for key, value in config.items()
        if key not in _IRRELEVANT and not key.endswith(_IN_TRAINING)
    }


def _plain(key: str, value: Any) -> Any:
    """A setting without what says where its class is from."""
    if isinstance(value, dict) and "class_name" in value:
        inner = value["config"]
        if value["class_name"] == "function":
            return _plain(key, inner)
        return [value["class_name"], _relevant(inner) if isinstance(inner, dict) else inner]
    return _OTHER_NAMES.get(value, value) if isinstance(value, str) else value


def _same(one: Any, other: Any, *, axis: bool = False) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            _same(*pair, axis=axis) for pair in zip(one, other, strict=True)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one[key], other[key]) for key in one.keys() & other.keys())
    if isinstance(one, float) or isinstance(other, float):
        return (
            isinstance(one, float | int)
            and isinstance(other, float | int)
            and math.isclose(one, other, rel_tol=1e-6)
        )
    if axis and isinstance(one, int) and isinstance(other, int) and (one < 0) != (other < 0):
        return True  # counted from the front or the back
    return one == other
