"""How good a classifier's logits are: accuracy, likelihood, calibration and agreement with a teacher.

Everything is computed in float64 over whole arrays, so no number depends on a batch size.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def measure(
    logits: ArrayLike, labels: ArrayLike, *, teacher_logits: ArrayLike | None = None
) -> dict[str, float | None]:
    """Computes all metrics of one model on one split, under the names that `result.json` uses.

    Args:
        logits: logits (n, classes), finite.
        labels: integers (n,) in [0, classes).
        teacher_logits: logits or probabilities (n, classes) of the teacher for the same examples; `None` without a
            teacher.

    Returns:
        "accuracy", "nll", "ece" and "agreement"; agreement is `None` without a teacher.

    Raises:
        ValueError: the shapes do not match, a logit is not finite, or a label is out of range.
    """
    return {
        "accuracy": accuracy(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "ece": expected_calibration_error(logits, labels),
        "agreement": None if teacher_logits is None else agreement(teacher_logits, logits),
    }


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Returns the share of examples whose largest logit is the label's; of equal logits the first counts.

    Args:
        logits: logits (n, classes), finite.
        labels: integers (n,) in [0, classes).

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: the shapes do not match, a logit is not finite, or a label is out of range.
    """
    rows, targets = _checked(logits, labels)
    return float(np.mean(rows.argmax(axis=1) == targets))


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Returns the mean of −log softmax(logits)[label], computed in log space.

    Args:
        logits: logits (n, classes), finite.
        labels: integers (n,) in [0, classes).

    Returns:
        Nats per example, >= 0.

    Raises:
        ValueError: the shapes do not match, a logit is not finite, or a label is out of range.
    """
    rows, targets = _checked(logits, labels)
    return float(-np.mean(_log_softmax(rows)[np.arange(len(rows)), targets]))


def expected_calibration_error(logits: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """Returns the mean gap between confidence and accuracy, Σ_b |B_b| / n · |accuracy(B_b) − confidence(B_b)| [1].

    Bin b of M holds the examples whose largest probability lies in (b / M, (b + 1) / M].

    Args:
        logits: logits (n, classes), finite.
        labels: integers (n,) in [0, classes).
        bins: number of bins of equal width.

    Returns:
        A gap in [0, 1].

    Raises:
        ValueError: the shapes do not match, a logit is not finite, or a label is out of range.

    References:
        [1] Guo, Pleiss, Sun, Weinberger 2017, arXiv:1706.04599, equation 3.
    """
    rows, targets = _checked(logits, labels)
    confidence = np.exp(_log_softmax(rows).max(axis=1))
    gap = (rows.argmax(axis=1) == targets) - confidence
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    return float(np.abs(np.bincount(index, weights=gap)).sum() / len(rows))


def agreement(teacher_logits: ArrayLike, logits: ArrayLike) -> float:
    """Returns the share of examples for which teacher and student predict the same class, right or wrong.

    Args:
        teacher_logits: logits or probabilities (n, classes) of the teacher.
        logits: logits (n, classes) of the student for the same examples in the same order.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: the shapes differ, or a logit is not finite.
    """
    teacher, student = _checked_logits(teacher_logits), _checked_logits(logits)
    if teacher.shape != student.shape:
        raise ValueError(
            "Agreement compares predicted classes example by example, so both logits must have the same shape. "
            f"Received: teacher {teacher.shape} and student {student.shape}. "
            "Predict on the same split with both."
        )
    return float(np.mean(teacher.argmax(axis=1) == student.argmax(axis=1)))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _checked_logits(logits: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(logits, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0 or not np.isfinite(rows).all():
        raise ValueError(
            "Metrics need finite logits of shape (n, classes) with at least one example. Received: shape "
            f"{rows.shape} with {np.count_nonzero(~np.isfinite(rows))} values that are not finite. "
            "Flatten the logits if they have more axes; if values are not finite, look for a run that diverged."
        )
    return rows


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    rows, targets = _checked_logits(logits), np.asarray(labels)
    if targets.shape != rows.shape[:1] or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            "Each example needs one integer label. "
            f"Received: labels of shape {targets.shape} and dtype {targets.dtype} for logits {rows.shape}. "
            "Turn one-hot labels into indices with `labels.argmax(axis=1)`."
        )
    if targets.min() < 0 or targets.max() >= rows.shape[1]:
        raise ValueError(
            f"Labels must lie in [0, {rows.shape[1]}), since the logits have {rows.shape[1]} classes. "
            f"Received: labels from {targets.min()} to {targets.max()}. "
            "Renumber the labels, or widen the model's head."
        )
    return rows, targets
