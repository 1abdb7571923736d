"""Writes every layer and operation of Keras to every format, and compares what the files answer with the model.

Each of the tiny models of layer_models.py goes to LiteRT in float32, int8 and int16×8, to ONNX, to a SavedModel and to
a .keras file, with 60 random examples. Besides the check that `export` makes, the answers of each file on these
examples are compared here again: a file is wrong if an output is off by more than 0.001 of its span (0.2 in integers)
for more than one example in twenty.

Command: scripts/checks/formats. It takes about 25 minutes on two cores; give names to check only some of the models.
Writes docs/formats.md, unless names are given, and prints the table.
Expected: no file is wrong, and none ends its process. Exit status 1 otherwise.
"""

import dataclasses
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tyro
from layer_models import MODELS
from sweep import COUNT, DOCS, Cell, Page, answers, examples_of, number, run, short

from distill.exports import Exported, inputs_by_name
from distill.exports._checking import Fault
from distill.exports._export import write_checked
from distill.exports._inputs import named
from distill.exports._litert import LiteRTFormat

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
HEAD = f"""# What each format can do with each layer of Keras

Each row is a tiny model around one layer or operation, usually between two layers with weights. It was written to each
format with `distill.exports.export` (`.keras`: `model.save`), and the file was run on {COUNT} random examples.

- A **number** is the largest difference between the file's outputs and the model's, as a share of the outputs' span.
  The model is written, and the file was right.
- A **dash** means that `export` refuses, and writes no file; the words say why. In capitals are LiteRT's names of
  operations. "float32 only": it has no integer kernel for them. "no kernel": it has none of that precision. "wrong":
  the file was run, and it answered otherwise.

Where an operation has no integers, `precision="dynamic_range"` computes it in float32 and the rest in integers.

{{counts}}

Written by `scripts/checks/formats`; do not edit. Versions: {{versions}}. The models are in
`scripts/checks/layer_models.py`.

"""
PAGE = Page(
    DOCS / "formats.md",
    HEAD,
    {name: f"written to {name}" for name in FORMATS},
    ("keras", "tensorflow", "ai-edge-litert", "onnx", "onnxruntime", "tf2onnx"),
)


@dataclasses.dataclass(frozen=True)
class Check:
    """Writes the layers and operations of Keras to every format.

    Attributes:
        names: models of layer_models.py, such as "Conv2D"; all by default.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = tuple(MODELS)


def difference(want: np.ndarray, got: np.ndarray) -> np.ndarray:
    """For each example, the largest difference of an output as a share of the outputs' span."""
    want, got = want.astype("float64"), got.astype("float64")
    span = max(np.ptp(want), 0.01 * np.abs(want).max()) or 1.0
    return np.abs(want - got).reshape(len(want), -1).max(-1) / span


# What a fault says -> what the table says.
REASONS = {
    r"for which it computes (?:DEQUANTIZE|QUANTIZE) in float32": "float32 in part",
    r"for which it computes (.*) in float32": r"float32 only: \1",
    r"which needs (.*)": r"no kernel: \1",
    r"whose file does not: .*": "its file does not run",
    r"whose output .* is wrong in the file: (.*)": r"wrong: \1",
    r"where the scale of .*": "a scale is not finite",
    r"which the converter refuses: (.*)": r"LiteRT's converter refuses: \1",
    r"which tf2onnx cannot convert: (.*)": r"tf2onnx cannot convert it: \1",
    r"(?:which|where|whose) (.*)": r"\1",
}


def reason(received: str) -> str:
    """Why there is no file, in a few words."""
    text = re.sub("DEQUANTIZE, |, DEQUANTIZE", "", " ".join(received.split()))
    for pattern, words in REASONS.items():
        if (match := re.fullmatch(pattern, text)) is not None:
            return short(match.expand(words))
    return short(text)


def cell(name: str, column: str) -> Cell:
    """Writes one model in one format."""
    keras.utils.clear_session()  # names of layers begin at 0, whatever was built before
    model = MODELS[name]()
    x, tolerance = examples_of(model), TOLERANCES.get(column, 1e-3)
    want = answers(model, x)
    file, options = FORMATS[column]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, file)
        if path.suffix == ".keras":
            try:
                model.save(path)
            except NotImplementedError as error:  # of operations that are made of functions
                return Cell(f"– Keras cannot save it: {short(str(error))}")
            try:
                loaded = keras.models.load_model(path)
            except Exception as error:  # Keras' own: some layers refuse their own settings
                return Cell(f"– Keras cannot load it: {short(str(error))}")
            got = answers(loaded, x)
        else:
            try:
                # Not `export`, which goes on to look for the layer: here it is known.
                write_checked(model, path, LiteRTFormat(**options), named(model, x))
            except Fault as fault:
                return Cell(f"– {reason(fault.received)}")
            found = Exported(path).predict(inputs_by_name(model, x))
            got = _in_order(model, found) if isinstance(found, dict) else [found]
    if [one.shape for one in got] != [one.shape for one in want]:
        return Cell("WRONG: other outputs", wrong=True)
    distances = np.max([difference(*pair) for pair in zip(want, got, strict=True)], axis=0)
    wrong = not np.mean(distances <= tolerance) >= 0.95
    return Cell(f"{'WRONG: ' * wrong}{number(np.max(distances))}", done=True, wrong=wrong)


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
            cells.append(Cell(f"BROKEN: {type(error).__name__}: {short(str(error))}", wrong=True))
    return cells


if __name__ == "__main__":
    sys.exit(run(row, tyro.cli(Check).names, PAGE))
