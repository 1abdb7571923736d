"""Shapes that losses declare, and the errors about others."""

import keras
import numpy as np
import pytest
from loss_checks import logits_of

from distill import BernoulliSoftTargets, SoftTargets
from distill.losses import DIST, MultiLevelKD, OutputMSE


@pytest.mark.parametrize("make", [DIST, MultiLevelKD])
def test_what_relates_the_examples_of_a_batch_takes_no_tokens(make):
    maps = [side.reshape(2, 3, 4) for side in logits_of(count=6)]
    with pytest.raises(
        ValueError,
        match=r"needs logits \(batch, classes\) on both sides\. Received: teacher \(2, 3, 4\).*SoftTargets",
    ):
        make()(*maps)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (SoftTargets, r"logits \(batch, \.\.\., classes\)"),
        (BernoulliSoftTargets, r"logits \(batch, \.\.\., labels\)"),
        (OutputMSE, r"outputs \(batch, \.\.\., values\)"),
    ],
)
def test_one_value_per_example_needs_an_axis(make, kind):
    with pytest.raises(ValueError, match=rf"needs {kind} on both sides\. .*axis of its own: \(batch, 1\)"):
        make()(np.zeros(3, "float32"), np.zeros(3, "float32"))


@pytest.mark.parametrize("sizes", [(None, 1), (1, None), (1, 3), (3, 1)])
def test_a_size_of_1_is_not_broadcast(sizes):
    teacher, student = (keras.KerasTensor((None, size, 4)) for size in sizes)
    with pytest.raises(ValueError, match="SoftTargets compares element by element"):
        SoftTargets().validate_outputs(teacher, student)


def test_unknown_sizes_are_left_to_the_step():
    SoftTargets().validate_outputs(keras.KerasTensor((None, None, 4)), keras.KerasTensor((8, 3, 4)))


def test_the_error_says_what_came_and_what_to_do():
    with pytest.raises(ValueError, match="SoftTargets") as raised:
        SoftTargets()(np.zeros((32, 1000), "float32"), np.zeros((32, 100), "float32"))
    assert str(raised.value) == (
        "SoftTargets compares element by element, so teacher and student must have the same shape. "
        "Received: teacher (32, 1000) and student (32, 100). Use models with the same outputs, such as the same set "
        "of labels. For layers of different shapes use a loss with a projector, such as Hint."
    )
