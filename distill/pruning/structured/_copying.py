"""Copies weights and other state from the layers of the original to the layers of the smaller model."""

import tempfile
from collections.abc import Sequence
from typing import Any

import keras

from distill._graphs import functional_of
from distill._keras import flatten_layers
from distill._untouched import recurrent_states
from distill.pruning.structured._cutting import Cut
from distill.pruning.structured._sharing import Weights, require_same_sharing
from distill.pruning.structured._structure import Structure


def copy_weights(structure: Structure, cut: Cut, called: Sequence[tuple[Any, Any]]) -> None:
    """Copies what stays of the old layers' weights to the new layers, with their other state and `trainable` flags.

    Args:
        structure: structure of the original.
        cut: what stays.
        called: pairs of an old layer, operation or model that the graph calls and the new one; models come after their
            layers.
    """
    axes: dict[int, list[Any]] = {}
    for slot in structure.slots:
        axes.setdefault(id(slot.variable), [None] * len(slot.variable.shape))[slot.axis] = slot.labels
    weights = {id(old): Weights(old.name, _pairs(old, new)) for old, new in called if _has_own(old)}
    require_same_sharing(weights.values())
    # From the end: what is set for a layer alone must be set after what is set for the model around it.
    for old, new in reversed(called):
        if id(old) not in weights:
            if isinstance(old, keras.Layer) and new.trainable != old.trainable:
                new.trainable = old.trainable
            continue
        for one, other in zip(flatten_layers(old), flatten_layers(new), strict=True):
            if not any(id(variable) in axes for variable in one.variables):
                _copy_state(one, other)  # before the weights: loading it may compute some of them anew
        for source, target in zip(recurrent_states(old), recurrent_states(new), strict=True):
            value = keras.ops.convert_to_numpy(source)
            target.assign(cut.array(value, structure.states.get(id(source), ())))
        for source, target in weights[id(old)].pairs:
            value = keras.ops.convert_to_numpy(source)
            if id(source) in axes:
                value = cut.array(value, tuple(axes[id(source)]))
            if id(source) in structure.rescaled:
                labels, factor = structure.rescaled[id(source)]
                size = cut.size(labels)
                value = value if size == labels.size else value * factor(labels.size, size)
            target.assign(value)
        for one, other in zip(flatten_layers(old), flatten_layers(new), strict=True):
            if getattr(one, "lora_enabled", False):
                other.lora_alpha = one.lora_alpha  # building the layer has set it to the rank
            if other.trainable != one.trainable:
                other.trainable = one.trainable
        for source, target in weights[id(old)].pairs:
            if target.trainable != source.trainable:
                target.trainable = source.trainable


def _has_own(old: Any) -> bool:
    """Whether it is a layer; the weights of a graph are those of the layers that it calls."""
    return isinstance(old, keras.Layer) and functional_of(old) is None


def _pairs(old: keras.Layer, new: keras.Layer) -> list[tuple[keras.Variable, keras.Variable]]:
    """Each weight of a layer with the same weight of a layer made from its config."""
    sources, targets = old.variables, new.variables
    by_path = {target.path: target for target in targets}
    # A layer quantized to float8 has its weights in another order than one that is made so from a config.
    if len(by_path) == len(targets) and {source.path for source in sources} == by_path.keys():
        targets = [by_path[source.path] for source in sources]

    def make_up(layer: keras.Layer, variables: list[keras.Variable]) -> tuple[list[type], list[int]]:
        return [type(one) for one in flatten_layers(layer)], [len(one.shape) for one in variables]

    if make_up(old, sources) != make_up(new, targets):
        raise ValueError(
            "Every layer must be made from its config to build a smaller model. Received: "
            f"{old.name!r}, a {type(old).__name__}, whose config makes a layer with other weights. Implement its "
            "get_config."
        )
    return list(zip(sources, targets, strict=True))


def _copy_state(one: keras.Layer, other: keras.Layer) -> None:
    """Copies what a layer keeps besides its variables, such as the vocabulary of a lookup."""
    if type(one).load_own_variables is not keras.Layer.load_own_variables:
        store: dict[str, Any] = {}
        one.save_own_variables(store)
        other.load_own_variables(store)
    if (save := getattr(one, "save_assets", None)) is not None:
        with tempfile.TemporaryDirectory() as folder:
            save(folder)
            other.load_assets(folder)
