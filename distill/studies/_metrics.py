"""How good a classifier's logits are: accuracy, likelihood, calibration and agreement with a teacher.

Everything is computed in float64 over whole arrays, so no number depends on a batch size.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill._extras import needed


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
    """Returns the share of examples whose largest logit is the label's; of equal logits, the first counts.

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
    examples, right, confidence = confidence_bins(logits, labels, bins=bins)
    return float(np.abs(right - confidence).sum() / examples.sum())


def confidence_bins(
    logits: ArrayLike, labels: ArrayLike, *, bins: int = 15
) -> tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]]:
    """Returns what a reliability diagram shows, by bins of the largest probability.

    Args:
        logits: logits (n, classes), finite.
        labels: integers (n,) in [0, classes).
        bins: number of bins of equal width, as for `expected_calibration_error`.

    Returns:
        Three arrays (bins,): the number of examples, how many of them are right, and the sum of their confidences.

    Raises:
        ValueError: the shapes do not match, a logit is not finite, or a label is out of range.
    """
    rows, targets = _checked(logits, labels)
    confidence = np.exp(_log_softmax(rows).max(axis=1))
    right = rows.argmax(axis=1) == targets
    index = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence, side="left")
    return (
        np.bincount(index, minlength=bins),
        np.bincount(index[right], minlength=bins),
        np.asarray(np.bincount(index, weights=confidence, minlength=bins), np.float64),
    )


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
    teacher, student = _checked_pair(teacher_logits, logits)
    return float(np.mean(teacher.argmax(axis=1) == student.argmax(axis=1)))


def confusion(teacher_logits: ArrayLike, logits: ArrayLike) -> NDArray[np.integer]:
    """Counts examples by the class that the teacher predicts and the one that the student predicts.

    Args:
        teacher_logits: logits or probabilities (n, classes) of the teacher.
        logits: logits (n, classes) of the student for the same examples in the same order.

    Returns:
        Rows (pairs, 3) of the teacher's class, the student's, and the number of examples, for all pairs that occur;
        the most frequent are first.

    Raises:
        ValueError: the shapes differ, or a logit is not finite.
    """
    teacher, student = _checked_pair(teacher_logits, logits)
    classes = np.stack([teacher.argmax(axis=1), student.argmax(axis=1)], axis=1)
    pairs, counts = np.unique(classes, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return np.concatenate([pairs, counts[:, None]], axis=1)[order]


def average_precision(y: ArrayLike, outputs: ArrayLike) -> float:
    """Returns the mean over labels of their average precision, Σ_k (R_k − R_{k−1}) P_k over ranked outputs.

    Args:
        y: 0 or 1 (n, labels); labels that never occur do not count.
        outputs: scores (n, labels), higher for more likely; logits and probabilities rank alike.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: the shapes differ, a number is not finite, or no label occurs.
    """
    with needed("Average precision", "experiments"):
        from sklearn.metrics import average_precision_score  # slow to import

    truth, scores = _checked_labels(y, outputs)
    occurs = truth.any(axis=0)
    if not occurs.any():
        raise ValueError(
            f"Average precision needs a label that occurs. Received: {len(truth)} examples without any."
        )
    return float(
        np.mean([average_precision_score(truth[:, i], scores[:, i]) for i in np.flatnonzero(occurs)])
    )


def label_negative_log_likelihood(y: ArrayLike, outputs: ArrayLike) -> float:
    """Returns the mean of −log p over examples and labels, where p is the model's probability of the true 0 or 1.

    Args:
        y: 0 or 1 (n, labels).
        outputs: logits (n, labels), or probabilities; outputs that all lie in [0, 1] are taken for probabilities.

    Returns:
        Nats per label, >= 0.

    Raises:
        ValueError: the shapes differ, or a number is not finite.
    """
    truth, scores = _checked_labels(y, outputs)
    if ((scores >= 0) & (scores <= 1)).all():
        bounded = np.clip(scores, _SMALLEST, 1 - 2**-24)
        scores = np.log(bounded) - np.log1p(-bounded)
    # −log sigmoid(z) for 1, −log sigmoid(−z) for 0.
    return float(np.mean(np.logaddexp(0, np.where(truth, -scores, scores))))


def errors(y: ArrayLike, outputs: ArrayLike) -> NDArray[np.float64]:
    """Returns outputs − y; a last axis of size 1 may be missing on either side.

    Args:
        y: numbers (n, …).
        outputs: numbers of the same shape.

    Raises:
        ValueError: the shapes differ, there is no example, or a number is not finite.
    """
    truth, found = np.asarray(y, np.float64), np.asarray(outputs, np.float64)
    if found.ndim == truth.ndim + 1 and found.shape[-1] == 1:
        found = found[..., 0]
    if truth.ndim == found.ndim + 1 and truth.shape[-1] == 1:
        truth = truth[..., 0]
    if truth.shape != found.shape or truth.size == 0:
        raise ValueError(
            "Errors need targets of the outputs' shape, with at least one example. Received: targets "
            f"{truth.shape} and outputs {found.shape}."
        )
    if not (np.isfinite(truth) & np.isfinite(found)).all():
        raise ValueError(
            "Errors need finite numbers. Received: "
            f"{np.count_nonzero(~np.isfinite(truth))} targets and {np.count_nonzero(~np.isfinite(found))} outputs that "
            "are not."
        )
    return found - truth


def as_logits(outputs: ArrayLike) -> NDArray[np.float64]:
    """Returns logits (n, classes): the outputs as they are, or their logarithms if they look like probabilities.

    Rows of numbers in [0, 1] that add up to 1 within 0.1 are taken for probabilities, since rounded files return such
    rows. A single column is taken for the second of two classes: for its sigmoid if all numbers lie in [0, 1],
    otherwise for its logit.
    """
    rows = np.asarray(outputs, dtype=np.float64)
    bounded = rows.size > 0 and bool(((rows >= 0) & (rows <= 1)).all())
    if rows.ndim == 2 and rows.shape[1] == 1:
        second = np.clip(rows, _SMALLEST, 1 - 2**-24) if bounded else rows
        logit = np.log(second) - np.log1p(-second) if bounded else rows
        return np.concatenate([np.zeros_like(logit), logit], axis=1)
    if rows.ndim == 2 and bounded and (np.abs(rows.sum(axis=1) - 1) < 0.1).all():
        return np.log(np.maximum(rows, _SMALLEST))
    return rows


def as_labels(y: ArrayLike) -> NDArray[np.integer]:
    """Returns integer labels (n,) from integers (n,) or (n, 1), whole numbers, or one-hot rows."""
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] > 1:
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise ValueError(
                "Labels of two axes must be one-hot: a single 1 in each row. "
                f"Received: labels of shape {labels.shape}. Score on labels that are not smoothed. Where an example "
                "has several labels, or targets are numbers, choose metrics: studies.MULTI_LABEL or studies.REGRESSION."
            )
        return labels.argmax(axis=1)
    labels = labels.reshape(len(labels), -1)[:, 0] if labels.ndim == 2 else labels
    if not np.issubdtype(labels.dtype, np.integer) and (labels == np.floor(labels)).all():
        return labels.astype(np.int64)
    return labels


