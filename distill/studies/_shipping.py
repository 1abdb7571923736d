"""What an application would ship for each arm: a LiteRT file, its size, and the time of one example through it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np

from distill import cost
from distill._graphs import functional_of
from distill._types import Arrays
from distill.exports import Exported, export
from distill.studies._cells import milliseconds
from distill.studies._declared import Design
from distill.studies._run import examples_of


def ship(
    design: Design, models: Mapping[str, Path], folder: Path, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, int], list[str]]:
    """Writes a float32 LiteRT file for each model, and times all files in turns, on one thread.

    A file leaves out zeros if more than half of its kernels' weights are zero.

    Args:
        design: the study; an example of its dev split is timed.
        models: arm -> file of its model. A `.tflite` or `.onnx` file is timed as it is.
        folder: folder for the LiteRT files; each is named after its arm.
        seed: seed of the data.

    Returns:
        Latency and size in bytes by arm, as study.json holds them, and a note on each arm that has none.
    """
    folder.mkdir(exist_ok=True)
    calls: dict[str, Callable[[], object]] = {}
    sizes: dict[str, int] = {}
    notes: list[str] = []
    x, _ = examples_of(design.splits(seed)[1])
    for arm, source in models.items():
        try:
            if source.suffix == ".keras":
                model = keras.models.load_model(source, compile=False)
                if functional_of(model) is None:
                    model(_rows(x, 1))  # a model without a graph cannot be exported before it was called
                source = _exported(model, folder / f"{arm}.tflite", arm, notes)
            calls[arm], sizes[arm] = _prepared(Exported(source), x), Exported(source).bytes
        except Exception as error:  # whatever it is, it must not cost the study its report
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            notes.append(f"{arm} has no LiteRT file, size and latency ({reason}).")
    times: dict[str, dict[str, float]] = {}
    try:
        times = milliseconds(cost.in_turns(calls)) if calls else {}
    except Exception as error:
        notes.append(f"No arm has a latency ({' '.join(f'{type(error).__name__}: {error}'.split())[:300]}).")
    return times, sizes, notes


def _exported(model: keras.Model, path: Path, arm: str, notes: list[str]) -> Path:
    if _is_sparse(model):
        try:
            return export(model, path, sparse=True)
        except ValueError:  # LiteRT computes some sparse kernels wrongly, which `export` refuses
            notes.append(f"The LiteRT file of {arm} holds its zeros: LiteRT cannot run it without them.")
    return export(model, path)


def _is_sparse(model: keras.Model) -> bool:
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    size = sum(kernel.size for kernel in kernels)
    return sum(int(np.count_nonzero(kernel)) for kernel in kernels) < size / 2


def _prepared(file: Exported, x: Arrays) -> Callable[[], object]:
    """A call that runs one example, or as many as the file takes at a time."""
    return file.prepare(_rows(x, file.batch_size or 1))


def _rows(x: Arrays, count: int) -> Arrays:
    """The first example, repeated."""
    return keras.tree.map_structure(lambda array: np.take(array, [0] * count, axis=0), x)
