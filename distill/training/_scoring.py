"""Scores of what models returned, by the loss and metrics that a Distiller was compiled with."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from distill._graphs import functional_of
from distill._keras import compile_settings, compiled_loss, compiled_metrics
from distill._types import Arrays, Data, Tensor, Tensors
from distill.training._heads import activation_of
from distill.training._outputs import by_position

# What the numbers of an output are: probabilities that sum to 1, probabilities each for itself, or anything else.
Form = Literal["softmax", "sigmoid", "logits"]


class Scorer:
    """Computes the compiled loss and metrics of outputs without touching the state of those that were compiled.

    Args:
        distiller: a compiled Distiller.
        labels: labels of a batch.
        outputs: outputs of the student for that batch.
    """

    def __init__(self, distiller: keras.Model, labels: Tensors, outputs: Tensors) -> None:
        given = compile_settings(distiller)
        model = keras.Model()  # never called: it makes the loss and metrics once more
        if hasattr(distiller, "output_names"):  # a Sequential student has none
            model.output_names = distiller.output_names
        model.compile(
            loss=given["loss"],
            loss_weights=given["loss_weights"],
            metrics=given["metrics"],
            weighted_metrics=given["weighted_metrics"],
        )
        self.loss, self._metrics = compiled_loss(model), compiled_metrics(model)
        for part in (self.loss, self._metrics):
            if part is not None and labels is not None:
                part.build(by_position(labels, functional_of(distiller.student)), outputs)

    def scores(
        self, labels: Sequence[Tensors], outputs: Sequence[Tensors], weights: Sequence[Tensors]
    ) -> dict[str, float]:
        """Returns the mean loss over batches, and each metric, by name.

        Raises:
            Exception: whatever a loss or metric raises for outputs that it was not made for.
        """
        found: dict[str, float] = {}
        counts = [len(keras.tree.flatten(label)[0]) for label in labels]
        with keras.StatelessScope():
            if self.loss is not None:
                values = [_number(self.loss(*each)) for each in zip(labels, outputs, weights, strict=True)]
                found["loss"] = float(np.average(values, weights=counts))
            if self._metrics is not None:
                self._metrics.reset_state()
                for label, output, weight in zip(labels, outputs, weights, strict=True):
                    self._metrics.update_state(label, output, weight)
                result = self._metrics.result()
                found.update({name: _number(value) for name, value in result.items() if np.ndim(value) == 0})
        return found


def _number(value: Tensor) -> float:
    return float(keras.ops.convert_to_numpy(value))


def form_of_head(model: Any, output: int = 0) -> Form | None:
    """Returns what the numbers of an output are, from the model's head; `None` if that is not recognized."""
    try:
        activation = activation_of(model, output) if functional_of(model) is not None else ""
    except ValueError:
        return None
    known: dict[str, Form] = {
        "linear": "logits",
        "log_softmax": "logits",
        "softmax": "softmax",
        "sigmoid": "sigmoid",
    }
    return known.get(activation)


def form_of(model: Any, outputs: Tensors) -> Form:
    """Returns what the numbers of a model's only output are, from its head or else from the numbers."""
    if (form := form_of_head(model)) is not None:
        return form
    values = np.asarray(keras.ops.convert_to_numpy(keras.tree.flatten(outputs)[0]), "float64")
    if values.min() < 0 or values.max() > 1 + 1e-3:
        return "logits"
    sums = values.sum(axis=-1)
    return "softmax" if values.shape[-1] > 1 and np.abs(sums - 1).max() < 1e-2 else "sigmoid"


def in_form(outputs: Tensors, form: Form, wanted: Form) -> Tensors:
    """Returns outputs of a model as those of another form, where one follows from the other."""
    ops, tiny = keras.ops, keras.config.epsilon()
    if form == "logits" and wanted in ("softmax", "sigmoid"):
        return ops.softmax(outputs) if wanted == "softmax" else ops.sigmoid(outputs)
    if wanted == "logits" and form in ("softmax", "sigmoid"):
        logs = ops.log(ops.maximum(outputs, tiny))
        return logs if form == "softmax" else logs - ops.log(ops.maximum(1 - outputs, tiny))
    return outputs


def wants_logits(loss: Any) -> bool | None:
    """Whether a loss takes logits; `None` if it is not for classes, or cannot be asked."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        try:
            stated = loss.get_config().get("from_logits")
        except NotImplementedError:
            return None
        return stated if isinstance(stated, bool) else None
    if not callable(loss):
        return None
    parameter = inspect.signature(loss).parameters.get("from_logits")
    return parameter.default if parameter is not None and isinstance(parameter.default, bool) else None


_OF_ONE_CLASS = (
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
)
_OF_EACH_CLASS = (keras.losses.binary_crossentropy, keras.losses.binary_focal_crossentropy)


def head_for(loss: Any) -> Form | None:
    """The head whose probabilities a loss of Keras takes, by what it computes; `None` for other losses."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    computed = getattr(loss, "fn", loss)
    return "softmax" if computed in _OF_ONE_CLASS else "sigmoid" if computed in _OF_EACH_CLASS else None


def taken(x: Data, y: Arrays, examples: int, batch_size: int) -> Iterator[tuple[Tensors, Tensors, Tensors]]:
    """Yields batches of (inputs, labels, weights): evenly spaced rows of arrays, or the first of a data set."""
    if y is not None or _is_arrays(x):
        count = len(keras.tree.flatten(x)[0])
        rows = np.unique(np.linspace(0, count - 1, min(count, examples)).round().astype(int))
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            yield _rows(x, chosen), None if y is None else _rows(y, chosen), None
        return
    left = examples
    for batch in x if not isinstance(x, keras.utils.PyDataset) else (x[i] for i in range(len(x))):
        inputs, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        yield inputs, labels, weights
        left -= len(keras.tree.flatten(inputs)[0])
        if left <= 0:
            return


def _is_arrays(x: Any) -> bool:
    return all(hasattr(part, "shape") and hasattr(part, "dtype") for part in keras.tree.flatten(x))


def _rows(arrays: Arrays, rows: np.ndarray) -> Tensors:
    return keras.tree.map_structure(lambda array: np.asarray(array)[rows], arrays)