def known_tokens(y: ArrayLike, outputs: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Returns logits (tokens, words) and labels (tokens,) of all tokens whose label is not below 0.

    Args:
        y: integers (n, length).
        outputs: logits or probabilities (n, length, words).

    Raises:
        ValueError: the shapes do not fit, or no token counts.
    """
    labels, rows = np.asarray(y), np.asarray(outputs)
    if rows.ndim != 3 or labels.shape != rows.shape[:2] or not (labels >= 0).any():
        raise ValueError(
            "Scores of tokens need labels (n, length), of which some are not below 0, and outputs (n, length, words). "
            f"Received: labels {labels.shape} and outputs {rows.shape}."
        )
    counts = labels >= 0
    return as_logits(rows[counts]), labels[counts]


_SMALLEST = 2.0**-126  # of float32


def _checked_labels(y: ArrayLike, outputs: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, scores = np.asarray(y), np.asarray(outputs, np.float64)
    if truth.shape != scores.shape or truth.ndim != 2 or truth.size == 0 or not np.isin(truth, (0, 1)).all():
        raise ValueError(
            "Scores of several labels need 0 or 1 for each, and outputs of the same shape (n, labels). "
            f"Received: labels {truth.shape} and outputs {scores.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"Outputs must be finite. Received: {np.count_nonzero(~np.isfinite(scores))} that are not."
        )
    return truth.astype(bool), scores


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


def _checked_pair(
    teacher_logits: ArrayLike, logits: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    teacher, student = _checked_logits(teacher_logits), _checked_logits(logits)
    if teacher.shape != student.shape:
        raise ValueError(
            "Agreement compares predicted classes example by example, so both logits must have the same shape. "
            f"Received: teacher {teacher.shape} and student {student.shape}. "
            "Predict on the same split with both."
        )
    return teacher, student


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
