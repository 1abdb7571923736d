"""Reads trained models, of whatever Keras wrote them in whatever format, as models of Keras 3."""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from distill._keras import flatten_layers
from distill.files import _saved_model as saved_model
from distill.files._architectures import allocate, planned, understood
from distill.files._bounds import require_proportion
from distill.files._fitting import fit, table, values
from distill.files._parts import (
    Part,
    Weight,
    assign_keras3,
    assign_legacy,
    in_keras3,
    in_legacy,
    numbers_in,
)
from distill.files._presets import load_preset
from distill.files._safety import require_safe
from distill.files._stored import Stored, is_pickle, opened, parsed


def load_model(
    source: Any,
    *,
    weights: str | os.PathLike[str] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    endpoint: str | None = None,
    trust: bool = False,
) -> keras.Model | saved_model.InferenceOnly:
    """Loads a trained model as one of Keras 3; reads files by what they hold, whatever their names end in.

    Read are `.keras` files; HDF5 files of whole models, written by Keras 3, tf_keras and the Keras before;
    an architecture in JSON with a file of weights; `.keras` files unpacked; presets of keras_hub; and
    tf_keras models in memory. Of these comes a `keras.Model`, not compiled. A SavedModel can only be run: of it comes a
    `distill.files.InferenceOnly`, a frozen layer that teaches by its outputs.

    A file is checked before anything of it is made. It may hold Keras' own layers and classes of yours; code it may
    not, unless you trust its writer. Memory is taken for weights that the file really holds.

    Args:
        source: a path, or a tf_keras model.
        weights: a file with the weights of an architecture in JSON.
        custom_objects: your classes and functions, by the names that they are stored under; those that are registered
            with `keras.saving.register_keras_serializable` are known.
        endpoint: which function of a SavedModel to call; by default that of `model.export` or "serving_default".
        trust: whether code in the file may run: lambdas, SavedModels, pickles, vocabularies read from other files.

    Returns:
        A built `keras.Model`, or an `InferenceOnly`.

    Raises:
        ValueError: the file is damaged, of no known format, carries code, declares more than it holds, or its weights
            do not fit its architecture.
        OSError: it is missing or cannot be read.

    Example:
        >>> teacher = distill.load_model("model_from_2018.h5")
    """
    is_path = isinstance(source, str | os.PathLike)
    is_folder = is_path and Path(source).is_dir()
    if weights is not None and (not is_path or is_folder):
        raise ValueError(
            f"An architecture in JSON takes its weights from a file. Received: weights={str(weights)!r} with "
            f"{source!r}, which has its own. Leave them out."
        )
    if endpoint is not None and not (is_folder and (Path(source) / "saved_model.pb").exists()):
        raise ValueError(
            f"A SavedModel is called by one of its functions. Received: endpoint={endpoint!r} with {source!r}, "
            "which is none. Leave it out."
        )
    with keras.saving.custom_object_scope(dict(custom_objects or {})):
        if not isinstance(source, str | os.PathLike):
            stored = _of_tf_keras(source)
            try:
                return _made(stored, trust)
            except ValueError as error:
                raise ValueError(
                    f"{error} As it is, it teaches by its outputs: Distiller(model, ...)."
                ) from error
        path = Path(source)
        if path.is_dir():
            return _of_folder(path, endpoint, trust)
        if trust and is_pickle(path):
            return _unpickled(path)
        with opened(path) as stored:
            if weights is None:
                return _made(stored, trust)
            with opened(Path(weights)) as values_of:
                source = f"{stored.source} with {values_of.source}"
                both = values_of._replace(source=source, config=stored.config, version=stored.version)
                return _made(both, trust)


