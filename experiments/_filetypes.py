"""Files of this machine and what Magika says they are, for the study `cached`.

Magika (PyPI `magika`) reads 2,048 bytes of a file, half of them from each end, and tells 214 types apart.
"""

import functools
import hashlib
import importlib.util
import os
from collections import defaultdict
from pathlib import Path

import numpy as np

from distill import exports

TYPES = 214
HALF, PADDING, BLOCK, LEAST = 1024, 256, 4096, 8  # what Magika reads of a file: its two ends
ALIKE, FILES = 12, 1800  # files of one suffix, and in all


def magika():
    """Magika's network, a file.

    Raises:
        ImportError: it is not installed.
    """
    found = importlib.util.find_spec("magika")
    if found is None or found.origin is None:
        raise ImportError(
            "task=filetypes learns from Magika's network, which is in the package magika. Received: no such package. "
            "Run: pip install magika==1.0.3 onnxruntime"
        )
    return next(Path(found.origin).parent.glob("models/*/model.onnx"))


def ends(content):
    """The two ends of a file as Magika reads them, (2048,) int32; `None` if there is too little in it.

    256 stands where there is nothing.
    """
    first, last = content[:BLOCK].lstrip()[:HALF], content[-BLOCK:].rstrip()[-HALF:]
    if len(content) <= BLOCK:
        first, last = content.strip()[:HALF], content.strip()[-HALF:]
    if len(first) < LEAST:
        return None
    x = np.full(2 * HALF, PADDING, "int32")
    x[: len(first)] = np.frombuffer(first, "uint8")
    x[len(x) - len(last) :] = np.frombuffer(last, "uint8")
    return x


def chosen(root):
    """Paths of files below a folder, at most so many of a suffix, in an order that their names alone decide."""
    by_suffix = defaultdict(list)
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                by_suffix[path.suffix.lower()].append(path)
    some = [path for paths in by_suffix.values() for path in sorted(paths, key=digest)[:ALIKE]]
    return sorted(some, key=digest)


def digest(path):
    """A number that a path decides."""
    return int(hashlib.sha256(str(path).encode()).hexdigest()[:15], 16)


@functools.cache
def files(root):
    """Train, dev and test: ends of files that differ, and the type that Magika names; no directory is in two splits."""
    seen, splits = set(), ([], [], [])
    for path in chosen(root):
        with path.open("rb") as file:
            content = file.read(BLOCK)
            file.seek(max(0, path.stat().st_size - BLOCK))
            x = ends(content if path.stat().st_size <= BLOCK else content + file.read(BLOCK))
        if x is None or x.tobytes() in seen:
            continue
        seen.add(x.tobytes())
        part = digest(path.parent) % 8
        splits[0 if part < 5 else 1 if part < 6 else 2].append(x)
        if len(seen) == FILES:
            break
    if not all(splits):
        raise ValueError(
            f"There must be files in a few directories. Received: root={root!r}, with {len(seen)} files that can be "
            "read. Pass another folder: --data task=filetypes root=/usr"
        )
    network = exports.Exported(magika())
    return tuple((np.stack(split), network.predict(np.stack(split)).argmax(axis=1)) for split in splits)
