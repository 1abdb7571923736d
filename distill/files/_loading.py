"""Load trained models in every format that Keras has written, as Keras 3 models."""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from distill._keras import flatten_layers
from distill._types import PathLike
from distill.files._bounds import require_proportion
from distill.files._bundle import prefix_of
from distill.files._configs import understood
from distill.files._differences import table
from distill.files._fitting import fitted
from distill.files._matching import values
from distill.files._parts import numbers_in
from distill.files._planning import allocate, planned
from distill.files._presets import load_preset
from distill.files._safety import TRUST, require_safe
from distill.files._saved_model import InferenceOnly, load_saved_model
from distill.files._stored import Stored, is_pickle, opened, parsed
from distill.files._tf_keras import stored_in

_OWN_WEIGHTS = (
    "weights belongs to an architecture in JSON. Received: weights={weights!r} with {source!r}, which has its own. "
    "Leave weights out."
)


def load_model(
    source: PathLike | Any,
    *,
    weights: PathLike | None = None,
    custom_objects: Mapping[str, type | Callable[..., Any]] | None = None,
    endpoint: str | None = None,
    trust: bool = False,
) -> keras.Model | InferenceOnly:
    """Load a trained model as a Keras 3 model.

    The content of a file decides how it is read, whatever its suffix. These formats become a `keras.Model`, which is
    not compiled:

    - `.keras` files of Keras 3 and tf_keras, and folders into which one was unpacked;
    - HDF5 files of whole models, from Keras 3, tf_keras and Keras 1 and 2;
    - an architecture in JSON with a file of weights;
    - presets of keras_hub;
    - tf_keras models in memory.

    A SavedModel can only be run. It becomes an `InferenceOnly`, a frozen layer that teaches by its outputs.

    A file is checked before anything in it is built. It may contain Keras' own layers and your classes, but no code
    unless you trust its writer. Memory for weights is taken only if the file holds them.

    Args:
        source: path to a file or folder, or a tf_keras model.
        weights: path to the weights of an architecture in JSON, in any form that `load_weights` takes.
        custom_objects: your classes and functions by the names under which they are stored; not needed for those
            registered with `keras.saving.register_keras_serializable`.
        endpoint: name of the SavedModel's function to call; by default that of `model.export` or "serving_default".
        trust: whether code in the file may run: lambdas, SavedModels, pickles, and vocabularies read from other files.

    Returns:
        A built `keras.Model`, or an `InferenceOnly`.

    Raises:
        ValueError: the file is damaged, has an unknown format, carries code or declares more than it holds, or its
            weights do not fit its architecture.
        OSError: the file is missing or cannot be read.

    Example:
        ```python
        teacher.save("teacher.h5")  # or somebody else did, in 2018
        teacher = distill.load_model("teacher.h5")
        ```
    """
    is_path = isinstance(source, str | os.PathLike)
    is_folder = is_path and Path(source).is_dir()
    if weights is not None and (not is_path or is_folder):
        raise ValueError(_OWN_WEIGHTS.format(weights=str(weights), source=str(source)))
    if endpoint is not None and not (is_folder and (Path(source) / "saved_model.pb").exists()):
        raise ValueError(
            f"endpoint belongs to a SavedModel. Received: endpoint={endpoint!r} with {source!r}, which is not one. "
            "Leave endpoint out."
        )
    with keras.saving.custom_object_scope(dict(custom_objects or {})):
        if not is_path:
            stored = stored_in(source)
            try:
                return _made(stored, trust)
            except ValueError as error:
                raise ValueError(
                    f"{error} As it is, the model can teach by its outputs: Distiller(model, ...)."
                ) from error
        path = Path(source)
        if path.is_dir() and ((path / "saved_model.pb").exists() or prefix_of(path) is None):
            return _of_folder(path, endpoint, trust)
        if trust and path.is_file() and is_pickle(path):
            return _unpickled(path)
        with opened(path) as stored:
            if weights is None:
                return _made(stored, trust)
            if stored.parts is not None:
                raise ValueError(_OWN_WEIGHTS.format(weights=str(weights), source=str(source)))
            with opened(Path(weights)) as values_of:
                source = f"{stored.source} with {values_of.source}"
                both = values_of._replace(source=source, config=stored.config, version=stored.version)
                return _made(both, trust)


def _of_folder(path: Path, endpoint: str | None, trust: bool) -> keras.Model | InferenceOnly:
    inside = path.resolve()
    if not trust and (out := [one for one in path.rglob("*") if not one.resolve().is_relative_to(inside)]):
        raise ValueError(
            f"The folder of a model must contain all of it. Received: {path}, where {out[0].name!r} is a link that "
            f"leads out of it. {TRUST}"
        )
    if (path / "saved_model.pb").exists():
        return load_saved_model(path, endpoint=endpoint, trust=trust)
    if not (path / "config.json").exists():
        raise ValueError(
            "The folder of a model must be a SavedModel, a preset of keras_hub or an unpacked .keras file. Received: "
            f"{path}, with {sorted(entry.name for entry in path.iterdir())[:5]}."
        )
    metadata = (
        parsed((path / "metadata.json").read_bytes(), str(path)) if (path / "metadata.json").exists() else {}
    )
    config = parsed((path / "config.json").read_bytes(), str(path))
    if "keras_hub_version" in metadata:
        return load_preset(path, trust=trust)
    with opened(path / "model.weights.h5") as stored:
        assets = str(path / "assets") if (path / "assets").is_dir() else None
        return _made(
            stored._replace(config=config, version=metadata.get("keras_version"), assets=assets), trust
        )


def _unpickled(path: Path) -> keras.Model:
    with path.open("rb") as file:
        model = pickle.load(file)
    if not isinstance(model, keras.Model):
        raise ValueError(f"The pickle must hold a keras.Model. Received: {path}, a {type(model).__name__}.")
    return model


def _made(stored: Stored, trust: bool) -> keras.Model:
    """The model, with its weights."""
    config = understood(stored)
    if stored.parts is None:
        raise ValueError(
            f"A model cannot be loaded without its weights. Received: {stored.source}, an architecture in JSON. "
            "Pass their file as weights."
        )
    if not trust:
        require_safe(config, stored.source)
    held = numbers_in(stored.parts)
    with planned(config, stored.source, held=held, trust=trust) as model:
        # This comes before the parts are listed, for which a layer with LoRA computes values.
        require_proportion(4 * model.count_params(), 4 * held, f"the weights of {stored.source}")
        fit = fitted(model, stored._replace(config=None))
        if fit.differences:
            raise ValueError(
                f"The weights in a file must fit its architecture. Received: {stored.source}, where they differ:\n"
                f"{table(fit.differences)}"
            )
        _require_words(model, stored)
        found = values(fit.stored.parts or {}, fit.pairs, stored.source)
        allocate()
    fit.stored.layout.assign(model, found, fit.stored.assets)
    return model


def _require_words(model: keras.Model, stored: Stored) -> None:
    """Raise ValueError if the words of a lookup layer are neither in its config nor in a file of their own."""
    lookups = [
        layer.name
        for layer in flatten_layers(model)
        if isinstance(layer, keras.layers.StringLookup | keras.layers.IntegerLookup)
        and layer.input_vocabulary is None
    ]
    files = [] if stored.assets is None else list(Path(stored.assets).rglob("vocabulary.txt"))
    if len(files) < len(lookups):
        raise ValueError(
            f"A model file must contain the model's words. Received: {stored.source}, with {len(files)} vocabularies "
            f"for {', '.join(lookups)}. Only .keras files keep what `adapt` has learned: save the model as one."
        )
