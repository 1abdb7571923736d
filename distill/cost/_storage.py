"""How many numbers a model has, and how many bytes it takes as a file."""

import dataclasses
import gzip
import tempfile
from pathlib import Path

import keras

from distill._keras import twin
from distill.exports._export import export


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes of a model as files; zeros make all but the plain ones smaller.

    Attributes:
        keras: the `.keras` file, see `file_bytes`.
        keras_gzip: the same, compressed.
        litert: the LiteRT file of float32 weights.
        litert_gzip: the same, compressed.
        litert_sparse: the LiteRT file that leaves zeros out; LiteRT runs it as it is.

    Those of LiteRT are `None` in a profile of a model that it cannot hold.
    """

    keras: int
    keras_gzip: int
    litert: int | None
    litert_gzip: int | None
    litert_sparse: int | None


def parameters(model: keras.Model) -> int:
    """Number of scalars in the model's weights; a shared weight counts once.

    Non-trainable weights count, such as the running mean and variance of a BatchNormalization: they are
    stored and shipped like the rest.

    Args:
        model: a built model.

    Returns:
        Number of scalars, no unit.

    Raises:
        ValueError: the model is not built.
    """
    if not model.built:
        raise ValueError(
            "Parameters exist only once a model is built. "
            f"Received: {model.name}, which is not. Call it on an example, or give it a keras.Input."
        )
    return model.count_params()


def file_bytes(model: keras.Model) -> int:
    """Size of the `.keras` file that Keras writes for the model, without an optimizer's state.

    Args:
        model: a built model that Keras can save.

    Returns:
        Size in bytes.
    """
    return len(_keras_file(model))


def sizes(model: keras.Model) -> Sizes:
    """Sizes of the files that a model becomes, with and without their zeros.

    Args:
        model: a built model that Keras can save and LiteRT can run: with a known size of input, the batch's apart.

    Returns:
        Sizes in bytes.

    Raises:
        ValueError: LiteRT cannot hold the model.
    """
    return Sizes(*keras_sizes(model), *litert_sizes(model))


def keras_sizes(model: keras.Model) -> tuple[int, int]:
    """Bytes of the `.keras` file, plain and compressed."""
    file = _keras_file(model)
    return len(file), len(gzip.compress(file))


def litert_sizes(model: keras.Model) -> tuple[int, int, int]:
    """Bytes of the LiteRT file, plain, compressed and without its zeros."""
    plain, sparse = (litert_file(model, sparse=sparse) for sparse in (False, True))
    return len(plain), len(gzip.compress(plain)), len(sparse)


def _keras_file(model: keras.Model) -> bytes:
    # Only training needs the optimizer, and `save` cannot leave it out.
    shipped = twin(model, compiled=False, optimizer=None) if model.compiled else model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        shipped.save(path)
        return path.read_bytes()


def litert_file(model: keras.Model, *, sparse: bool = False) -> bytes:
    """The LiteRT file of float32 weights, with its zeros or without."""
    with tempfile.TemporaryDirectory() as folder:
        return export(model, Path(folder) / "model.tflite", sparse=sparse).read_bytes()
