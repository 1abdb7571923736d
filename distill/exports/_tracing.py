"""A model as it answers in inference, for the writers of all formats."""

from pathlib import Path
from typing import Any

import keras

from distill._keras import get_input_signature
from distill._types import Tensors


def write_saved_model(model: keras.Model, path: Path) -> None:
    """Writes a SavedModel whose endpoint "serve" answers as the model does in inference.

    `model.export` calls the model without saying so, and layers of augmentation then augment.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", answers_of(model), input_signature=get_input_signature(model))
    archive.write_out(str(path), verbose=False)


def answers_of(model: keras.Model) -> Any:
    """The function of the model's positional inputs that gives its outputs in inference."""

    def serve(*inputs: Tensors) -> Tensors:
        return model(*inputs, training=False)

    return serve
