"""Compare the settings and wiring of two architectures, which their weights do not show."""

import math
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

from distill._types import Config
from distill.files._differences import Difference

# Settings that do not change what a trained model computes, or whose values differ between versions.
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
    "dropout",
    "recurrent_dropout",
    "stddev",
)
_IN_TRAINING = ("initializer", "regularizer", "constraint", "_clipping", "_momentum")

WHOLE, MODEL = "(the model)", "a model"
_MODES = ("training", "mask")  # arguments of calls that are not inputs

_OTHER_NAMES = {"swish": "silu", "hard_swish": "hard_silu"}


class _Layer(NamedTuple):
    """A layer, or a nested model, whose layers follow it.

    Attributes:
        name: name of the layer, preceded by those of the models around it.
        kind: class of the layer.
        settings: its settings by name.
        inputs: layers that it is called on, each with the number of the output, or constants; `None` if unknown.
        outputs: likewise the layers that make a nested model's outputs.
        trainable: its flag.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    inputs: list[tuple[str, int]] | None
    outputs: list[tuple[str, int]] | None
    trainable: bool


def setting_differences(
    expected: Config, found: Config, named: Set[str | None], legacy: bool
) -> list[Difference]:
    """List the layers that have another kind, other settings or other inputs.

    Args:
        expected: config of a model, as `complete` returns it.
        found: config of the model in a file. Settings that only one of the two has are ignored, because they depend on
            the version of Keras.
        named: names of the layers whose weights were matched by name. These layers are compared by name, the others in
            order.
        legacy: whether the file has the older layout, where the order of a nested model's weights depends on which of
            its layers are trainable.

    Returns:
        The differences; none if the architectures agree, or if the layers of one of them are unknown.
    """
    ours, theirs = list(_layers(expected)), list(_layers(found))
    if not ours or not theirs:
        return []
    rows = []
    known = {layer.name: layer for layer in theirs}
    if len(ours) != len(theirs):
        rows.append(Difference(WHOLE, "layers", str(len(ours)), str(len(theirs))))
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
            if "/" in here.name and here.kind != MODEL and here.trainable != there.trainable
        ]
    for here, there in pairs:
        if here.kind != there.kind:
            rows.append(Difference(here.name, "layer", here.kind, there.kind))
            continue
        rows += _value_differences(here, there)
        rows += _wiring_differences(here.name, "called on", here.inputs, there.inputs, names)
        rows += _wiring_differences(here.name, "outputs", here.outputs, there.outputs, names)
    here_ends, there_ends = (_references(config, "output_layers", "") for config in (expected, found))
    # One network may be used with fewer or more outputs. If their number agrees, their order must agree too.
    if len(here_ends or ()) == len(there_ends or ()):
        rows += _wiring_differences(WHOLE, "outputs", here_ends, there_ends, names)
    return rows


def _value_differences(here: _Layer, there: _Layer) -> Iterator[Difference]:
    for key, value in here.settings.items():
        axis = key.rpartition("/")[2] in ("axis", "axes")
        if key in there.settings and not _same(value, there.settings[key], axis=axis):
            yield Difference(here.name, key, str(value), str(there.settings[key]))


def _wiring_differences(
    layer: str,
    what: str,
    here: list[tuple[str, int]] | None,
    there: list[tuple[str, int]] | None,
    names: dict[str, str],
) -> Iterator[Difference]:
    if here is not None and there is not None:
        renamed = [(names.get(name, name), output) for name, output in there]
        if renamed != here:
            yield Difference(layer, what, _listed(here), _listed(renamed))


def _layers(config: Config, above: str = "") -> Iterator[_Layer]:
    """The layers of a Sequential or Functional and of the models in it, except its inputs."""
    layers = config["config"].get("layers", [])
    places = [name for name, _ in _references(config, "input_layers", "") or ()]
    entries = {layer["config"].get("name"): layer["class_name"] == "InputLayer" for layer in layers}

    def named(source: str) -> str:
        if source not in entries:
            return source  # a constant
        return f"(input {places.index(source)})" if entries[source] else f"{above}{source}"

    for layer in layers:
        if layer["class_name"] == "InputLayer":
            continue
        name = f"{above}{layer['config'].get('name')}"
        calls = layer.get("inbound_nodes")
        inputs = None if calls is None else [(named(n), output) for n, output in _sources(calls)]
        trainable = layer["config"].get("trainable", True)
        if "layers" in layer["config"]:
            ends = _references(layer, "output_layers", f"{name}/")
            yield _Layer(name, MODEL, {}, inputs, ends, trainable)
            yield from _layers(layer, f"{name}/")
        else:
            yield _Layer(name, layer["class_name"], _relevant(layer["config"], ""), inputs, None, trainable)


def _references(config: Config, key: str, above: str) -> list[tuple[str, int]] | None:
    """The layers that are a model's inputs or outputs, in order; `None` for a Sequential, which has one of each."""

    def found(part: Any) -> Iterator[tuple[str, int]]:
        if isinstance(part, dict):
            for _, inner in sorted(part.items()):
                yield from found(inner)
        elif part and isinstance(part[0], str):
            yield f"{above}{part[0]}", part[2]
        else:
            for inner in part:
                yield from found(inner)

    return list(found(config["config"][key])) if key in config["config"] else None


def _sources(calls: Any) -> Iterator[tuple[str, int]]:
    """What a layer is called on: names of layers, each with the number of the output, and constants."""
    if isinstance(calls, dict) and "keras_history" in calls:
        name, _, output = calls["keras_history"]
        yield name, output
    elif isinstance(calls, dict | list):
        for part in (v for k, v in calls.items() if k not in _MODES) if isinstance(calls, dict) else calls:
            yield from _sources(part)
    elif isinstance(calls, int | float):
        yield repr(float(calls)), 0


def _listed(inputs: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name}[{output}]" if output else name for name, output in inputs)


def _relevant(config: Config, above: str) -> dict[str, Any]:
    """Settings by name; those of a layer in a setting, as in a wrapper, are preceded by the setting's name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key not in _IRRELEVANT and not key.endswith(_IN_TRAINING):
            flat |= _flat(f"{above}{key}", value)
    return flat


def _flat(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list) and any(isinstance(part, dict) and "class_name" in part for part in value):
        parts = [_flat(f"{key}/{i}", part) for i, part in enumerate(value)]
        return {key: len(value)} | {name: setting for part in parts for name, setting in part.items()}
    if not isinstance(value, dict) or "class_name" not in value:
        return {key: _OTHER_NAMES.get(value, value) if isinstance(value, str) else value}
    inner = value["config"]
    if value["class_name"] == "function":
        return _flat(key, inner)
    if not isinstance(inner, dict):
        return {key: [value["class_name"], inner]}
    if "layers" not in inner:
        return {key: value["class_name"], **_relevant(inner, f"{key}/")}
    layers = list(_layers(value))
    numbers = {layer.name: str(i) for i, layer in enumerate(layers)}
    flat: dict[str, Any] = {key: len(layers)}
    for i, layer in enumerate(layers):
        wiring = [(numbers.get(name, name), output) for name, output in layer.inputs or ()]
        flat |= {f"{key}/{i}": layer.kind, f"{key}/{i}/called on": _listed(wiring)}
        flat |= {f"{key}/{i}/{name}": setting for name, setting in layer.settings.items()}
    return flat


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
        return True  # one counts from the front, the other from the back
    return one == other
