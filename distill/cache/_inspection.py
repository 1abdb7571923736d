"""What is inside a cache."""

import dataclasses
from pathlib import Path

import numpy as np

from distill._tables import aligned
from distill._types import PathLike
from distill.cache._manifest import Manifest
from distill.cache._shards import Shards, present


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a cache holds; `print` shows it as a table.

    Attributes:
        path: folder of the cache.
        teacher: name of the teacher.
        fingerprint: fingerprint of the teacher's weights or file; `None` for a function.
        examples: number of examples.
        shards: number of shards.
        missing: numbers of the shards that are not recorded yet.
        damaged: what is wrong with each damaged shard, by its number.
        bytes: size of the files.
        dense_bytes: size of the same answers with all numbers kept in float32.
        rows: for each answer, its name, shape, target and bytes per example.
    """

    path: Path
    teacher: str
    fingerprint: str | None
    examples: int
    shards: int
    missing: tuple[int, ...]
    damaged: dict[int, str]
    bytes: int
    dense_bytes: int
    rows: tuple[tuple[str, tuple[int, ...], str, int], ...]

    def __str__(self) -> str:
        kept = [("answer", "shape", "kept as", "bytes per example")]
        kept += [
            (name, " × ".join(map(str, shape)), target, f"{size:,}")
            for name, shape, target, size in self.rows
        ]
        whole = self.shards - len(self.missing) - len(self.damaged)
        lines = [
            f"Answers of {self.teacher!r} to {self.examples:,} examples, weights {self.fingerprint or 'unknown'}",
            f"{whole} of {self.shards} shards, {self.bytes:,} bytes: {self.bytes / self.dense_bytes:.2%} of float32",
            "",
            *aligned(kept, "<<<>"),
        ]
        if self.missing:
            lines += ["", f"missing: {', '.join(map(str, self.missing))}"]
        lines += [
            line for number, error in self.damaged.items() for line in ("", f"damaged: {number}: {error}")
        ]
        return "\n".join(lines)

    __repr__ = __str__  # a notebook shows the table


def inspect(path: PathLike) -> Contents:
    """Says what is in a cache, complete or not. It reads the whole cache to compare the checksums.

    Args:
        path: folder of the cache.

    Raises:
        FileNotFoundError: there is no cache.
        ValueError: its description cannot be read.

    Example:
        ```python
        from distill import cache

        cache.record(teacher, x, "cache", targets=cache.TopK(2), verbose=0)
        print(cache.inspect("cache"))
        ```
    """
    folder = Path(path)
    manifest = Manifest.read(folder)
    shards = Shards(folder, manifest)
    damaged = {}
    files = present(folder)
    for number in sorted(files.keys() & set(range(manifest.shards))):
        try:
            shards.map(number)
        except (OSError, ValueError) as error:
            damaged[number] = str(error)
    rows = tuple(
        (answer.label, answer.shape, str(target), target.bytes_of(answer.shape))
        for answer, target in zip(manifest.answers, manifest.targets, strict=True)
    )
    dense = sum(4 * int(np.prod(answer.shape)) for answer in manifest.answers)
    return Contents(
        folder,
        manifest.teacher,
        manifest.fingerprint,
        manifest.examples,
        manifest.shards,
        tuple(shards.missing()),
        damaged,
        sum(file.stat().st_size for file in files.values()),
        dense * manifest.examples,
        rows,
    )
