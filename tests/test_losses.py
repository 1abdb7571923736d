"""One contract for every loss, against the float64 oracle, and the mutants it catches."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import keras
import numpy as np
import pytest
import reference
from backend import FLOAT64, as_numpy, as_tensor, compiled, dtype_of, value_and_gradients
from hypothesis import strategies as st
from keras import ops

from distill.losses import BernoulliSoftTargets, DistillationLoss, SoftTargets
from distill.losses.base import BatchLoss

# (make a loss, its oracle) - a new loss joins the contract with one line here.
LOSSES = [
    pytest.param(SoftTargets, reference.soft_targets, id="SoftTargets"),
    pytest.param(BernoulliSoftTargets, reference.bernoulli_soft_targets, id="BernoulliSoftTargets"),
]
every_loss = pytest.mark.parametrize(("make", "oracle"), LOSSES)


def rows(count=5, classes=4, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple((scale * rng.normal(size=(count, classes))).astype("float32") for _ in range(2))


@every_loss
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_value_and_gradient_follow_the_definition(make, oracle, temperature):
    teacher, student = rows()
    loss = make(temperature)
    per_example = loss.call(as_tensor(teacher), as_tensor(student))
    assert tuple(per_example.shape) == (5,)
    assert dtype_of(per_example) == "float32"
    # A divergence of nats is rounded at 1e-6 of a nat before T² enlarges it.
    tolerance = {"rtol": 1e-5, "atol": 1e-6 * max(1.0, temperature**2 / 10)}
    np.testing.assert_allclose(as_numpy(per_example), oracle(teacher, student, temperature), **tolerance)

    value, (to_teacher, to_student) = value_and_gradients(loss, teacher, student)
    np.testing.assert_allclose(value, oracle(teacher, student, temperature).mean(), **tolerance)
    expected = reference.gradient(lambda s: oracle(teacher, s, temperature).mean(), student)
    np.testing.assert_allclose(to_student, expected, rtol=1e-4, atol=1e-6)
    assert to_teacher is None


@every_loss
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(data=st.data())
def test_value_over_random_logits(make, oracle, data):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(2, 7)))
    logits = hnp.arrays("float32", shape, elements=st.floats(-50, 50, width=32))
    teacher, student = data.draw(logits), data.draw(logits)
    temperature = data.draw(st.sampled_from([1.0, 2.5, 8.0]))
    values = as_numpy(make(temperature).call(as_tensor(teacher), as_tensor(student)))
    expected = oracle(teacher, student, temperature)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=2e-5 * temperature**2)
    assert values.min() > -1e-5 * temperature**2


@every_loss
def test_zero_at_equality_and_blind_to_row_order(make, oracle):
    teacher, student = rows()
    loss = make(4.0)
    at_equality = loss.call(as_tensor(teacher), as_tensor(teacher))
    np.testing.assert_allclose(as_numpy(at_equality), np.zeros(5), atol=1e-6)
    order = np.array([3, 0, 4, 1, 2])
    in_order = as_numpy(loss.call(as_tensor(teacher), as_tensor(student)))
    shuffled = as_numpy(loss.call(as_tensor(teacher[order]), as_tensor(student[order])))
    np.testing.assert_allclose(shuffled, in_order[order], rtol=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", FLOAT64])
def test_computes_in_float32_whatever_comes(make, oracle, dtype):
    teacher, student = (ops.cast(side, dtype) for side in rows())
    value = make(4.0)(teacher, student)
    assert dtype_of(value) == "float32"
    sides = (as_numpy(side).astype("float64") for side in (teacher, student))
    np.testing.assert_allclose(as_numpy(value), oracle(*sides, 4.0).mean(), rtol=1e-5)


@every_loss
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_finite_for_huge_logits(make, oracle, temperature):
    teacher = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], "float32")
    student = np.array([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], "float32")
    loss = make(temperature)
    value, (_, gradient) = value_and_gradients(loss, teacher, student)
    np.testing.assert_allclose(value, oracle(teacher, student, temperature).mean(), rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0.1  # a clipped probability would have no gradient left


@every_loss
def test_sample_weight_multiplies_each_row(make, oracle):
    teacher, student = rows()
    weights = np.array([0.0, 1.0, 2.0, 0.5, 3.0], "float32")
    expected = (weights * oracle(teacher, student, 4.0)).mean()
    value = make(4.0)(teacher, student, sample_weight=weights)
    np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5)


@every_loss
def test_positions_before_the_last_axis_keep_their_own_value(make, oracle):
    teacher, student = rows(count=6)
    flat = as_numpy(make(2.0).call(as_tensor(teacher), as_tensor(student)))
    maps = as_numpy(make(2.0).call(ops.reshape(teacher, (2, 3, 4)), ops.reshape(student, (2, 3, 4))))
    np.testing.assert_array_equal(maps, flat.reshape(2, 3))


@every_loss
def test_other_shapes_are_refused(make, oracle):
    teacher, student = rows(classes=4)
    with pytest.raises(ValueError, match=r"one shape.*teacher \(5, 4\) and student \(5, 1\)"):
        make(4.0)(teacher, student[:, :1])
    with pytest.raises(ValueError, match="one shape"):
        make(4.0)(teacher, student[:, 0])


@every_loss
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


@every_loss
def test_a_new_temperature_takes_effect_in_compiled_code(make, oracle):
    teacher, student = rows()
    loss = make(4.0)
    step = compiled(loss.__call__, loss.variables)
    before = as_numpy(step(as_tensor(teacher), as_tensor(student)))
    loss.temperature = 1.5
    after = as_numpy(step(as_tensor(teacher), as_tensor(student)))
    np.testing.assert_allclose(before, oracle(teacher, student, 4.0).mean(), rtol=1e-5)
    np.testing.assert_allclose(after, oracle(teacher, student, 1.5).mean(), rtol=1e-5)


@every_loss
def test_config_round_trip(make, oracle):
    loss = make(4.0, name="soft")
    loss.temperature = 2.5
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss)
    assert (again.temperature, again.name) == (2.5, "soft")


@every_loss
def test_stands_in_keras_distillation(make, oracle):
    teacher, student = rows()
    value = as_numpy(make(4.0).compute_loss(teacher, student))
    np.testing.assert_allclose(value, oracle(teacher, student, 4.0).mean(), rtol=1e-5)


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="BernoulliSoftTargets"):
        SoftTargets(4.0)(np.zeros((3, 1), "float32"), np.ones((3, 1), "float32"))


def test_one_bernoulli_logit_is_two_softmax_classes():
    """sigmoid(z) = softmax([z, 0])[0], so the two losses must agree."""
    teacher, student = (side[:, :1] for side in rows())
    two = [np.concatenate([side, np.zeros_like(side)], axis=-1) for side in (teacher, student)]
    one = as_numpy(BernoulliSoftTargets(3.0)(teacher, student))
    np.testing.assert_allclose(one, as_numpy(SoftTargets(3.0)(*two)), rtol=1e-6)


def test_batch_loss_passes_a_keras_loss_through():
    teacher, student = rows()
    wrapped = BatchLoss(keras.distillation.FeatureDistillation("mse"))
    assert wrapped.name == "feature_distillation"
    value = as_numpy(wrapped(teacher, student))
    np.testing.assert_allclose(value, np.mean((teacher - student) ** 2), rtol=1e-6)


def test_base_class_asks_for_call():
    with pytest.raises(NotImplementedError, match="must implement call"):
        DistillationLoss("mine")(np.zeros((2, 2)), np.zeros((2, 2)))


def kl(teacher, student, temperature, *, factor=lambda t: t * t, forward=True, total=ops.sum, soften=True):
    scale = temperature if soften else 1.0
    log_p, log_q = (ops.log_softmax(side / scale) for side in (teacher, student))
    if not forward:
        log_p, log_q = log_q, log_p
    return factor(temperature) * total(ops.exp(log_p) * (log_p - log_q), axis=-1)


MUTANTS = {
    "missing T squared": {"factor": lambda t: 1.0},
    "T instead of T squared": {"factor": lambda t: t},
    "reverse KL": {"forward": False},
    "mean over classes": {"total": ops.mean},
    "not softened": {"soften": False},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_oracle_catches_mutants(mutant):
    class Mutant(SoftTargets):
        def call(self, teacher, student):
            return kl(teacher, student, self.temperature, **MUTANTS[mutant])

    check = functools.partial(test_value_and_gradient_follow_the_definition, oracle=reference.soft_targets)
    with pytest.raises(AssertionError):
        check(Mutant, temperature=4.0)


def test_the_oracle_catches_a_teacher_that_learns():
    class Mutant(SoftTargets):
        def __call__(self, teacher, student, sample_weight=None):
            return keras.losses.Loss.__call__(self, teacher, student, sample_weight)

    with pytest.raises(AssertionError):
        test_value_and_gradient_follow_the_definition(Mutant, reference.soft_targets, 4.0)


def test_the_unmutated_formula_passes():
    class Same(SoftTargets):
        def call(self, teacher, student):
            return kl(teacher, student, self.temperature)

    test_value_and_gradient_follow_the_definition(Same, reference.soft_targets, 4.0)


@pytest.mark.parametrize("name", [5, "", "a b", "a/b", "3d"])
def test_names_must_serve_in_logs(name):
    with pytest.raises(ValueError, match="known in the logs by its name"):
        SoftTargets(4.0, name=name)