def _of_folder(path: Path, endpoint: str | None, trust: bool) -> keras.Model | saved_model.InferenceOnly:
    inside = path.resolve()
    if not trust and (out := [one for one in path.rglob("*") if not one.resolve().is_relative_to(inside)]):
        raise ValueError(
            f"A model's folder holds what it is made of. Received: {path}, where {out[0].name!r} is a link that leads "
            "out of it. Pass trust=True if you made it."
        )
    if (path / "saved_model.pb").exists():
        return saved_model.load(path, endpoint, trust)
    if not (path / "config.json").exists():
        raise ValueError(
            "A model's folder is a SavedModel, a preset of keras_hub or an unpacked .keras file. Received: "
            f"{path}, with {sorted(entry.name for entry in path.iterdir())[:5]}."
        )
    metadata = (
        parsed((path / "metadata.json").read_bytes(), str(path)) if (path / "metadata.json").exists() else {}
    )
    config = parsed((path / "config.json").read_bytes(), str(path))
    if "keras_hub_version" in metadata:
        return load_preset(path, trust)
    with opened(path / "model.weights.h5") as stored:
        assets = str(path / "assets") if (path / "assets").is_dir() else None
        return _made(
            stored._replace(config=config, version=metadata.get("keras_version"), assets=assets), trust
        )


def _unpickled(path: Path) -> keras.Model:
    with path.open("rb") as file:
        model = pickle.load(file)
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"A model is loaded from its own pickle. Received: {path}, a {type(model).__name__}."
        )
    return model


def _made(stored: Stored, trust: bool) -> keras.Model:
    """The model, with its weights."""
    config = understood(stored)
    if stored.parts is None:
        raise ValueError(
            f"A trained model has weights. Received: {stored.source}, an architecture in JSON. "
            "Pass their file as weights."
        )
    if not trust:
        require_safe(config, stored.source)
    held = numbers_in(stored.parts)
    with planned(config, trust, stored.source, held) as model:
        # Before Keras is asked what it would store: of LoRA that is computed from values.
        require_proportion(4 * model.count_params(), 4 * held, f"the weights of {stored.source}")
        pairs, differences = fit((in_legacy if stored.legacy else in_keras3)(model), stored.parts)
        if differences:
            raise ValueError(
                f"A file's weights fit its architecture. Received: {stored.source}, where they differ:\n"
                f"{table(differences)}"
            )
        _require_words(model, stored)
        found = values(stored.parts, pairs, stored.source)
        allocate()
    if stored.legacy:
        assign_legacy(model, found)
    else:
        assign_keras3(model, found, stored.assets)
    return model


def _require_words(model: keras.Model, stored: Stored) -> None:
    """A lookup whose words are not in its config has them in a file of its own."""
    lookups = [
        layer.name
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.StringLookup | keras.layers.IntegerLookup)
        and layer.input_vocabulary is None
    ]
    files = [] if stored.assets is None else list(Path(stored.assets).rglob("vocabulary.txt"))
    if len(files) < len(lookups):
        raise ValueError(
            f"A model's words come with it. Received: {stored.source}, with {len(files)} vocabularies for "
            f"{', '.join(lookups)}. Only .keras files hold what `adapt` has learned: save the model as one."
        )


def _of_tf_keras(model: Any) -> Stored:
    """A tf_keras model in memory, as if it had been saved."""
    if not any(base.__module__.partition(".")[0] == "tf_keras" for base in type(model).__mro__):
        raise ValueError(f"A model is loaded from a path, or from a tf_keras model. Received: {model!r}.")
    source = f"the tf_keras model {model.name!r}"
    config = parsed(model.to_json(), source)
    found = [(layer.name, layer.trainable_weights + layer.non_trainable_weights) for layer in model.layers]
    parts = {
        str(place): Part(
            name.replace("/", "_"), {str(i): _weight(variable) for i, variable in enumerate(variables)}
        )
        for place, (name, variables) in enumerate((n, v) for n, v in found if v)
    }
    return Stored(source, config, config["keras_version"], parts, legacy=True)


def _weight(variable: Any) -> Weight:
    return Weight(variable.name.rpartition("/")[2].removesuffix(":0"), tuple(variable.shape), variable.numpy)
