"""Save models and weights in one step, so that a killed process or a full disk cannot leave half a file."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import keras

from distill._atomic import replacing
from distill._models import require_model
from distill._types import PathLike


def save_model(model: keras.Model, path: PathLike) -> None:
    """Save a model as `model.save` does, but replace an existing file in one step or leave it as it is.

    If the process is killed at any moment, you have the old file or the new one. The same is true if the disk is full,
    which raises an error.

    Args:
        model: built model.
        path: path that ends in ".keras", or in ".h5" or ".hdf5" for Keras' older format.

    Raises:
        TypeError: the model is not a Keras model.
        ValueError: the path has another ending, or the model is not built.
        NotImplementedError: a layer has no config, so Keras cannot save it.
        OSError: the folder does not exist, or the file cannot be written.

    Example:
        ```python
        distill.save_model(student, "student.keras")
        ```
    """
    _require_ending(
        path,
        (".keras", ".h5", ".hdf5"),
        "of a model",
        "To write a SavedModel, use model.export(folder)",
    )
    _require_built(model, "save_model")
    with _written(path) as draft:
        model.save(draft)


def save_weights(model: keras.Model, path: PathLike) -> None:
    """Save a model's weights as `model.save_weights` does, but in one step.

    The optimizer's state is saved too if the model is compiled.

    Args:
        model: built model.
        path: path that ends in ".weights.h5".

    Raises:
        TypeError: the model is not a Keras model.
        ValueError: the path has another ending, or the model is not built.
        OSError: the folder does not exist, or the file cannot be written.

    Example:
        ```python
        distill.save_weights(student, "student.weights.h5")
        ```
    """
    _require_ending(path, (".weights.h5",), "of weights", "To save the whole model, use distill.save_model")
    _require_built(model, "save_weights")
    with _written(path) as draft:
        model.save_weights(draft)


@contextlib.contextmanager
def _written(path: PathLike) -> Iterator[Path]:
    """As `replacing`, but a full disk raises OSError with HDF5 too, which raises RuntimeError itself."""
    with replacing(path) as draft:
        try:
            yield draft
        except NotImplementedError:  # of a layer without get_config
            raise
        except RuntimeError as error:
            raise OSError(f"The file cannot be written. Received: {os.fspath(path)!r}: {error}.") from error


def _require_ending(path: PathLike, endings: tuple[str, ...], what: str, other: str) -> None:
    if not Path(path).name.endswith(endings):
        raise ValueError(
            f"The path {what} must end in {' or '.join(endings)}. Received: {os.fspath(path)!r}. {other}."
        )
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        # h5py and zipfile would name the draft, which the caller does not know.
        raise FileNotFoundError(f"No such folder: '{folder}'. Create it before saving {os.fspath(path)!r}.")


def _require_built(model: keras.Model, user: str) -> None:
    require_model(model, user)
    if not model.built:
        raise ValueError(
            f"A model must be built before it can be saved. Received: {model.name!r}, which is not built and has no "
            "weights. Call it on an example, or give it a keras.Input."
        )
