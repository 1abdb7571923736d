"""Compares exported files with the model they came from: their outputs, their size and their speed."""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np

from distill._tables import aligned
from distill._types import Arrays, PathLike
from distill.cost._storage import file_bytes
from distill.cost._timing import Latency, in_turns
from distill.exports import Exported, inputs_by_name

# A metric of Keras, or a function of labels and outputs (examples, …).
Metric = Callable[[Arrays, Arrays], Arrays]


@dataclasses.dataclass(frozen=True)
class ExportRow:
    """Measurements of one exported file.

    Attributes:
        accuracy: share of examples whose class is the label, 0 to 1; `None` without labels, or if the outputs do not
            give classes.
        agreement: share of examples whose class is the model's, 0 to 1; `None` if the outputs do not give classes.
        metric: value of the metric for the file's outputs, in the metric's unit; `None` without a metric.
        largest_difference: largest difference of an output from the model's, in the unit of the outputs.
        bytes: size of the file, or of all files in the folder.
        latency: time of one example, or of one batch if the file fixes the batch size; on one thread for LiteRT and
            ONNX.

    Example:
    ```python
    from distill import cost, exports

    exports.export(model, "model.tflite")
    row = cost.compare_exports(model, {"float32": "model.tflite"}, x).rows["float32"]
    print(row.agreement, row.bytes)
    ```
    """

    accuracy: float | None
    agreement: float | None
    metric: float | None
    largest_difference: float
    bytes: int
    latency: Latency


@dataclasses.dataclass(frozen=True)
class ExportComparison:
    """A model and its exported files; `print` shows a table.

    Attributes:
        accuracy: accuracy of the model itself, 0 to 1; `None` in the same cases as for a row.
        metric: value of the metric for the model itself; `None` without a metric.
        metric_name: name of the metric, the head of its column.
        bytes: size of the model's `.keras` file.
        rows: name -> measurements of each file.
    """

    accuracy: float | None
    metric: float | None
    metric_name: str
    bytes: int
    rows: dict[str, ExportRow]

    def __str__(self) -> str:
        head = ["", "accuracy", "agreement", self.metric_name, "largest difference", "bytes", "ms"]
        lines = [
            head,
            ["keras", _percent(self.accuracy), "", _number(self.metric), "", f"{self.bytes:,}", ""],
        ]
        for name, row in self.rows.items():
            shares = _percent(row.accuracy), _percent(row.agreement)
            numbers = _number(row.metric), f"{row.largest_difference:.2g}"
            lines.append([name, *shares, *numbers, f"{row.bytes:,}", f"{row.latency.median_ms:.3f}"])
        kept = [i for i in range(len(head)) if i == 0 or any(line[i] for line in lines[1:])]
        rows = [[line[i] for i in kept] for line in lines]
        return "\n".join(aligned(rows, "<" + ">" * (len(kept) - 1)))


