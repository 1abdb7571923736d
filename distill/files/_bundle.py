"""Read TensorFlow's bundles: an ".index" file that lists arrays, and ".data" files with their bytes.

TensorFlow's own reader trusts the index: it takes memory for whatever that declares. So the index is read here first,
and nothing is handed on that the files do not hold.
"""

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill.files._bounds import require_proportion

INDEX, _DATA = ".index", re.compile(r"\.data-\d{5}-of-\d{5}$")
# The index is a table of LevelDB, which ends in two places of blocks, padding and this number.
_FOOTER, _MAGIC = 48, struct.pack("<Q", 0xDB4775248B80FB57)
_AFTER_BLOCK = 5  # a byte that says how the block is compressed, and a checksum


class Entry(NamedTuple):
    """One array in a bundle.

    Attributes:
        shape: shape of the array.
        dtype: type of NumPy; `None` for strings.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | None


class Bundle:
    """The arrays of a checkpoint by key, which is checked when it is opened.

    Args:
        prefix: path to the checkpoint without ".index".

    Attributes:
        entries: arrays by key.

    Raises:
        ImportError: TensorFlow is not installed.
        ValueError: a file is damaged or missing, or declares more than the files hold.
    """

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        path = prefix.with_name(prefix.name + INDEX)
        _import_tensorflow(str(path))
        from google.protobuf.message import DecodeError
        from tensorflow.core.protobuf import tensor_bundle_pb2

        try:
            stored = dict(_bounded(path.read_bytes(), str(path)))
            header = tensor_bundle_pb2.BundleHeaderProto.FromString(stored.pop(b"", b""))
            found = {
                key.decode(): tensor_bundle_pb2.BundleEntryProto.FromString(value)
                for key, value in stored.items()
            }
            kinds = {key: _numpy_type(entry.dtype) for key, entry in found.items()}
        except (DecodeError, IndexError, TypeError, UnicodeDecodeError, struct.error) as error:
            raise ValueError(
                f"The index of this TensorFlow checkpoint is damaged. Received: {path}: {error}. "
                "Copy or download it again."
            ) from error
        self._found, self._shards = found, header.num_shards
        self.entries = {
            key: Entry(tuple(size.size for size in entry.shape.dim), kinds[key])
            for key, entry in found.items()
        }
        self._require_held()
        self._reader: Any = None

    def array(self, key: str) -> np.ndarray:
        """The value of an array.

        Raises:
            OSError: its bytes are not those that were written.
        """
        import tensorflow as tf

        try:
            if self._reader is None:
                self._reader = tf.train.load_checkpoint(str(self._prefix))
            return self._reader.get_tensor(key)
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            raise OSError(str(error)) from error

    def text(self, key: str) -> bytes:
        """The value of a scalar string, which is stored as its length, a checksum of that, and its bytes."""
        entry = self._found[key]
        with self._data(entry.shard_id).open("rb") as file:
            file.seek(entry.offset)
            raw = file.read(entry.size)
        length, begin = _varint(raw, 0)
        if length != len(raw) - begin - 4:
            raise ValueError(
                f"This TensorFlow checkpoint is damaged. Received: {self._prefix}, where {key} has {len(raw):,} bytes "
                f"for a text of {length:,}. Copy or download it again."
            )
        return bytes(self.array(key))

    def _data(self, shard: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.data-{shard:05d}-of-{self._shards:05d}")

    def _require_held(self) -> None:
        """Every array must lie in a file that is there, in bytes of its own, and have as many as its shape needs."""
        held: dict[int, int] = {}
        for key, entry in self._found.items():
            if entry.slices:
                raise ValueError(
                    "A checkpoint must hold each weight in one piece. Received: "
                    f"{self._prefix}{INDEX}, where {key} was partitioned over several servers. Load it with the "
                    "library that wrote it, and save it again without a partitioner."
                )
            path = self._data(entry.shard_id)
            if entry.shard_id not in held and not path.is_file():
                raise ValueError(
                    "A TensorFlow checkpoint consists of an index and files of data, in one folder and with one name. "
                    f"Received: {self._prefix}{INDEX}, whose {path.name} is missing. Copy it too."
                )
            held.setdefault(entry.shard_id, path.stat().st_size)
            shape, kind = self.entries[key]
            needed = None if kind is None else kind.itemsize * math.prod(shape)
            within = (
                entry.offset >= 0 and entry.size >= 0 and entry.offset + entry.size <= held[entry.shard_id]
            )
            if not within or needed not in (None, entry.size):
                raise ValueError(
                    "The arrays of a TensorFlow checkpoint must lie in its files of data. Received: "
                    f"{self._prefix}{INDEX}, where {key} takes {needed or entry.size:,} bytes at {entry.offset:,} of "
                    f"{path.name}, which has {held[entry.shard_id]:,}. Copy or download it again. "
                    "Nothing was allocated."
                )
        declared = sum(entry.size for entry in self._found.values())
        if declared > sum(held.values()):
            raise ValueError(
                "Each array of a TensorFlow checkpoint must have its own bytes. Received: "
                f"{self._prefix}{INDEX}, which declares {declared:,} bytes where its files hold "
                f"{sum(held.values()):,}. TensorFlow writes no such file."
            )


def prefix_of(path: Path) -> Path | None:
    """The path to a checkpoint without its endings, or `None` if there is none at `path`.

    Args:
        path: that path, or one of the files, or the folder of a checkpoint or of a SavedModel.

    Raises:
        ValueError: the folder has several checkpoints, and does not say which is the latest.
    """
    if path.is_dir():
        return _latest(path)
    if path.is_file():
        if _is_index(path):
            return path.with_name(path.name.removesuffix(INDEX))
        prefix = path.with_name(_DATA.sub("", path.name))
        if prefix == path:
            return None
    else:
        prefix = path
    return prefix if prefix.with_name(prefix.name + INDEX).is_file() else None


def _latest(folder: Path) -> Path | None:
    if (folder / "saved_model.pb").exists():
        return prefix_of(folder / "variables" / "variables")
    found = sorted(path for path in folder.glob(f"*{INDEX}") if _is_index(path))
    state = folder / "checkpoint"
    if state.is_file():
        # A path in it may be that of another machine. Whatever it says, the checkpoint lies beside it.
        said = re.search(rb'^model_checkpoint_path: "(.*)"$', state.read_bytes(), re.MULTILINE)
        name = Path((said[1] if said else b"").decode(errors="replace")).name
        if folder / f"{name}{INDEX}" in found:
            return folder / name
        if found:
            raise ValueError(
                "The checkpoint that a folder names as its latest must lie in it. Received: "
                f"{folder}, which names {name!r} and has {[path.name for path in found[:5]]}. Pass the path of one."
            )
    if len(found) > 1:
        raise ValueError(
            "The folder of a TensorFlow checkpoint must say which is the latest, in a file called checkpoint. "
            f"Received: {folder}, with {[path.name for path in found[:5]]}. Pass the path of one."
        )
    return prefix_of(found[0]) if found else None


def _is_index(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size < _FOOTER:
        return False
    with path.open("rb") as file:
        file.seek(-len(_MAGIC), 2)
        return file.read() == _MAGIC


def _bounded(content: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """As `_table`, for as long as what a few bytes stand for stays in proportion."""
    declared = 0
    for key, value in _table(content):
        declared += len(key) + len(value) + 1
        require_proportion(declared, len(content), name)
        yield key, value


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in order."""
    footer = content[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise IndexError("its end is not that of an index")
    _, at = _handle(footer, 0)
    place, _ = _handle(footer, at)
    for _, value in _block(content, *place):
        yield from _block(content, *_handle(value, 0)[0])


def _handle(raw: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Place and size of a block, and where the bytes that say so end."""
    offset, at = _varint(raw, at)
    size, at = _varint(raw, at)
    return (offset, size), at


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block. A key is given by what it shares with the one before, and the rest."""
    raw = content[offset : offset + size + _AFTER_BLOCK]
    if len(raw) != size + _AFTER_BLOCK or raw[size] != 0:
        raise IndexError(f"a block of {size:,} bytes at {offset:,} is compressed or not there")
    (restarts,) = struct.unpack("<I", raw[size - 4 : size])
    end, at, key = size - 4 - 4 * restarts, 0, b""
    if end < 0:
        raise IndexError(f"a block of {size:,} bytes has {restarts:,} restarts")
    while at < end:
        shared, at = _varint(raw, at)
        rest, at = _varint(raw, at)
        length, at = _varint(raw, at)
        if shared > len(key) or at + rest + length > end:
            raise IndexError(f"a key or value does not end in its block of {size:,} bytes")
        key = key[:shared] + raw[at : at + rest]
        at += rest
        yield key, raw[at : at + length]
        at += length


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise IndexError("a number has more than 64 bits")


def _numpy_type(dtype: int) -> np.dtype | None:
    import tensorflow as tf

    kind = tf.dtypes.as_dtype(dtype)
    return None if kind == tf.string else np.dtype(kind.as_numpy_dtype)


def _import_tensorflow(source: str) -> None:
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{source} is a TensorFlow checkpoint, and TensorFlow is not installed. Run: pip install tensorflow"
        ) from error
