import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from distill.studies import TOKEN_ACCURACY, TOKEN_NLL, metrics


def reference(logits, labels, teacher, bins=15):
    """Computes the four metrics with loops over examples, as they are defined."""
    n = len(labels)
    hits, nll, same = 0, 0.0, 0
    members = [[] for _ in range(bins)]
    for row, label, guide in zip(logits, labels, teacher, strict=True):
        row = [float(v) for v in row]
        total = sum(math.exp(v - max(row)) for v in row)
        log_p = [v - max(row) - math.log(total) for v in row]
        top = row.index(max(row))
        hits += top == label
        nll -= log_p[label]
        same += top == list(guide).index(max(guide))
        confidence = math.exp(log_p[top])
        (home,) = [b for b in range(bins) if b / bins < confidence <= (b + 1) / bins]
        members[home].append((top == label, confidence))
    gaps = [abs(np.mean([h for h, _ in m]) - np.mean([c for _, c in m])) * len(m) for m in members if m]
    return {"accuracy": hits / n, "nll": nll / n, "ece": sum(gaps) / n, "agreement": same / n}


@given(st.integers(1, 60), st.integers(2, 6), st.sampled_from([0.3, 2.0, 8.0]), st.integers(0, 2**32 - 1))
def test_metrics_follow_their_definitions(n, classes, scale, seed):
    rng = np.random.default_rng(seed)
    logits, teacher = scale * rng.normal(size=(2, n, classes))
    labels = rng.integers(classes, size=n)
    expected = reference(logits, labels, teacher)
    assert metrics.measure(logits, labels, teacher_logits=teacher) == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )


def test_values_by_hand():
    logits = np.log([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    result = metrics.measure(logits, [0, 1, 1, 0], teacher_logits=[[1, 0], [1, 0], [0, 1], [1, 0]])
    assert result["accuracy"] == 0.5
    assert result["nll"] == pytest.approx(-math.log(0.9 * 0.4 * 0.8 * 0.3) / 4)
    assert result["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.7) / 4)  # one example per bin
    assert result["agreement"] == 0.75
    # With a single bin, gaps cancel: the mean confidence is .75, the accuracy .5.
    assert metrics.expected_calibration_error(logits, [0, 1, 1, 0], bins=1) == pytest.approx(0.25)


def test_bins_are_closed_on_the_right():
    """Bins are (b / M, (b + 1) / M], so with M = 4 a confidence of .5 is in the bin of .3, and 1 in that of .9."""
    low = np.log([[0.5, 0.25, 0.25], [0.4, 0.3, 0.3]])
    assert metrics.expected_calibration_error(low, [0, 1], bins=4) == pytest.approx(abs(0.5 - 0.4) / 2)
    certain = [[100.0, 0.0], [math.log(9), 0.0]]
    assert metrics.expected_calibration_error(certain, [0, 1], bins=4) == pytest.approx(abs(0.0 - 0.9) / 2)


def test_no_teacher_no_agreement():
    assert metrics.measure([[1.0, 0.0]], [0])["agreement"] is None


@pytest.mark.parametrize("size", [1e4, 1e300])
def test_huge_logits_stay_finite(size):
    result = metrics.measure([[size, -size], [-size, size]], [0, 0])
    assert result == {"accuracy": 0.5, "nll": size, "ece": 0.5, "agreement": None}


def test_float16_logits_are_measured_in_float64():
    logits = np.full((3000, 2), 6e4, "float16")
    assert metrics.negative_log_likelihood(logits, np.zeros(3000, int)) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), [0], r"one integer label\. Received: labels of shape \(1,\)"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), r"labels of shape \(2, 3\).*argmax"),
        (np.zeros((2, 3)), [0.0, 1.0], "dtype float64"),
        (np.zeros((2, 3)), [0, 3], r"lie in \[0, 3\).*Received: labels from 0 to 3\. Renumber"),
        (np.zeros((2, 3)), [-1, 2], "labels from -1 to 2"),
        (
            np.zeros(3),
            [0, 1, 2],
            r"finite logits of shape \(n, classes\).*Received: shape \(3,\) with 0 values",
        ),
        (np.zeros((0, 3)), np.zeros(0, int), r"at least one example"),
        ([[0.0, np.nan]], [0], "with 1 values that are not finite.*diverged"),
    ],
)
def test_bad_input_is_refused(logits, labels, message):
    for metric in (metrics.accuracy, metrics.negative_log_likelihood, metrics.expected_calibration_error):
        with pytest.raises(ValueError, match=message):
            metric(logits, labels)


def test_agreement_needs_one_shape():
    with pytest.raises(ValueError, match=r"Received: teacher \(2, 3\) and student \(2, 4\)\. Predict"):
        metrics.agreement(np.zeros((2, 3)), np.zeros((2, 4)))


