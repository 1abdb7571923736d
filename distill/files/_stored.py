"""Open a file of any Keras format, by its content: an architecture, weights, or both."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

from distill._types import Config
from distill.files import _archive as archive
from distill.files import _hdf5 as hdf5
from distill.files._bundle import prefix_of
from distill.files._checkpoint import CHECKPOINT, below, content_of
from distill.files._exported import onnx_files
from distill.files._layouts import KERAS3, LEGACY, NESTED, Layout, by_owner
from distill.files._parts import Part, Parts

PICKLE = b"\x80"
# `save_weights` of a Distiller, which keeps the student in a training, stores this setting.
_TRAINED, _NOTHING = "student_loss_weight", Part(None, {})


# A model in a file: its place, its name if the file says it, its layout and its parts.
Inside = tuple[str, str | None, Layout, Parts]


def _nothing() -> Iterator[Inside]:
    yield from ()


class Stored(NamedTuple):
    """Content of a file.

    Attributes:
        source: name of the file in errors.
        config: architecture, as its writer stored it; `None` in a file of weights.
        version: version of Keras that wrote the file; `None` if the file does not say.
        parts: weights; `None` in a file with an architecture alone.
        layout: how the weights are stored.
        assets: folder with whatever is not an array; `None` if there is nothing.
        inside: function that returns the models in a file with weights.
        name: name of the model, if this is a model in a file.
        in_training: whether the file keeps the state of a training, of which the model is a part.
    """

    source: str
    config: Config | None = None
    version: str | None = None
    parts: Parts | None = None
    layout: Layout = KERAS3
    assets: str | None = None
    inside: Callable[[], Iterator[Inside]] = _nothing
    name: str | None = None
    in_training: bool = False


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Stored]:
    """Open a file by its first bytes, whatever its name ends in, or a TensorFlow checkpoint by one of its files.

    Raises:
        ValueError: the file has no format of Keras, is damaged, or points at weights of other files.
        OSError: the file is missing or cannot be read.
    """
    name = str(path)
    prefix = prefix_of(path)
    if prefix is not None:
        content = content_of(prefix)
        yield Stored(
            name,
            parts=content.parts,
            layout=CHECKPOINT,
            inside=lambda: _inside_checkpoint(content.parts),
            in_training=content.in_training,
        )
        return
    with path.open("rb") as file:
        begin = file.read(len(hdf5.SIGNATURE))
    if begin == hdf5.SIGNATURE:
        with hdf5.opened(path, name) as file:
            yield _of_hdf5(file, name)
    elif begin.startswith(archive.SIGNATURE):
        held = path.stat().st_size
        with archive.opened(path) as members, hdf5.opened(members.weights, name, held) as file:
            version = parsed(members.metadata, name).get("keras_version")
            config = parsed(members.config, name)
            yield _of_hdf5(file, name)._replace(config=config, version=version, assets=members.assets)
    elif begin.lstrip().startswith(b"{"):
        config = parsed(path.read_bytes(), name)
        if "weight_map" in config and "class_name" not in config:
            raise ValueError(
                f"Weights must be in one file. Received: {name}, which lists those of several. Save the weights "
                "without max_shard_size."
            )
        yield Stored(name, config, config.get("keras_version"))
    else:
        raise ValueError(_unknown(name, begin))


def may_be_weights_alone(path: Path) -> bool:
    """Whether a path leads to a format that can do without an architecture: HDF5, or a TensorFlow checkpoint."""
    if not path.is_file():
        return prefix_of(path) is not None
    with path.open("rb") as file:
        return file.read(len(hdf5.SIGNATURE)) == hdf5.SIGNATURE or prefix_of(path) is not None


def files_of(path: Path) -> list[Path]:
    """The files that lie at a path: one, those in a folder, those of a checkpoint, or an ONNX file with its weights."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.suffix == ".onnx":
        return onnx_files(path)
    prefix = prefix_of(path)
    if prefix is None:
        return [path]
    begins = f"{prefix.name}.index", f"{prefix.name}.data-"
    return [file for file in prefix.parent.iterdir() if file.name.startswith(begins)]


def is_pickle(path: Path) -> bool:
    """Whether a file begins like a pickle."""
    with path.open("rb") as file:
        return file.read(1) == PICKLE


def parsed(text: str | bytes, source: str) -> Config:
    """Parse JSON that must hold an object.

    Args:
        text: the JSON.
        source: name of the file in errors.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The architecture is not valid JSON. Received: {source}: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"The architecture must be a JSON object. Received: {source}, which holds a {type(config).__name__}."
        )
    return config


def _of_hdf5(file: h5py.File, name: str) -> Stored:
    legacy = hdf5.is_legacy(file)
    try:
        parts = hdf5.legacy_parts(file) if legacy else hdf5.keras3_parts(file)
        config = hdf5.text(file, "model_config")
    except (KeyError, AttributeError, OSError, RuntimeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"This HDF5 file is damaged: it does not contain what it lists. Received: {name}: {error}."
        ) from error
    return Stored(
        name,
        None if config is None else parsed(config, name),
        hdf5.text(file, "keras_version"),
        parts,
        LEGACY if legacy else KERAS3,
        inside=lambda: _inside_legacy(parts) if legacy else _inside_keras3(file),
        in_training=not legacy and _TRAINED in parts.get("", _NOTHING).weights,
    )


def _inside_checkpoint(parts: Parts) -> Iterator[Inside]:
    for place, inner in below(parts):
        yield place, place.rpartition("/")[2], CHECKPOINT, inner


def _inside_legacy(parts: Parts) -> Iterator[Inside]:
    for place, part in parts.items():
        inner = by_owner(part)
        if len(inner) > 1:
            yield place, part.name, NESTED, inner


def _inside_keras3(file: h5py.File) -> Iterator[Inside]:
    for place, name, parts in hdf5.models_in(file):
        yield place, name, KERAS3, parts


def _unknown(name: str, begin: bytes) -> str:
    formats = (
        "A model must be a .keras, HDF5 or JSON file, or the folder of a SavedModel or preset. Received: "
    )
    if not begin:
        return f"{formats}{name}, which is empty."
    if begin.startswith(PICKLE):
        return (
            f"{formats}{name}, a pickle, which runs any code that its writer chose. "
            "Pass trust=True if you trust its writer."
        )
    return (
        f"{formats}{name}, which begins with {begin!r}. A file that lost its first bytes looks like this too."
    )
