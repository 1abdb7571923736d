"""Weights from a file into a model that is there, all or nothing."""

import json
import os
from collections.abc import Set
from pathlib import Path

import keras

from distill.files._architectures import complete, making_sense, understood
from distill.files._fitting import Difference, Loaded, fit, fit_by_name, table, values
from distill.files._parts import assign_keras3, assign_legacy, in_keras3, in_legacy
from distill.files._settings import setting_differences
from distill.files._stored import Stored, opened


def load_weights(model: keras.Model, path: str | os.PathLike[str], *, partial: bool = False) -> Loaded:
    """Loads weights into the architecture that they were saved from, or says how it differs and loads nothing.

    Files are those of `model.save_weights` and `model.save`, of Keras 3, tf_keras and the Keras before. Layers
    are paired by their names if those agree, else by their order. Where the file tells its architecture too, as all but
    files of weights do, that must be the model's: another activation has weights of the same shapes.

    Nothing in the file is built or run. What training keeps besides, such as an optimizer's state, is left alone: to
    go on with a training, use `model.load_weights`.

    Args:
        model: a built model.
        path: the file; its format is found by what it holds.
        partial: take the layers whose name, kind and shapes agree, and leave others as they are.

    Returns:
        What was taken, and what was not.

    Raises:
        ValueError: the model is not built; the file differs from it, or has nothing for it, or is damaged.
        OSError: the file is missing or cannot be read.

    Example:
        >>> print(distill.load_weights(model, "model_weights.h5"))
        4 layers were loaded: conv, norm, hidden, head.
    """
    if not model.built:
        raise ValueError(
            f"Weights are loaded into a model that has them. Received: {model.name!r}, which is not built. Call it on "
            "an example, or give it a keras.Input."
        )
    with opened(Path(path)) as stored:
        if stored.parts is None:
            raise ValueError(f"An architecture has no weights. Received: {stored.source}, a file of JSON.")
        expected = (in_legacy if stored.legacy else in_keras3)(model)
        pairs, differences = (fit_by_name if partial else fit)(expected, stored.parts)
        named = {
            expected[here].name
            for here, there in pairs.items()
            if expected[here].name == stored.parts[there].name
        }
        settings = _setting_differences(model, stored, named)
        if partial:
            others = [f"{row.layer}/" for row in settings]
            pairs = {
                place: there
                for place, there in pairs.items()
                if not any(other.startswith(f"{expected[place].name}/") for other in others)
            }
        differences = differences + settings
        if differences and not (partial and pairs):
            raise ValueError(
                "Weights load into the architecture that they were saved from; nothing was loaded. Received: "
                f"{stored.source} for {model.name!r}:\n{table(differences)}\n"
                + (
                    "No layer agrees in name and shapes."
                    if partial
                    else "partial=True takes the layers that agree."
                )
            )
        found = values(stored.parts, pairs, stored.source)
    if stored.legacy:
        assign_legacy(model, found)
    else:
        assign_keras3(model, found, stored.assets)
    return Loaded(tuple(expected[place].name or model.name for place in pairs), tuple(differences))


def _setting_differences(model: keras.Model, stored: Stored, named: Set[str | None]) -> list[Difference]:
    if stored.config is None:
        return []
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    except NotImplementedError:
        return []  # a model whose class does not say what it is made of
    with making_sense(stored.source):
        return setting_differences(complete(config), understood(stored), named, stored.legacy)
