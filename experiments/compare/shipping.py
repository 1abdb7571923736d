"""What a user ships of each arm: a LiteRT file, its bytes, and the time of one example through it."""

from collections.abc import Collection, Mapping
from pathlib import Path

import keras
import numpy as np

import distill
from distill import cost
from distill.exports import Exported


def ship(
    sources: Mapping[str, Path], folder: Path, sparse: Collection[str] = ()
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Writes a LiteRT file of float32 for each network, and times all files in turn, on one thread.

    Args:
        sources: arm -> its network as a `.keras` file, or a file for LiteRT that is shipped as it is.
        folder: where the files are written, each by the name of its arm.
        sparse: arms whose zeros are left out of the file.

    Returns:
        Milliseconds of one example, and bytes, of each arm as `study.json` has them.
    """
    folder.mkdir(exist_ok=True)
    files = {}
    for arm, source in sources.items():
        if source.suffix == ".tflite":
            files[arm] = Exported(source)
            continue
        network = keras.models.load_model(source)
        files[arm] = Exported(distill.export(network, folder / f"{arm}.tflite", sparse=arm in sparse))
        image = np.random.default_rng(0).normal(size=(1, *network.input_shape[1:])).astype("float32")
    found = cost.in_turns({arm: file.prepare(image) for arm, file in files.items()})
    latency_ms = {
        arm: {"median": timed.median_ms, "low": timed.low_ms, "high": timed.high_ms, "runs": timed.runs}
        for arm, timed in found.items()
    }
    return latency_ms, {arm: file.bytes for arm, file in files.items()}
