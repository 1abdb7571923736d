"""Exported files beside the model they came from: what they answer, how large and how fast they are."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from distill._tables import aligned
from distill.cost._storage import file_bytes
from distill.cost._timing import Latency, in_turns
from distill.exports import Exported, inputs_by_name


@dataclasses.dataclass(frozen=True)
class ExportRow:
    """One exported file.

    Attributes:
        accuracy: share of examples whose largest output is the label's, or `None` without labels.
        agreement: share of examples whose largest output is the model's.
        largest_difference: of any output from the model's, in the outputs' own unit.
        bytes: of the file, or of all files of the folder.
        latency: of one example; LiteRT and ONNX on one thread.
    """

    accuracy: float | None
    agreement: float
    largest_difference: float
    bytes: int
    latency: Latency


@dataclasses.dataclass(frozen=True)
class ExportComparison:
    """A model's exported files; `str` of it is a table.

    Attributes:
        accuracy: of the model itself, or `None` without labels.
        bytes: of the model's `.keras` file.
        rows: by the names that were given.
    """

    accuracy: float | None
    bytes: int
    rows: dict[str, ExportRow]

    def __str__(self) -> str:
        head = ("", "accuracy", "agreement", "largest difference", "bytes", "ms")
        lines = [head, ("keras", _percent(self.accuracy), "", "", f"{self.bytes:,}", "")]
        for name, row in self.rows.items():
            shares = _percent(row.accuracy), _percent(row.agreement)
            size, time = f"{row.bytes:,}", f"{row.latency.median_ms:.3f}"
            lines.append((name, *shares, f"{row.largest_difference:.2g}", size, time))
        return "\n".join(aligned(lines, "<>>>>>"))


def compare_exports(
    model: keras.Model,
    files: Mapping[str, str | os.PathLike[str]],
    x: Any,
    y: Any = None,
    *,
    runs: int = 200,
) -> ExportComparison:
    """Runs exported files in their runtimes and compares them with the model.

    Args:
        model: with one output (examples, …, classes).
        files: name -> path, as `export` wrote them.
        x: inputs as the model takes them; real ones, as accuracy and agreement are.
        y: labels, int (examples, …) or (examples, …, 1), or `None`.
        runs: timed runs of each file, taking turns; see `cost.latencies`.

    Returns:
        What was measured of each.

    Raises:
        ValueError: the model has several outputs, or one of fewer than two classes; a file's output has another
            shape; labels are not one integer for each answer.

    Example:
        >>> files = {p: export(model, f"{p}.tflite", precision=p) for p in ("float32", "float16", "dynamic_range")}
        >>> print(compare_exports(model, files, x_dev, y_dev))
    """
    inputs = inputs_by_name(model, x)
    expected = model.predict(x, verbose=0)
    if not isinstance(expected, np.ndarray):
        raise ValueError(
            f"Models of one output are compared. Received: {model.name!r}, which has {len(expected)}. "
            "Compare those of `runtimes.Exported(path).predict` with the model's, one by one."
        )
    if expected.shape[-1] < 2:
        raise ValueError(
            "Accuracy and agreement are of the largest of several outputs. Received: "
            f"{model.name!r}, whose output is {expected.shape}. Compare what `runtimes.Exported(path).predict` answers."
        )
    labels = None if y is None else np.asarray(y)
    if labels is not None and labels.shape == (*expected.shape[:-1], 1):
        labels = labels[..., 0]
    if labels is not None and (labels.shape != expected.shape[:-1] or labels.dtype.kind not in "iu"):
        raise ValueError(
            f"Labels are integers, one for each answer: {expected.shape[:-1]}. "
            f"Received: {labels.dtype} {labels.shape}. Of one-hot labels pass y.argmax(-1)."
        )
    exported = {name: Exported(path) for name, path in files.items()}
    one = keras.tree.map_structure(lambda array: array[:1], inputs)
    latencies = in_turns({name: file.prepare(one) for name, file in exported.items()}, runs=runs)
    rows = {}
    for name, file in exported.items():
        found: Any = file.predict(inputs)
        if np.shape(found) != expected.shape:
            raise ValueError(
                f"A file answers as the model does, {expected.shape}. Received: {name!r}, {np.shape(found)}. "
                "Export the model that it is compared with."
            )
        rows[name] = ExportRow(
            _accuracy(found, labels),
            float(np.mean(np.argmax(found, -1) == np.argmax(expected, -1))),
            float(np.max(np.abs(found - expected))),
            file.bytes,
            latencies[name],
        )
    return ExportComparison(_accuracy(expected, labels), file_bytes(model), rows)


def _accuracy(outputs: Any, labels: np.ndarray | None) -> float | None:
    return None if labels is None else float(np.mean(np.argmax(outputs, -1) == labels))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
