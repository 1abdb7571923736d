"""Losses on softened logits: the temperature, and what teacher and student may be."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, as_tensor, compiled, value_and_gradients
from loss_checks import logits_of

from distill.losses import BernoulliSoftTargets, HardTargets, SoftTargets

SOFTENED = [
    pytest.param(SoftTargets, reference.soft_targets, id="SoftTargets"),
    pytest.param(BernoulliSoftTargets, reference.bernoulli_soft_targets, id="BernoulliSoftTargets"),
]
every_softened = pytest.mark.parametrize(("make", "oracle"), SOFTENED)


@every_softened
@pytest.mark.parametrize("temperature", [0, -1.0, 1e-9, 1e9, float("nan"), float("inf"), "4", None, True])
def test_temperature_must_be_positive(make, oracle, temperature):
    with pytest.raises(
        ValueError, match=r"temperature must be a number from 1e-06 to 1e\+06\. Received: temperature="
    ):
        make(temperature)
    loss = make(4.0)
    with pytest.raises(ValueError, match="temperature must be"):
        loss.temperature = temperature
    assert loss.temperature == 4.0


@every_softened
def test_a_new_temperature_takes_effect_in_compiled_code(make, oracle):
    teacher, student = logits_of()
    loss = make(4.0)
    step = compiled(loss.__call__, loss.variables)
    before = as_numpy(step(as_tensor(teacher), as_tensor(student)))
    loss.temperature = 1.5
    after = as_numpy(step(as_tensor(teacher), as_tensor(student)))
    np.testing.assert_allclose(before, oracle(teacher, student, 4.0).mean(), rtol=1e-5)
    np.testing.assert_allclose(after, oracle(teacher, student, 1.5).mean(), rtol=1e-5)


@every_softened
def test_the_config_holds_the_temperature_as_it_is_now(make, oracle):
    loss = make(4.0)
    loss.temperature = 2.5
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.temperature == 2.5


@every_softened
def test_stands_in_keras_distillation(make, oracle):
    teacher, student = logits_of()
    value = as_numpy(make(4.0).compute_loss(teacher, student))
    np.testing.assert_allclose(value, oracle(teacher, student, 4.0).mean(), rtol=1e-5)


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match=r"two classes or more.*teacher \(3, 1\).*Use BernoulliSoftTargets"):
        SoftTargets(4.0)(np.zeros((3, 1), "float32"), np.ones((3, 1), "float32"))


def test_one_bernoulli_logit_is_two_softmax_classes():
    """sigmoid(z) = softmax([z, 0])[0], so the two losses must agree."""
    teacher, student = (side[:, :1] for side in logits_of())
    two = [np.concatenate([side, np.zeros_like(side)], axis=-1) for side in (teacher, student)]
    one = as_numpy(BernoulliSoftTargets(3.0)(teacher, student))
    np.testing.assert_allclose(one, as_numpy(SoftTargets(3.0)(*two)), rtol=1e-6)


@pytest.mark.parametrize("loss", [SoftTargets(2.0), BernoulliSoftTargets(2.0)])
def test_logits_of_minus_infinity_are_classes_that_cannot_be(loss):
    teacher = np.array([[1.0, 2.0, -np.inf]], "float32")
    student = np.array([[0.5, -0.5, 1.0]], "float32")
    oracle = reference.soft_targets if isinstance(loss, SoftTargets) else reference.bernoulli_soft_targets
    expected = oracle(np.where(np.isinf(teacher), -1e6, teacher), student, 2.0).mean()
    value, (_, gradient) = value_and_gradients(loss, teacher, student)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_a_teacher_that_answers_nan_teaches_no_class():
    teacher = np.array([[np.nan] * 3, [0.0, 2.0, 1.0]], "float32")
    student = np.zeros((2, 3), "float32")
    values = as_numpy(HardTargets().call(as_tensor(teacher), as_tensor(student)))
    assert np.isnan(values).tolist() == [True, False]
    assert values[1] == pytest.approx(np.log(3))
