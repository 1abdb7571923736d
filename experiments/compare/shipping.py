"""What an application would ship of each arm: a LiteRT file, its size, and the time of one example through it."""

from collections.abc import Collection, Mapping
from pathlib import Path

import keras
import numpy as np

import distill
from distill import cost
from distill.exports import Exported
from distill.studies import milliseconds


def ship(
    sources: Mapping[str, Path], folder: Path, *, sparse: Collection[str] = ()
) -> tuple[dict[str, dict[str, float]], dict[str, int]]:
    """Writes a float32 LiteRT file for each network, and times all files in turns, on one thread.

    Args:
        sources: by arm, its network as a `.keras` file, or a LiteRT file that is shipped as it is.
        folder: folder for the files; each is named after its arm.
        sparse: arms whose zeros are left out of the file.

    Returns:
        Latency and size in bytes by arm, as study.json has them.
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
    timed = cost.in_turns({arm: file.prepare(image) for arm, file in files.items()})
    return milliseconds(timed), {arm: file.bytes for arm, file in files.items()}
