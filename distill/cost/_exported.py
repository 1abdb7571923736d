"""Compares exported files with the model they came from: what they answer, how large and how fast they are."""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from distill._tables import aligned
from distill._types import Arrays, PathLike
from distill.cost._storage import file_bytes
from distill.cost._timing import Latency, in_turns
from distill.exports import Exported, inputs_by_name


@dataclasses.dataclass(frozen=True)
class ExportRow:
    """Measurements of one exported file.

    Attributes:
        accuracy: share of examples whose largest output is at the label, 0 to 1; `None` without labels.
        agreement: share of examples whose largest output is where the model's is, 0 to 1.
        largest_difference: largest difference of an output from the model's, in the unit of the outputs.
        bytes: size of the file, or of all files in the folder.
        latency: time of one example; on one thread for LiteRT and ONNX.

    Example:
    ```python
    from distill import cost, exports

    exports.export(model, "model.tflite")
    row = cost.compare_exports(model, {"float32": "model.tflite"}, x).rows["float32"]
    print(row.agreement, row.bytes)
    ```
    """

    accuracy: float | None
    agreement: float
    largest_difference: float
    bytes: int
    latency: Latency


@dataclasses.dataclass(frozen=True)
class ExportComparison:
    """A model and its exported files; `print` shows a table.

    Attributes:
        accuracy: accuracy of the model itself, 0 to 1; `None` without labels.
        bytes: size of the model's `.keras` file.
        rows: name -> measurements of each file.
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
    files: Mapping[str, PathLike],
    x: Arrays,
    y: Arrays | None = None,
    *,
    runs: int = 200,
) -> ExportComparison:
    """Runs exported files in their own runtimes and compares them with the model.

    Args:
        model: model with one output (examples, …, classes).
        files: name -> path that `export` wrote.
        x: inputs as the model takes them, arrays (examples, …); real ones, since accuracy and agreement depend on them.
        y: labels, int (examples, …) or (examples, …, 1).
        runs: number of timed runs of each file, in turn, as in `latencies`.

    Returns:
        The measurements of each file.

    Raises:
        ValueError: the model has several outputs, or one of fewer than two classes; a file's output has another
            shape; labels are not one integer per answer.

    Example:
        ```python
        from distill import cost, exports

        files = {
            precision: exports.export(student, f"{precision}.tflite", precision=precision)
            for precision in ("float32", "float16", "dynamic_range")
        }
        print(cost.compare_exports(student, files, x, y, runs=20))
        ```
    """
    inputs = inputs_by_name(model, x)
    expected = model.predict(x, verbose=0)
    if not isinstance(expected, np.ndarray):
        raise ValueError(
            f"Models of one output are compared. Received: {model.name!r}, which has {len(expected)}. "
            "Compare each output of `exports.Exported(path).predict` with the model's yourself."
        )
    if expected.shape[-1] < 2:
        raise ValueError(
            "Accuracy and agreement need an output with at least two classes. "
            f"Received: {model.name!r}, whose output has shape {expected.shape}. "
            "Compare the outputs of `exports.Exported(path).predict` yourself."
        )
    labels = None if y is None else _labels(np.asarray(y), expected)
    exported = {name: Exported(path) for name, path in files.items()}
    one = keras.tree.map_structure(lambda array: array[:1], inputs)
    latencies = in_turns({name: file.prepare(one) for name, file in exported.items()}, runs=runs)
    rows = {}
    for name, file in exported.items():
        found = file.predict(inputs)
        if isinstance(found, dict) or found.shape != expected.shape:
            raise ValueError(
                f"A file must answer in the shape of the model's output, {expected.shape}. "
                f"Received: {name!r}, {list(found) if isinstance(found, dict) else found.shape}. "
                "Compare it with the model that it was exported from."
            )
        rows[name] = ExportRow(
            accuracy=_accuracy(found, labels),
            agreement=float(np.mean(found.argmax(-1) == expected.argmax(-1))),
            largest_difference=float(np.max(np.abs(found - expected))),
            bytes=file.bytes,
            latency=latencies[name],
        )
    return ExportComparison(_accuracy(expected, labels), file_bytes(model), rows)


def _labels(y: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Labels with one integer per answer.

    Raises:
        ValueError: they are something else.
    """
    answers = expected.shape[:-1]
    if y.shape == (*answers, 1):
        y = y[..., 0]
    if y.shape != answers or y.dtype.kind not in "iu":
        raise ValueError(
            f"Labels must be integers, one per answer: shape {answers}. "
            f"Received: {y.dtype} {y.shape}. For one-hot labels pass y.argmax(-1)."
        )
    return y


def _accuracy(outputs: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else float(np.mean(outputs.argmax(-1) == labels))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
