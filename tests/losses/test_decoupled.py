"""Decoupled distillation: its labels, and two classes."""

import numpy as np
import pytest
import reference
from backend import as_numpy, as_tensor
from loss_checks import labels_of, logits_of

from distill.losses import DecoupledKD


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 4)])
def test_labels_come_as_keras_takes_them(shape):
    teacher, student = logits_of()
    labels = labels_of(student)
    given = np.eye(4)[labels] if shape == (5, 4) else labels.reshape(shape).astype("float32")
    expected = reference.decoupled(teacher, student, labels).mean()
    np.testing.assert_allclose(as_numpy(DecoupledKD()(teacher, student, labels=given)), expected, rtol=1e-5)


def test_labels_are_needed_and_must_fit():
    teacher, student = logits_of()
    with pytest.raises(ValueError, match="needs the label of each example. Received: labels=None"):
        DecoupledKD()(teacher, student)
    with pytest.raises(ValueError, match=r"labels of shape \(5, 2, 4\) for logits \(5, 4\)"):
        DecoupledKD()(teacher, student, labels=np.zeros((5, 2, 4)))


def test_of_two_classes_the_others_have_nothing_to_compare():
    teacher, student = logits_of(classes=2)
    labels = labels_of(student)
    only_second = DecoupledKD(alpha=0.0)(teacher, student, labels=labels)
    np.testing.assert_array_equal(as_numpy(only_second), 0.0)
    np.testing.assert_allclose(
        as_numpy(DecoupledKD()(teacher, student, labels=labels)),
        reference.soft_targets(teacher, student, 4.0).mean(),
        rtol=1e-5,
    )


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_has_no_decoupled_answer(label):
    teacher, student = np.array([[1.0, 2, 3]] * 2, "float32"), np.array([[3.0, 1, 2]] * 2, "float32")
    rows = as_numpy(
        DecoupledKD().call(as_tensor(teacher), as_tensor(student), as_tensor(np.array([1, label])))
    )
    assert np.isfinite(rows[0])
    assert np.isnan(rows[1])