def compare_exports(
    model: keras.Model,
    files: Mapping[str, PathLike],
    x: Arrays,
    y: Arrays | None = None,
    *,
    metric: Metric | None = None,
    runs: int = 200,
) -> ExportComparison:
    """Runs exported files in their own runtimes and compares them with the model.

    The class of an output is the column in which it is largest. With one column, the class is whether the output is
    above 0.5, as in Keras' "accuracy", provided that the labels are 0 and 1 and the model's outputs are between them.

    Args:
        model: model with one output (examples, …, columns).
        files: name -> path that `export` wrote.
        x: inputs as the model takes them, arrays (examples, …); use real ones, since the comparison depends on them.
        y: labels; for accuracy, int (examples, …) or (examples, …, 1); for a metric of your own, whatever it takes.
        metric: a `keras.metrics.Metric`, or a function of labels and outputs such as
            `keras.metrics.mean_absolute_error`; if a function returns a value for each example, these are averaged.
        runs: number of timed runs of each file; the files take turns, as in `latencies`.

    Returns:
        The measurements of each file.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: a runtime is not installed.
        ValueError: the model has several outputs; a file's output has another shape; there is a metric but no labels;
            or, without a metric, the labels are not one integer per answer.

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
    if metric is not None and y is None:
        raise ValueError("A metric compares outputs with labels. Received: metric without y. Pass y.")
    if isinstance(metric, (str, type)):
        metric = keras.metrics.get(metric)
    inputs = inputs_by_name(model, x)
    expected = _single(model, model.predict(x, verbose=0))
    labels = None if y is None else np.asarray(y)
    classes_of, classes = _classes(expected, labels, required=labels is not None and metric is None)
    exported = {name: Exported(path) for name, path in files.items()}
    latencies = in_turns(
        {name: file.prepare(_first(inputs, file.batch_size or 1)) for name, file in exported.items()},
        runs=runs,
    )
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
            accuracy=_share(classes_of, found, classes),
            agreement=None if classes_of is None else _share(classes_of, found, classes_of(expected)),
            metric=_measured(metric, labels, found),
            largest_difference=float(np.max(np.abs(found - expected))),
            bytes=file.bytes,
            latency=latencies[name],
        )
    own = _measured(metric, labels, expected)
    return ExportComparison(
        _share(classes_of, expected, classes), own, _name(metric), file_bytes(model), rows
    )


def _single(model: keras.Model, outputs: Arrays) -> np.ndarray:
    """The only output of a model.

    Raises:
        ValueError: there are several.
    """
    parts = keras.tree.flatten(outputs)
    if len(parts) != 1:
        raise ValueError(
            f"Models of one output are compared. Received: {model.name!r}, which has {len(parts)}. "
            "Compare each output of `exports.Exported(path).predict` with the model's yourself."
        )
    output: np.ndarray = parts[0]
    return output


def _first(inputs: np.ndarray | dict[str, np.ndarray], count: int) -> np.ndarray | dict[str, np.ndarray]:
    """The first examples, from the beginning again if there are too few."""
    return keras.tree.map_structure(lambda array: array[np.arange(count) % len(array)], inputs)


_ClassesOf = Callable[[np.ndarray], np.ndarray]


def _classes(
    expected: np.ndarray, y: np.ndarray | None, *, required: bool
) -> tuple[_ClassesOf | None, np.ndarray | None]:
    """A function that gets classes from outputs, and the labels as classes; `None` if there are no classes.

    Raises:
        ValueError: classes are required, but the outputs or labels do not give any.
    """
    columns = expected.shape[-1] if expected.ndim > 1 else 1
    answers = expected.shape[:-1] if expected.ndim > 1 else expected.shape
    labels = None if y is None else _integers(y, answers)
    if columns > 1:
        if required and labels is None:
            raise ValueError(
                f"Labels must be integers, one per answer: shape {answers}. Received: {_described(y)}. "
                "For one-hot labels pass y.argmax(-1), or a metric that takes them."
            )
        return lambda outputs: outputs.argmax(-1), labels
    probable = expected.min() >= 0 and expected.max() <= 1
    if probable and labels is not None and np.isin(labels, (0, 1)).all():
        return lambda outputs: (outputs.reshape(answers) > 0.5).astype(int), labels
    if required:
        raise ValueError(
            "Outputs of one column tell classes only where they are probabilities and the labels 0 and 1. Received: "
            f"outputs from {expected.min():.3g} to {expected.max():.3g}, and labels {_described(y)}. "
            "Pass metric=, such as keras.metrics.mean_absolute_error."
        )
    return None, None


def _integers(y: np.ndarray, answers: tuple[int, ...]) -> np.ndarray | None:
    """Labels of one integer per answer, in the shape of the answers; `None` for any other labels."""
    labels = y[..., 0] if y.shape == (*answers, 1) else y
    return labels if labels.shape == answers and labels.dtype.kind in "iub" else None


def _described(y: np.ndarray | None) -> str:
    return "none" if y is None else f"{y.dtype} {y.shape}"


def _share(classes_of: _ClassesOf | None, outputs: np.ndarray, classes: np.ndarray | None) -> float | None:
    if classes_of is None or classes is None:
        return None
    return float(np.mean(classes_of(outputs) == classes))


def _measured(metric: Metric | None, y: np.ndarray | None, outputs: np.ndarray) -> float | None:
    """The value of a metric; a Keras metric is reset before and after."""
    if metric is None:
        return None
    if not isinstance(metric, keras.metrics.Metric):
        return float(np.mean(keras.ops.convert_to_numpy(metric(y, outputs))))
    metric.reset_state()
    metric.update_state(y, outputs)
    value = float(np.mean(keras.ops.convert_to_numpy(metric.result())))
    metric.reset_state()
    return value


def _name(metric: Metric | None) -> str:
    if metric is None:
        return ""
    return str(getattr(metric, "name", None) or getattr(metric, "__name__", "metric"))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
