"""What an application would ship of each arm: a LiteRT file, its size, and the time of one example through it."""

from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from distill import cost
from distill.exports import Exported, export
from distill.studies._cells import milliseconds
from distill.studies._declared import Design
from distill.studies._run import examples_of


def ship(
    design: Design, models: Mapping[str, Path], folder: Path
) -> tuple[dict[str, dict[str, float]], dict[str, int], list[str]]:
    """Writes a float32 LiteRT file for each model, and times all files in turns, on one thread.

    Args:
        design: the study; an example of its dev split is timed.
        models: arm -> file of its model. A `.tflite` or `.onnx` file is timed as it is.
        folder: folder for the LiteRT files; each is named after its arm.

    Returns:
        Latency and size in bytes by arm, as study.json has them, and a note on each arm that has none.
    """
    folder.mkdir(exist_ok=True)
    found: dict[str, Exported] = {}
    notes = []
    for arm, source in models.items():
        try:
            if source.suffix == ".keras":
                source = export(keras.models.load_model(source), folder / f"{arm}.tflite")
            found[arm] = Exported(source)
        except ValueError as error:
            notes.append(f"{arm} has no LiteRT file, size and latency: {' '.join(str(error).split())[:300]}")
    x, _ = examples_of(design.splits(0)[1])
    example = keras.tree.map_structure(lambda array: np.asarray(array[:1]), x)
    timed = cost.in_turns({arm: file.prepare(example) for arm, file in found.items()})
    return milliseconds(timed), {arm: file.bytes for arm, file in found.items()}, notes
