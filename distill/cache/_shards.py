"""The files of a cache: shards of rows that numpy maps into memory, each with its checksum in its name.

A shard is a `.npy` file of a structured array, a row for each example, so any row is read with one access. Its name is
its number and the checksum of its bytes: `00003-1a2b3c4d.npy`. It appears whole or not at all, and so do two from two
processes: neither writes what the other reads.
"""

import io
import re
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from distill._atomic import replacing
from distill.cache._manifest import Manifest

_NAME = re.compile(r"(\d{5,})-([0-9a-f]{8})\.npy")
_BLOCK = 1 << 24


def write(folder: Path, shard: int, rows: np.ndarray) -> None:
    """Writes a shard, whole or not at all."""
    checksum = _Checksum()
    np.save(checksum, rows, allow_pickle=False)  # the name comes before the bytes, which are not held twice
    with replacing(folder / f"{shard:05d}-{checksum.value:08x}.npy") as draft, draft.open("wb") as file:
        np.save(file, rows, allow_pickle=False)


class _Checksum(io.RawIOBase):
    """A file that keeps of what is written to it the checksum alone."""

    value = 0

    def write(self, content: Any) -> int:
        self.value = zlib.crc32(content, self.value)
        return len(content)


def present(folder: Path) -> dict[int, Path]:
    """Returns the shards that are there, by number."""
    found = {}
    for path in sorted(folder.iterdir(), reverse=True):  # of two of one number, the first counts
        if match := _NAME.fullmatch(path.name):
            found[int(match[1])] = path
    return found


class Shards:
    """Reads rows of examples out of the shards of a cache.

    A shard is mapped into memory when its first row is asked for, and its checksum is compared then. Memory
    holds only the rows that were asked for, and what the system keeps of the files.

    Args:
        folder: folder of the cache.
        manifest: what it says of itself.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._row = manifest.row
        self._maps: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def missing(self) -> list[int]:
        """Returns the numbers of shards that are not there."""
        return sorted(set(range(self._manifest.shards)) - present(self._folder).keys())

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Returns the rows of examples, a structured array.

        Args:
            ids: integers (n,) within the range of the examples.

        Raises:
            ValueError: a shard is missing or damaged.
        """
        numbers, places = np.divmod(ids, self._manifest.shard_size)
        found = np.empty(len(ids), self._row)
        for number in np.unique(numbers):
            chosen = numbers == number
            found[chosen] = self.map(int(number))[places[chosen]]
        return found

    def map(self, number: int) -> np.ndarray:
        """Returns all rows of a shard, mapped into memory, once its checksum has been compared."""
        rows = self._maps.get(number)
        if rows is None:
            with self._lock:
                rows = self._maps.get(number)  # another thread may have opened it
                if rows is None:
                    rows = self._maps[number] = self._open(number)
        return rows

    def _open(self, number: int) -> np.ndarray:
        path = present(self._folder).get(number)
        first = number * self._manifest.shard_size
        size = self._manifest.size_of(number)
        if path is None:
            raise ValueError(
                f"A cache must have all its shards. Received: {str(self._folder)!r} without shard {number}, examples "
                f"{first} to {first + size - 1}. Call cache.record again with the same teacher and data: it records "
                "what is missing."
            )
        advice = "Delete the file and call cache.record again: it records that shard alone."
        wanted, checksum = _NAME.fullmatch(path.name)[2], 0  # type: ignore[index]
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
        if f"{checksum:08x}" != wanted:
            raise ValueError(
                "A shard must have the bytes that were recorded. Received: "
                f"{str(path)!r}, {path.stat().st_size:,} bytes with checksum {checksum:08x} in the place of {wanted}: "
                f"it is damaged or cut short. {advice}"
            )
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.dtype != self._row or rows.shape != (size,):
            raise ValueError(
                f"A shard must hold what the cache's description says. Received: {str(path)!r} with rows {rows.dtype} "
                f"of shape {rows.shape} where {self._row} of shape {(size,)} is expected. {advice}"
            )
        return np.asarray(rows)
