"""Models and weights to files, in one step that a kill or a full disk cannot halve."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import keras

from distill._atomic import replacing


def save_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Saves a model as `model.save` does; a file that is there already is replaced at once or stays as it is.

    A kill at any moment leaves the old file or the new one. So does a full disk, with an error.

    Args:
        model: a built model.
        path: ends in ".keras", or in ".h5" or ".hdf5" for Keras' older format.

    Raises:
        ValueError: another ending, or a model that is not built.
        OSError: the folder is missing, or the file cannot be written.
    """
    _require_ending(
        path, (".keras", ".h5", ".hdf5"), "A model's file", "model.export(folder) writes a SavedModel"
    )
    _require_built(model)
    with _written(path) as draft:
        model.save(draft)


def save_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Saves a model's weights, and its optimizer's state if it is compiled, as `model.save_weights` does, in one step.

    Args:
        model: a built model.
        path: ends in ".weights.h5".

    Raises:
        ValueError: another ending, or a model that is not built.
        OSError: the folder is missing, or the file cannot be written.
    """
    _require_ending(path, (".weights.h5",), "A file of weights", "distill.save_model writes the whole model")
    _require_built(model)
    with _written(path) as draft:
        model.save_weights(draft)


@contextlib.contextmanager
def _written(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As `replacing`; HDF5 on a full disk raises an OSError, as everything else does."""
    with replacing(path) as draft:
        try:
            yield draft
        except RuntimeError as error:
            raise OSError(f"The file cannot be written. Received: {os.fspath(path)!r}: {error}.") from error


def _require_ending(path: str | os.PathLike[str], endings: tuple[str, ...], subject: str, other: str) -> None:
    if not Path(path).name.endswith(endings):
        raise ValueError(f"{subject} ends in {' or '.join(endings)}. Received: {os.fspath(path)!r}; {other}.")
    if not Path(os.path.realpath(path)).parent.is_dir():
        # h5py and zipfile would say so of the draft, whose name nobody gave.
        raise FileNotFoundError(f"A file is written to a folder that exists. Received: {os.fspath(path)!r}.")


def _require_built(model: keras.Model) -> None:
    if not model.built:
        raise ValueError(
            f"Weights exist only once a model is built. Received: {model.name!r}, which is not. Call it on an example, "
            "or give it a keras.Input."
        )
