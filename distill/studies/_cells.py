"""What a cell counts and saves of its model."""

import gzip
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from distill import cost
from distill._keras import twin
from distill._types import Tensor
from distill._untouched import same_attributes


def logits(model: Callable[..., Tensor], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns a model's outputs for all examples.

    It does what `predict` does. For a small network, `predict` spends more time compiling than computing.

    Example:
        ```python
        from distill import studies

        predicted = studies.logits(student, x).argmax(axis=1)
        ```
    """
    parts = [model(x[start : start + 500], training=False) for start in range(0, len(x), 500)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def costs(network: keras.Model, file: Path) -> dict[str, int]:
    """Returns what a network costs, as result.json holds it.

    Args:
        network: the network.
        file: the saved network.

    Returns:
        "parameters", "nonzero" (the parameters that are not 0), "macs" for one example, "file_bytes" for the bytes of
        the file, and "gzip_bytes" for those of its compressed content.
    """
    return {
        "parameters": cost.parameters(network),
        "nonzero": sum(int(np.count_nonzero(weights)) for weights in network.get_weights()),
        "macs": cost.macs(network),
        "file_bytes": file.stat().st_size,
        "gzip_bytes": len(gzip.compress(_content(file))),
    }


def _content(file: Path) -> bytes:
    """The content of a file; for a Keras archive, without the time of saving, in which equal models would differ."""
    if not zipfile.is_zipfile(file):
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return b"".join(archive.read(name) for name in archive.namelist() if name != "metadata.json")


def milliseconds(timed: Mapping[str, cost.Latency]) -> dict[str, dict[str, float]]:
    """Returns latencies by arm as study.json holds them: "median", "low" and "high" in milliseconds, and "runs"."""
    return {
        arm: {"median": one.median_ms, "low": one.low_ms, "high": one.high_ms, "runs": one.runs}
        for arm, one in timed.items()
    }


def save(network: keras.Model, file: Path) -> None:
    """Saves a network without its optimizer, which only networks trained alone have, so that file sizes compare."""
    # A copy from its config would lack what a layer learned besides weights, such as the words of a TextVectorization.
    shipped = twin(network, compiled=False, optimizer=None) if network.compiled else network
    with same_attributes(network):
        shipped.save(file)
