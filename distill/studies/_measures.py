"""Ways to score a model, and how their numbers are printed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import distill.studies._metrics as metrics

# (what is right, what the model answered) -> a score.
Score = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclasses.dataclass(frozen=True)
class Measure:
    """One way to score a model.

    Attributes:
        key: name in `result.json`.
        score: function that takes the labels and the model's outputs, both arrays with the examples along their first
            axis, and returns a number; `None` in a study that was read from disk, where scores are known.
        name: name in tables.
        unit: unit of differences.
        scale: factor that turns a stored value into a printed one.
        digits: number of decimals to print.
        lower_is_better: whether smaller values are better, as for errors.
        of_teacher: whether `score` compares the outputs with those of the model's teacher instead of the labels. Models
            without a teacher have no such score, and arms are not compared by it.
        about: what a reader must know, in a few words.

    Example:
        >>> import numpy as np
        >>> from distill import studies
        >>> def within_one(y, outputs):
        ...     return np.mean(np.abs(outputs[:, 0] - y) < 1)
        >>> measure = studies.Measure("within_one", within_one, name="within 1", unit="points", scale=100)
        >>> measure.heading
        'within 1 %'
    """

    key: str
    score: Score | None = None
    _: dataclasses.KW_ONLY
    name: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    lower_is_better: bool = False
    of_teacher: bool = False
    about: str = ""

    @property
    def heading(self) -> str:
        """Heading of a column of scores."""
        return f"{self.name} %" if self.scale == 100 else self.name


# Functions with names, which other processes find.


def _accuracy(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    return metrics.accuracy(metrics.as_logits(outputs), metrics.as_labels(y))


def _nll(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    return metrics.negative_log_likelihood(metrics.as_logits(outputs), metrics.as_labels(y))


def _ece(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    return metrics.expected_calibration_error(metrics.as_logits(outputs), metrics.as_labels(y))


def _agreement(teacher: NDArray[Any], outputs: NDArray[Any]) -> float:
    return metrics.agreement(metrics.as_logits(teacher), metrics.as_logits(outputs))


def _rmse(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(metrics.errors(y, outputs)))))


def _mae(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    return float(np.mean(np.abs(metrics.errors(y, outputs))))


def _r2(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    errors = metrics.errors(y, outputs)
    spread = np.square(np.asarray(y, "float64") - np.mean(y, axis=0, dtype="float64"))
    return float(1 - np.square(errors).sum() / spread.sum())


def _tokens_nll(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    return metrics.negative_log_likelihood(*metrics.known_tokens(y, outputs))


def _tokens_accuracy(y: NDArray[Any], outputs: NDArray[Any]) -> float:
    return metrics.accuracy(*metrics.known_tokens(y, outputs))


ACCURACY = Measure(
    "accuracy",
    _accuracy,
    name="accuracy",
    unit="points",
    scale=100,
)
NLL = Measure(
    "nll",
    _nll,
    name="NLL",
    unit="nats",
    digits=3,
    lower_is_better=True,
    about="nats per example",
)
ECE = Measure(
    "ece",
    _ece,
    name="ECE",
    unit="points",
    scale=100,
    digits=1,
    lower_is_better=True,
    about="15 bins",
)
AGREEMENT = Measure(
    "agreement",
    _agreement,
    name="agreement",
    unit="points",
    scale=100,
    of_teacher=True,
    about="with the class that the teacher predicts",
)
RMSE = Measure(
    "rmse",
    _rmse,
    name="RMSE",
    digits=4,
    lower_is_better=True,
)
MAE = Measure(
    "mae",
    _mae,
    name="MAE",
    digits=4,
    lower_is_better=True,
)
R2 = Measure("r2", _r2, name="R²", digits=4)
# For several labels at once: outputs are logits or probabilities (n, labels), y is 0 or 1.
LABEL_NLL = Measure(
    "label_nll",
    metrics.label_negative_log_likelihood,
    name="NLL",
    unit="nats",
    digits=4,
    lower_is_better=True,
    about="nats per label",
)
AVERAGE_PRECISION = Measure(
    "average_precision",
    metrics.average_precision,
    name="mAP",
    unit="points",
    scale=100,
    about="mean over the labels that occur of their average precision",
)
TOKEN_NLL = Measure(
    "token_nll",
    _tokens_nll,
    name="NLL",
    unit="nats",
    digits=4,
    lower_is_better=True,
    about="nats per token; labels below 0 do not count",
)
TOKEN_ACCURACY = Measure(
    "token_accuracy",
    _tokens_accuracy,
    name="accuracy",
    unit="points",
    scale=100,
    about="of tokens whose label is not below 0",
)

# Arms are judged and tuned by the first of each.
CLASSIFICATION = (ACCURACY, NLL, ECE, AGREEMENT)
REGRESSION = (RMSE, MAE, R2)
MULTI_LABEL = (AVERAGE_PRECISION, LABEL_NLL)
TOKENS = (TOKEN_NLL, TOKEN_ACCURACY)
