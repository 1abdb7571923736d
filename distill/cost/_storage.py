"""Counts a model's parameters and the bytes of its files."""

import dataclasses
import gzip
import tempfile
from pathlib import Path

import keras

from distill._keras import twin
from distill._models import require_model
from distill._untouched import same_attributes, same_randomness
from distill.exports import export


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a model's files. Zeros among the weights make the gzipped and sparse files smaller.

    Attributes:
        keras: bytes of the `.keras` file, see `file_bytes`.
        keras_gzip: bytes of the same file, gzipped.
        litert: bytes of the LiteRT file in float32; `None` in a profile of a model that LiteRT cannot hold.
        litert_gzip: bytes of the same file, gzipped; likewise `None`.
        litert_sparse: bytes of the LiteRT file without the zeros, which LiteRT can run as it is; likewise `None`.
    """

    keras: int
    keras_gzip: int
    litert: int | None
    litert_gzip: int | None
    litert_sparse: int | None


def parameters(model: keras.Model) -> int:
    """Counts the scalars in a model's weights; a shared weight counts once.

    Non-trainable weights count, such as the running mean and variance of a BatchNormalization: they are stored and
    shipped like the rest.

    Args:
        model: built model.

    Returns:
        Number of scalars, no unit.

    Raises:
        ValueError: the model is not built.

    Example:
        >>> import keras
        >>> from distill import cost
        >>> cost.parameters(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
        15
    """
    require_model(model, "cost.parameters")
    if not model.built:
        raise ValueError(
            "Only a built model has parameters. "
            f"Received: {model.name}, which is not built. Call it on an example, or give it a keras.Input."
        )
    return model.count_params()


def file_bytes(model: keras.Model) -> int:
    """Measures the `.keras` file that Keras writes for a model, without the state of its optimizer.

    Args:
        model: built model that Keras can save.

    Returns:
        Size in bytes.

    Example:
        >>> from distill import cost
        >>> cost.file_bytes(student) > 4 * cost.parameters(student)
        True
    """
    return len(_keras_file(model))


def sizes(model: keras.Model) -> Sizes:
    """Measures a model's files, with and without its zeros.

    Args:
        model: built model that Keras can save and LiteRT can run, with every input size except the batch's known.

    Returns:
        Sizes in bytes.

    Raises:
        ImportError: ai-edge-litert is not installed.
        TypeError: the model is not a Keras model.
        ValueError: LiteRT cannot hold the model.

    Example:
        >>> from distill import cost
        >>> found = cost.sizes(student)
        >>> found.litert < found.keras
        True
    """
    require_model(model, "cost.sizes")
    return Sizes(*keras_sizes(model), *litert_sizes(model))


def keras_sizes(model: keras.Model) -> tuple[int, int]:
    """Bytes of the `.keras` file, plain and gzipped."""
    file = _keras_file(model)
    return len(file), len(gzip.compress(file))


def litert_sizes(model: keras.Model) -> tuple[int, int, int]:
    """Bytes of the LiteRT file: plain, gzipped, and without its zeros."""
    plain, sparse = (litert_file(model, sparse=sparse) for sparse in (False, True))
    return len(plain), len(gzip.compress(plain)), len(sparse)


def litert_file(model: keras.Model, *, sparse: bool = False) -> bytes:
    """Content of the LiteRT file in float32, with or without its zeros."""
    with tempfile.TemporaryDirectory() as folder, same_attributes(model), same_randomness():
        return export(model, Path(folder) / "model.tflite", sparse=sparse).read_bytes()


def _keras_file(model: keras.Model) -> bytes:
    # Only training needs the optimizer, and `save` cannot leave it out.
    shipped = twin(model, compiled=False, optimizer=None) if model.compiled else model
    with tempfile.TemporaryDirectory() as folder, same_attributes(model):
        path = Path(folder) / "model.keras"
        shipped.save(path)
        return path.read_bytes()
