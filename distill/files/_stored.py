"""A stored model, whatever the format of its file: an architecture, weights, or both."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

from distill.files import _archive as archive
from distill.files import _hdf5 as hdf5
from distill.files._legacy import Config
from distill.files._parts import Parts

PICKLE = b"\x80"


class Stored(NamedTuple):
    """What a file holds.

    Attributes:
        source: how errors call it.
        config: the architecture as its writer stored it; `None` in a file of weights.
        version: of the Keras that wrote it; `None` where it does not say.
        parts: the weights; `None` in a file of an architecture.
        legacy: whether they are in the older layout.
        assets: a folder with what is no array; `None` if there is none.
    """

    source: str
    config: Config | None = None
    version: str | None = None
    parts: Parts | None = None
    legacy: bool = False
    assets: str | None = None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Stored]:
    """Opens a file by what it begins with, whatever its name ends in.

    Raises:
        ValueError: it is none of Keras' formats, or damaged, or holds other than its own weights.
        OSError: it is missing or cannot be read.
    """
    with path.open("rb") as file:
        begin = file.read(len(hdf5.SIGNATURE))
    name = str(path)
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
        yield Stored(name, config, config.get("keras_version"))
    else:
        raise ValueError(_unknown(name, begin))


def is_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle does."""
    with path.open("rb") as file:
        return file.read(1) == PICKLE


def parsed(text: str | bytes, source: str) -> Config:
    """JSON that holds an object."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"An architecture is stored as JSON. Received: {source}: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"An architecture is a JSON object. Received: {source}, a {type(config).__name__}.")
    return config


def _of_hdf5(file: h5py.File, name: str) -> Stored:
    legacy = hdf5.is_legacy(file)
    try:
        parts = hdf5.legacy_parts(file) if legacy else hdf5.keras3_parts(file)
        config = hdf5.text(file, "model_config")
    except (KeyError, AttributeError, OSError, RuntimeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"This HDF5 file lacks what it lists. Received: {name}: {error}.") from error
    return Stored(
        name,
        None if config is None else parsed(config, name),
        hdf5.text(file, "keras_version"),
        parts,
        legacy,
    )


def _unknown(name: str, begin: bytes) -> str:
    formats = "A model is a .keras, HDF5 or JSON file, or the folder of a SavedModel or preset. Received: "
    if not begin:
        return f"{formats}{name}, which is empty."
    if begin.startswith(PICKLE):
        return f"{formats}{name}, a pickle, which runs whatever code its writer chose. Pass trust=True if you know who."
    return f"{formats}{name}, which begins with {begin!r}. A file that was cut at its beginning looks so too."
