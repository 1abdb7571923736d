"""Writes every layer and operation of Keras to every format, and compares what the files answer with the model.

Each of the tiny models of layer_models.py goes to LiteRT in float32, int8 and int16×8, to ONNX, to a SavedModel and to
a .keras file, with 60 random examples. What a file answers on them is compared here again, apart from the check that
`export` makes: a file is wrong if an output is off by more than 0.001 of its span (0.2 in integers) for more than one
example in twenty.

Command: scripts/checks/formats. It takes about 25 minutes on two cores; names choose some of the models. Writes
docs/formats.md, unless names are given, and prints the table.
Expected: no file is wrong, and none ends its process. Exit status 1 otherwise.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tyro
from layer_models import MODELS

from distill.exports import Exported, inputs_by_name
from distill.exports._checking import Fault
from distill.exports._export import write_checked
from distill.exports._inputs import named
from distill.exports._litert import LiteRTFormat

COUNT = 60
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
# Column -> name of the file, and options of `export`.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "LiteRT float32": ("model.tflite", {}),
    "LiteRT int8": ("model.tflite", {"precision": "int8"}),
    "LiteRT int16×8": ("model.tflite", {"precision": "int16x8"}),
    "ONNX": ("model.onnx", {}),
    "SavedModel": ("model", {}),
    ".keras": ("model.keras", {}),
}
TOLERANCES = {"LiteRT int8": 0.2, "LiteRT int16×8": 0.2}
HEAD = """# What each format can do with each layer of Keras

Written by `scripts/checks/formats` with Keras {keras}: do not edit. Each row is a tiny model around one layer or
operation (`scripts/checks/layer_models.py`). A number is the largest difference of the file's outputs from the model's,
as a share of their span, over {count} random examples; words say why `distill.export` refuses. Gaps of integers often
come from a single operation: `precision="dynamic_range"` computes such layers in float32.

{counts}

"""


@dataclasses.dataclass(frozen=True)
class Check:
    """Writes the layers and operations of Keras to every format.

    Attributes:
        names: models of layer_models.py, such as "Conv2D"; all by default.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = tuple(MODELS)


@dataclasses.dataclass(frozen=True)
class Cell:
    """What came of one model in one format.

    Attributes:
        text: the difference, or why there is no file.
        written: whether there is a file.
        wrong: whether the file answers otherwise, or something broke.
    """

    text: str
    written: bool = False
    wrong: bool = False


def examples_of(model: keras.Model) -> Any:
    """Random examples in the structure that the model takes: ids below 5, words, or normal numbers."""
    rng = np.random.default_rng(0)

    def array(tensor: Any) -> np.ndarray:
        shape = [COUNT, *(size or 12 for size in tensor.shape[1:])]
        if "int" in tensor.dtype:
            return rng.integers(0, 5, shape).astype(tensor.dtype)
        if tensor.dtype == "string":
            return rng.choice(np.array(["a", "b", "c"], object), shape)
        return rng.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(array, model.input)


def answers(model: keras.Model, x: Any) -> list[np.ndarray]:
    """The model's outputs in inference, in batches of its own size if it has one."""
    batch = keras.tree.flatten(model.input)[0].shape[0] or COUNT
    parts = []
    with keras.StatelessScope():
        for start in range(0, COUNT, batch):
            chosen = slice(start, start + batch)
            given = keras.tree.map_structure(
                lambda array, at=chosen: keras.ops.convert_to_tensor(array[at]), x
            )
            outputs = keras.tree.flatten(model(given, training=False))
            parts.append([keras.ops.convert_to_numpy(output) for output in outputs])
    return [np.concatenate(output) for output in zip(*parts, strict=True)]


def difference(want: np.ndarray, got: np.ndarray) -> np.ndarray:
    """For each example, the largest difference of an output as a share of the outputs' span."""
    want, got = want.astype("float64"), got.astype("float64")
    span = max(np.ptp(want), 0.01 * np.abs(want).max()) or 1.0
    return np.abs(want - got).reshape(len(want), -1).max(-1) / span


def _short(text: str) -> str:
    return " ".join(text.split())[:110].replace("|", "/")


def cell(name: str, column: str) -> Cell:
    """Writes one model in one format."""
    model = MODELS[name]()
    x, tolerance = examples_of(model), TOLERANCES.get(column, 1e-3)
    want = answers(model, x)
    file, options = FORMATS[column]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, file)
        if path.suffix == ".keras":
            model.save(path)
            got = answers(keras.models.load_model(path), x)
        else:
            try:
                # Not `export`, which goes on to look for the layer: here it is known.
                write_checked(model, path, LiteRTFormat(**options), named(model, x))
            except Fault as fault:
                return Cell(f"– {_short(fault.received)}")
            found = Exported(path).predict(inputs_by_name(model, x))
            got = _in_order(model, found) if isinstance(found, dict) else [found]
    if [one.shape for one in got] != [one.shape for one in want]:
        return Cell("WRONG: other outputs", wrong=True)
    distances = np.max([difference(*pair) for pair in zip(want, got, strict=True)], axis=0)
    wrong = not np.mean(distances <= tolerance) >= 0.95
    return Cell(f"{'WRONG: ' * wrong}{np.max(distances):.0e}", written=True, wrong=wrong)


def _in_order(model: keras.Model, found: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a file in the order of the model's."""
    paths = ["/".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(model.output)]
    return [found[path if path in found else f"output_{path}"] for path in paths]


def row(name: str) -> list[Cell]:
    """One model in all formats."""
    cells = []
    for column in FORMATS:
        try:
            cells.append(cell(name, column))
        except Exception as error:  # a fault of the library, which the table shows
            cells.append(Cell(f"BROKEN: {type(error).__name__}: {_short(str(error))}", wrong=True))
    return cells


def rows(names: tuple[str, ...]) -> Iterator[tuple[str, list[Cell]]]:
    """All rows, from processes that are replaced: TensorFlow never frees what it has traced."""
    for start in range(0, len(names), 20):
        waiting = list(names[start : start + 20])
        while waiting:
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=multiprocessing.get_context("spawn")
            ) as pool:
                try:
                    while waiting:
                        yield waiting[0], pool.submit(row, waiting[0]).result()
                        waiting.pop(0)
                except concurrent.futures.process.BrokenProcessPool:
                    yield waiting.pop(0), [Cell("BROKEN: the process ended", wrong=True)] * len(FORMATS)


def main(options: Check) -> int:
    """Prints the table as it grows and writes the page; returns the exit status."""
    if unknown := sorted(set(options.names) - set(MODELS)):
        raise SystemExit(f"names must be of layer_models.py. Received: {', '.join(unknown)}.")
    lines = [f"| layer or operation | {' | '.join(FORMATS)} |", f"|---|{'---|' * len(FORMATS)}"]
    print("\n".join(lines))
    found = []
    for name, cells in rows(options.names):
        found.append(cells)
        lines.append(f"| {name} | {' | '.join(one.text for one in cells)} |")
        print(lines[-1], flush=True)
    written = [sum(cells[i].written for cells in found) for i in range(len(FORMATS))]
    counts = ", ".join(f"{count} in {name}" for name, count in zip(FORMATS, written, strict=True))
    wrong = sum(one.wrong for cells in found for one in cells)
    print(f"\nOf {len(found)} models are written: {counts}. {wrong} are wrong.")
    if options.names == Check().names:
        PAGE.parent.mkdir(exist_ok=True)
        counts = f"Of {len(found)} models are written: {counts}."
        PAGE.write_text(
            HEAD.format(keras=keras.__version__, count=COUNT, counts=counts) + "\n".join(lines) + "\n"
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check)))