def test_probabilities_are_told_from_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(30, 4)) * 3
    y = rng.integers(4, size=30)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.mean(np.log(p[np.arange(30), y]))
    rounded = np.round(p * 255) / 255  # as an int8 file returns them
    for outputs, tolerance in ((logits, 1e-9), (p, 1e-9), (p.astype("float32"), 1e-5)):
        assert metrics.negative_log_likelihood(metrics.as_logits(outputs), y) == pytest.approx(
            expected, rel=tolerance
        )
    assert (metrics.as_logits(rounded) < 0).any()
    np.testing.assert_array_equal(metrics.as_logits(logits), logits)
    # A row that is not a distribution makes all of them logits.
    other = p.copy()
    other[0] /= 2
    np.testing.assert_array_equal(metrics.as_logits(other), other)


def test_one_column_is_the_second_of_two_classes():
    z = np.array([[-2.0], [0.5], [3.0]])
    y = np.array([0, 1, 0])
    p = 1 / (1 + np.exp(-z[:, 0]))
    expected = -np.mean(np.log(np.where(y, p, 1 - p)))
    assert metrics.negative_log_likelihood(metrics.as_logits(z), y) == pytest.approx(expected)
    assert metrics.negative_log_likelihood(metrics.as_logits(p[:, None]), y) == pytest.approx(expected)
    assert np.isfinite(metrics.as_logits(np.array([[0.0], [1.0]]))).all()


def test_labels_are_integers_or_one_hot():
    for y in ([2, 0], [[2], [0]], [2.0, 0.0], [[0, 0, 1], [1, 0, 0]], np.eye(3, dtype="float32")[[2, 0]]):
        assert metrics.as_labels(np.asarray(y)).tolist() == [2, 0]
    with pytest.raises(
        ValueError, match="one-hot: a single 1 in each row. Received: labels of shape \\(1, 2\\)"
    ):
        metrics.as_labels(np.array([[0.9, 0.1]]))


def test_several_labels_by_hand_and_by_scikit_learn():
    rng = np.random.default_rng(0)
    y, z = rng.integers(2, size=(40, 3)), rng.normal(size=(40, 3))
    y[:, 2] = 0  # never occurs
    expected = average_precision_score(y[:, :2], z[:, :2], average="macro")
    assert metrics.average_precision(y, z) == pytest.approx(expected)
    # The two right ones come first and third: (1/1 + 2/3) / 2.
    assert metrics.average_precision([[1], [0], [1], [0]], [[0.9], [0.8], [0.7], [0.1]]) == pytest.approx(
        5 / 6
    )
    p = 1 / (1 + np.exp(-z))
    nll = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    for outputs in (z, p):
        assert metrics.label_negative_log_likelihood(y, outputs) == pytest.approx(nll)
    with pytest.raises(
        ValueError, match="0 or 1 for each.* Received: labels \\(2,\\) and outputs \\(2, 1\\)"
    ):
        metrics.average_precision([0, 1], [[0.1], [0.2]])
    with pytest.raises(ValueError, match="a label that occurs. Received: 2 examples"):
        metrics.average_precision([[0], [0]], [[0.1], [0.2]])


def test_tokens_that_are_padding_do_not_count():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 3, 5)), np.array([[1, 4, -1], [0, -1, -1]])
    rows, labels = metrics.known_tokens(y, z)
    np.testing.assert_array_equal(rows, [z[0, 0], z[0, 1], z[1, 0]])
    assert labels.tolist() == [1, 4, 0]
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    nll = -(log_p[0, 0, 1] + log_p[0, 1, 4] + log_p[1, 0, 0]) / 3
    assert TOKEN_NLL.score(y, z) == pytest.approx(nll)
    right = [z[0, 0].argmax() == 1, z[0, 1].argmax() == 4, z[1, 0].argmax() == 0]
    assert TOKEN_ACCURACY.score(y, z) == pytest.approx(np.mean(right))
    with pytest.raises(ValueError, match="some are not below 0"):
        metrics.known_tokens(-np.ones((2, 3)), z)


def test_errors_know_a_column_and_refuse_to_broadcast():
    np.testing.assert_array_equal(metrics.errors([1, 2], [[2], [4]]), [1, 2])
    np.testing.assert_array_equal(metrics.errors([[1], [2]], [2, 4]), [1, 2])
    with pytest.raises(ValueError, match="targets \\(2, 2\\) and outputs \\(2,\\)"):
        metrics.errors([[1, 2], [3, 4]], [1, 2])
    with pytest.raises(ValueError, match="Received: 0 targets and 1 outputs that are not"):
        metrics.errors([1, 2], [1, np.nan])
