"""Standardized logits: what the student's standard deviation learns, and which weights were published."""

import numpy as np
import pytest
from backend import value_and_gradients
from loss_checks import apply, logits_of

from distill import BernoulliSoftTargets, SoftTargets
from distill.losses import DIST, DecoupledKD, LogitMSE, MultiLevelKD, Standardized


def test_the_students_standard_deviation_has_a_gradient():
    """Scaling the student changes nothing, so its gradient is orthogonal to it."""
    teacher, student = logits_of()
    student -= student.mean(axis=-1, keepdims=True)
    _, (_, gradient) = value_and_gradients(apply(Standardized(SoftTargets(2.0))), teacher, student)
    np.testing.assert_allclose((gradient * student).sum(axis=-1), np.zeros(5), atol=1e-6)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize(
    ("loss", "weights"),
    [(SoftTargets(2.0), (0.1, 9.0)), (DecoupledKD(), (1.0, 9.0)), (DIST(), None), (LogitMSE(), None)],
    ids=lambda x: getattr(x, "name", ""),
)
def test_weights_were_published_around_two_losses(loss, weights):
    names = ("student_loss_weight", "distillation_weight")
    assert Standardized(loss).recipe == ({} if weights is None else dict(zip(names, weights, strict=True)))
    assert loss.recipe is type(loss).recipe


def test_takes_what_the_loss_within_takes():
    tokens = [side.reshape(2, 3, 4) for side in logits_of(count=6)]
    assert Standardized().call(*tokens).shape == (2, 3)
    with pytest.raises(ValueError, match=r"DIST needs logits \(batch, classes\)"):
        Standardized(DIST())(*tokens)


@pytest.mark.parametrize("loss", ["kl", BernoulliSoftTargets(), SoftTargets])
def test_other_losses_are_refused(loss):
    with pytest.raises(ValueError, match="Standardized needs a loss on softmax logits"):
        Standardized(loss)


def test_multi_level_distillation_standardizes_by_itself():
    with pytest.raises(ValueError, match=r"Use MultiLevelKD\(standardize=True\)"):
        Standardized(MultiLevelKD())
