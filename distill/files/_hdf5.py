"""Read the weights in HDF5 files, without following links that lead out of them."""

import contextlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from distill.files._bounds import require_proportion
from distill.files._parts import Part, Parts, Weight, name_at, owner_of

_STATES = ("optimizer", "metrics")
_OLD_LAYERS = (
    "_layer_checkpoint_dependencies",
    "layers",
)  # what Keras 2.12 and 2.13 called them, and what others do
SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextlib.contextmanager
def opened(source: Path | io.BytesIO, name: str, held: int | None = None) -> Iterator[h5py.File]:
    """Open an HDF5 file that holds what it declares.

    Args:
        source: path to the file, or its content.
        name: name of the file in errors.
        held: bytes that the content takes on disk, if it was compressed there.

    Raises:
        ValueError: the file is truncated, is not HDF5, points at other files, or declares far more than it holds.
    """
    size = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        if "truncated" in str(error):
            raise ValueError(
                f"This HDF5 file is truncated. Received: {name}, which ends after {size:,} bytes. "
                "Copy or download it again."
            ) from error
        raise ValueError(f"This HDF5 file cannot be read. Received: {name}: {error}.") from error
    with file:
        try:
            declared = _require_own(file, name)
        except (OSError, RuntimeError, KeyError) as error:
            raise ValueError(
                f"This HDF5 file is damaged. Received: {name}: {error}. Copy or download it again."
            ) from error
        require_proportion(declared, size if held is None else held, name)
        yield file


def _require_own(file: h5py.File, name: str) -> int:
    """Count the bytes that the arrays declare; all must lie in this file and be reached by plain links."""
    pointing: list[str] = []
    declared = 0

    def link(path: str, found: object) -> None:
        if not isinstance(found, h5py.HardLink):
            pointing.append(f"{path} ({type(found).__name__})")

    def member(path: str, found: h5py.Group | h5py.Dataset) -> None:
        nonlocal declared
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                pointing.append(f"{path} (data of another file)")
            declared += found.size * found.dtype.itemsize if found.shape is not None else 0

    file.visititems_links(link)
    file.visititems(member)
    if pointing:
        raise ValueError(
            "A model file must hold its own weights. Received: "
            f"{name}, which points elsewhere: {', '.join(sorted(pointing)[:3])}. Keras writes no such file."
        )
    return declared


def text(holder: h5py.File | h5py.Group, key: str) -> str | None:
    """An attribute that holds text, which old files keep as bytes; `None` if there is none."""
    value = holder.attrs.get(key)
    if value is not None and not isinstance(value, bytes | str):
        raise ValueError(
            f"The attribute {key} of a Keras file must be text. Received: {value!r} in {holder.file.filename}."
        )
    return value.decode() if isinstance(value, bytes) else value


def is_legacy(file: h5py.File) -> bool:
    """Whether the weights are in the older layout."""
    group = file.get("model_weights", file)
    return "layer_names" in group.attrs or "layer_names0" in group.attrs


def keras3_parts(file: h5py.File | h5py.Group) -> Parts:
    """The weights of a file in Keras 3's layout, without the state of optimizers and metrics."""
    names: dict[str, str] = {}
    found: dict[str, dict[str, Weight]] = {}

    def member(path: str, item: h5py.Group | h5py.Dataset) -> None:
        place, _, last = path.replace(*_OLD_LAYERS).rpartition("/")
        if isinstance(item, h5py.Group) and last == "vars" and "name" in item.attrs:
            names[place] = str(item.attrs["name"])
        elif isinstance(item, h5py.Dataset) and place.rpartition("/")[2] == "vars":
            found.setdefault(place.rpartition("/")[0], {})[last] = _weight(last, item)

    file.visititems(member)
    return {
        path: Part(name_at(path, names) if path in names else None, weights)
        for path, weights in found.items()
        if path.split("/")[0] not in _STATES
    }


def models_in(file: h5py.File) -> Iterator[tuple[str, str | None, Parts]]:
    """Place, name and weights of each layer with layers in it, in a file in Keras 3's layout."""
    groups: list[str] = []

    def member(path: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group) and path.split("/")[0] not in _STATES and "vars" in item:
            groups.append(path)  # a layer, not a list of layers

    file.visititems(member)
    for path in groups:
        parts = keras3_parts(file[path])
        if set(parts) - {""}:
            yield path.replace(*_OLD_LAYERS), text(file[path]["vars"], "name"), parts


def legacy_parts(file: h5py.File) -> Parts:
    """The weights of a file in the older layout.

    Raises:
        KeyError: the file lists a weight that it does not contain.
        ValueError: the file lists an array twice: a few bytes could then stand for all weights of a large model.
    """
    group = file.get("model_weights", file)
    parts = []
    seen: dict[int, str] = {}

    def listed(label: str, dataset: h5py.Dataset) -> Weight:
        address = h5py.h5o.get_info(dataset.id).addr
        if address in seen:
            raise ValueError(
                f"Each weight in a file must have its own array. Received: {file.filename}, where {dataset.name!r} is "
                f"{seen[address]!r} too. Keras writes no such file."
            )
        seen[address] = str(dataset.name)
        short = label.rpartition("/")[2].removesuffix(":0")
        return _weight(short, dataset)._replace(owner=owner_of(label))

    for name in _listed(group, "layer_names"):
        weights = {
            str(i): listed(key, group[name][key])
            for i, key in enumerate(_listed(group[name], "weight_names"))
        }
        parts.append(Part(name.replace("/", "_"), weights))
    if "top_level_model_weights" in group:
        own = group["top_level_model_weights"]
        keys = _listed(own, "weight_names")
        parts.append(Part("top_level_model_weights", {str(i): listed(k, own[k]) for i, k in enumerate(keys)}))
    return {str(place): part for place, part in enumerate(part for part in parts if part.weights)}


def _listed(group: h5py.Group, key: str) -> list[str]:
    """An attribute that lists names; Keras stores a long one in several pieces."""
    numbered = (f"{key}{i}" for i in itertools.count())
    pieces = [key] if key in group.attrs else itertools.takewhile(group.attrs.__contains__, numbered)
    values = [value for piece in pieces for value in group.attrs[piece]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _weight(label: str, dataset: h5py.Dataset) -> Weight:
    def read() -> np.ndarray:
        # HDF5 has no bfloat16, so the file holds bytes and an attribute that gives their type.
        if dataset.attrs.get("dtype") == "bfloat16":
            return np.array(dataset, dtype=ml_dtypes.bfloat16)
        return np.array(dataset)

    return Weight(label, tuple(dataset.shape), read)
