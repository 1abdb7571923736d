"""Load weights from a file into a model that is already there, all or nothing."""

import json
from collections.abc import Set
from pathlib import Path

import keras

from distill._types import PathLike
from distill.files._configs import complete, making_sense, understood
from distill.files._differences import Difference, Loaded, table
from distill.files._layouts import LEGACY
from distill.files._matching import matched, matched_by_name, values
from distill.files._settings import setting_differences
from distill.files._stored import Stored, opened


def load_weights(model: keras.Model, path: PathLike, *, partial: bool = False) -> Loaded:
    """Load weights into the architecture that they were saved from, or list the differences and load nothing.

    The file may come from `model.save_weights` or `model.save`, of Keras 3, tf_keras or Keras before that. Layers are
    matched by name if all names agree, otherwise by order. If the file also holds an architecture, as all but files of
    weights do, it must be the model's: a layer with another activation has weights of the same shapes.

    Nothing in the file is built or run. Training state, such as an optimizer's, is not loaded: to resume training, use
    `model.load_weights`.

    Args:
        model: built model.
        path: path to the file; its content decides how it is read.
        partial: load the layers whose name, kind and shapes agree, and leave the others as they are.

    Returns:
        The layers that were loaded, and the differences in the others.

    Raises:
        ValueError: the model is not built; the file differs from it, has nothing for it, or is damaged.
        OSError: the file is missing or cannot be read.

    Example:
        ```python
        distill.save_weights(student, "student.weights.h5")
        print(distill.load_weights(student, "student.weights.h5"))  # 2 layers were loaded: hidden, head.
        ```
    """
    if not model.built:
        raise ValueError(
            f"A model must be built before weights can be loaded. Received: {model.name!r}, which is not built. Call "
            "it on an example, or give it a keras.Input."
        )
    with opened(Path(path)) as stored:
        if stored.parts is None:
            raise ValueError(
                f"The file must hold weights. Received: {stored.source}, an architecture in JSON."
            )
        expected = stored.layout.parts_of(model)
        pairs, differences = (matched_by_name if partial else matched)(expected, stored.parts)
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
                "Weights must be loaded into the architecture that they were saved from; nothing was loaded. Received: "
                f"{stored.source} for {model.name!r}, where they differ:\n{table(differences)}\n"
                + (
                    "No layer agrees in name and shapes."
                    if partial
                    else "partial=True loads the layers that agree."
                )
            )
        found = values(stored.parts, pairs, stored.source)
    stored.layout.assign(model, found, stored.assets)
    return Loaded(tuple(expected[place].name or model.name for place in pairs), tuple(differences))


def _setting_differences(model: keras.Model, stored: Stored, named: Set[str | None]) -> list[Difference]:
    if stored.config is None:
        return []
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    except NotImplementedError:
        return []  # the class of the model does not say what it consists of
    with making_sense(stored.source):
        return setting_differences(complete(config), understood(stored), named, stored.layout is LEGACY)
