"""One contract for every loss, against the float64 oracle, and the mutants it catches."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import hypothesis
import hypothesis.extra.numpy as hnp
import keras
import numpy as np
import pytest
import reference
from backend import FLOAT64, as_numpy, as_tensor, compiled, dtype_of, value_and_gradients
from hypothesis import strategies as st
from keras import ops

import distill
from distill.losses import (
    DIST,
    BernoulliSoftTargets,
    CurriculumTemperature,
    DecoupledKD,
    DistillationLoss,
    GeneralizedJSD,
    HardTargets,
    LogitMSE,
    MultiLevelKD,
    OutputMSE,
    SoftTargets,
    Standardized,
)
from distill.losses.base import BatchLoss


class Case(NamedTuple):
    """A loss, its oracle of (teacher, student, labels), and what the contract must know of it."""

    make: Callable[..., DistillationLoss]
    oracle: Callable[..., np.ndarray]
    zero_at_equality: bool = True
    by_position: bool = True  # rows are values of their own, so maps and tokens work
    rounding: float = (
        1e-6  # of a value; a divergence of nats is rounded at 1e-6 of a nat before T² enlarges it
    )
    huge: bool = True  # right, with a gradient, for logits of ±1e4


def softened(make, oracle, temperature):
    rounding = 1e-6 * max(1.0, temperature**2 / 10)
    return Case(
        lambda **kw: make(temperature, **kw), lambda t, s, y: oracle(t, s, temperature), rounding=rounding
    )


# A new loss joins the contract with one line here.
CASES = {
    **{f"SoftTargets {t}": softened(SoftTargets, reference.soft_targets, t) for t in (0.5, 1.0, 4.0, 20.0)},
    **{
        f"BernoulliSoftTargets {t}": softened(BernoulliSoftTargets, reference.bernoulli_soft_targets, t)
        for t in (0.5, 1.0, 4.0, 20.0)
    },
    "LogitMSE": Case(LogitMSE, lambda t, s, y: reference.logit_mse(t, s)),
    "OutputMSE": Case(OutputMSE, lambda t, s, y: reference.logit_mse(t, s)),
    "HardTargets": Case(HardTargets, lambda t, s, y: reference.hard_labels(t, s), zero_at_equality=False),
    "Standardized SoftTargets": Case(
        lambda **kw: Standardized(SoftTargets(2.0), **kw),
        lambda t, s, y: reference.standardised_soft_targets(t, s, 2.0),
        huge=False,
    ),
    "Standardized DecoupledKD": Case(
        lambda **kw: Standardized(DecoupledKD(temperature=2.0), **kw),
        lambda t, s, y: reference.standardised_decoupled(t, s, y, 2.0),
        rounding=2e-6,
        huge=False,
    ),
    "DecoupledKD": Case(DecoupledKD, lambda t, s, y: reference.decoupled(t, s, y), rounding=1e-5),
    "DecoupledKD 2, 0.5, 1": Case(
        lambda **kw: DecoupledKD(2.0, 0.5, 1.0, **kw),
        lambda t, s, y: reference.decoupled(t, s, y, 1.0, 2.0, 0.5),
    ),
    "DIST": Case(DIST, lambda t, s, y: reference.dist(t, s), by_position=False, huge=False),
    "DIST 2, 3, 4": Case(
        lambda **kw: DIST(2.0, 3.0, 4.0, **kw),
        lambda t, s, y: reference.dist(t, s, 4.0, 2.0, 3.0),
        by_position=False,
        rounding=1e-4,
        huge=False,
    ),
    **{
        f"GeneralizedJSD {beta}": Case(
            functools.partial(lambda beta, **kw: GeneralizedJSD(beta, 1.5, **kw), beta),
            functools.partial(lambda beta, t, s, y: reference.generalised_jsd(t, s, beta, 1.5), beta),
            huge=beta in (0, 1),
        )
        for beta in (0, 0.1, 0.5, 1)
    },
    "MultiLevelKD": Case(
        MultiLevelKD, lambda t, s, y: reference.mlkd(t, s), by_position=False, rounding=2e-5
    ),
    "MultiLevelKD standardized": Case(
        lambda **kw: MultiLevelKD((1.0, 3.0), standardize=True, **kw),
        lambda t, s, y: reference.mlkd(t, s, (1.0, 3.0), standardised=True),
        by_position=False,
        huge=False,
    ),
    "CurriculumTemperature": Case(
        lambda **kw: CurriculumTemperature(10, **kw), lambda t, s, y: reference.ctkd(t, s), rounding=5e-5
    ),
}
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SOFTENED = [
    pytest.param(SoftTargets, reference.soft_targets, id="SoftTargets"),
    pytest.param(BernoulliSoftTargets, reference.bernoulli_soft_targets, id="BernoulliSoftTargets"),
]
every_softened = pytest.mark.parametrize(("make", "oracle"), SOFTENED)


def rows(count=5, classes=4, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple((scale * rng.normal(size=(count, classes))).astype("float32") for _ in range(2))


def labels_of(student):
    """The same for the same shape."""
    return np.arange(int(np.prod(student.shape[:-1]))).reshape(student.shape[:-1]) % student.shape[-1]


def call(loss, teacher, student, labels=None):
    """A row's values in numpy."""
    labels = labels_of(student) if labels is None else labels
    sides = as_tensor(teacher), as_tensor(student)
    return as_numpy(loss.call(*sides, labels) if loss.needs_labels else loss.call(*sides))


def apply(loss, **kwargs):
    """The loss of both sides, labels included."""
    return lambda t, s: loss(t, s, labels=labels_of(s), **kwargs)


def value_and_gradient(loss, teacher, student):
    """The loss and its gradient to the student; on JAX zeros come as `None`."""
    value, (_, gradient) = value_and_gradients(apply(loss), teacher, student)
    return value, np.zeros_like(student) if gradient is None else gradient


@every_loss
def test_value_and_gradient_follow_the_definition(case):
    teacher, student = rows()
    labels = labels_of(student)
    loss = case.make()
    tolerance = {"rtol": 1e-5, "atol": case.rounding}
    per_example = call(loss, teacher, student)
    assert per_example.shape == (5,)
    assert per_example.dtype == "float32"
    expected = case.oracle(teacher, student, labels)
    np.testing.assert_allclose(per_example, expected, **tolerance)

    value, (to_teacher, to_student) = value_and_gradients(apply(loss), teacher, student)
    np.testing.assert_allclose(value, expected.mean(), **tolerance)
    expected = reference.gradient(lambda s: case.oracle(teacher, s, labels).mean(), student)
    np.testing.assert_allclose(to_student, expected, rtol=1e-4, atol=max(1e-6, case.rounding / 10))
    assert to_teacher is None


@every_loss
@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(data=st.data())
def test_value_over_random_logits(case, data):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(2, 7)))
    loss = case.make()
    # What divides by a spread differs, rightly, between float32 and float64 where there is next to none.
    spread = isinstance(loss, Standardized | MultiLevelKD | DIST)
    logits = hnp.arrays(
        "float32", shape, elements=st.floats(-5, 5, width=32) if spread else st.floats(-50, 50, width=32)
    )
    steps = np.arange(shape[0] * shape[1]).reshape(shape) ** 2 / 8 if spread else 0
    teacher, student = ((data.draw(logits) + sign * steps).astype("float32") for sign in (1, -1))
    if spread:
        hypothesis.assume(min(np.ptp(side, axis=-1).min() for side in (teacher, student)) > 0.1)
    if isinstance(loss, DIST):
        teacher, student = teacher % 5, student % 5
        hypothesis.assume(
            min(np.ptp(side, axis=axis).min() for side in (teacher, student) for axis in (0, 1)) > 0.1
        )
    values = call(loss, teacher, student)
    expected = case.oracle(teacher, student, labels_of(student))
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=max(2e-5, 300 * case.rounding))
    assert values.min() > -max(1e-5, 100 * case.rounding)


@every_loss
def test_zero_at_equality_and_blind_to_row_order(case):
    teacher, student = rows()
    loss = case.make()
    if case.zero_at_equality:
        np.testing.assert_allclose(call(loss, teacher, teacher), np.zeros(5), atol=max(2e-6, case.rounding))
    order = np.array([3, 0, 4, 1, 2])
    in_order = call(loss, teacher, student)
    shuffled = call(loss, teacher[order], student[order], labels_of(student)[order])
    np.testing.assert_allclose(shuffled, in_order[order], rtol=1e-5, atol=case.rounding)


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", FLOAT64])
def test_computes_in_float32_whatever_comes(case, dtype):
    teacher, student = (ops.cast(side, dtype) for side in rows())
    value = apply(case.make())(teacher, student)
    assert dtype_of(value) == "float32"
    sides = [as_numpy(side).astype("float64") for side in (teacher, student)]
    expected = case.oracle(*sides, labels_of(student)).mean()
    np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5, atol=case.rounding)


@every_loss
def test_huge_logits(case):
    teacher = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], "float32")
    student = np.array([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], "float32")
    value, gradient = value_and_gradient(case.make(), teacher, student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    if case.huge:
        expected = case.oracle(teacher, student, labels_of(student)).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert np.abs(gradient).max() > 0.04  # a clipped probability would have no gradient left


@every_loss
@pytest.mark.parametrize("logits", [np.zeros((1, 2)), np.zeros((3, 4)), np.full((3, 4), 7.0)])
def test_degenerate_logits_give_finite_values_and_gradients(case, logits):
    """A batch of one, two classes, logits that are all equal."""
    varied = rows(*logits.shape)[0]
    for teacher, student in ((logits, varied), (varied, logits), (logits, logits)):
        sides = teacher.astype("float32"), student.astype("float32")
        value, gradient = value_and_gradient(case.make(), *sides)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@every_loss
def test_sample_weight_multiplies_each_row(case):
    teacher, student = rows()
    weights = np.array([0.0, 1.0, 2.0, 0.5, 3.0], "float32")
    expected = (weights * case.oracle(teacher, student, labels_of(student))).mean()
    value = apply(case.make(), sample_weight=weights)(teacher, student)
    np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5, atol=case.rounding)


@every_loss
def test_positions_before_the_last_axis_keep_their_own_value(case):
    teacher, student = rows(count=6)
    maps = [side.reshape(2, 3, 4) for side in (teacher, student)]
    loss = case.make()
    if case.by_position:
        flat = call(loss, teacher, student)
        np.testing.assert_allclose(call(loss, *maps), flat.reshape(2, 3), rtol=1e-6, atol=1e-7)
    else:
        with pytest.raises(ValueError, match=r"needs logits \(batch, classes\)"):
            apply(loss)(*maps)


@every_loss
def test_other_shapes_are_refused(case):
    teacher, student = rows(classes=4)
    with pytest.raises(ValueError, match=r"one shape.*teacher \(5, 4\) and student \(5, 1\)"):
        apply(case.make())(teacher, student[:, :1])
    with pytest.raises(ValueError, match="one shape"):
        case.make()(teacher, student[:, 0], labels=np.zeros(5))


@every_loss
def test_config_round_trip(case):
    loss = case.make(name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss)
    assert again.name == "mine"
    assert again.get_config() == loss.get_config()
    np.testing.assert_array_equal(call(again, *rows()), call(loss, *rows()))


@every_loss
def test_recipes_are_arguments_of_the_distiller(case, teacher, student):
    loss = case.make()
    if loss.head != "sigmoid":
        distiller = distill.Distiller(teacher, student, loss, **loss.recipe)
        for argument, value in loss.recipe.items():
            assert getattr(distiller, argument) == pytest.approx(value)


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
    teacher, student = rows()
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
    teacher, student = rows()
    value = as_numpy(make(4.0).compute_loss(teacher, student))
    np.testing.assert_allclose(value, oracle(teacher, student, 4.0).mean(), rtol=1e-5)


# --- labels, two classes, trained temperatures --------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 4)])
def test_labels_come_as_keras_takes_them(shape):
    teacher, student = rows()
    labels = labels_of(student)
    given = np.eye(4)[labels] if shape == (5, 4) else labels.reshape(shape).astype("float32")
    expected = reference.decoupled(teacher, student, labels).mean()
    np.testing.assert_allclose(as_numpy(DecoupledKD()(teacher, student, labels=given)), expected, rtol=1e-5)


def test_labels_are_needed_and_must_fit():
    teacher, student = rows()
    with pytest.raises(ValueError, match="by the label of each example. Received: labels=None"):
        DecoupledKD()(teacher, student)
    with pytest.raises(ValueError, match=r"labels of shape \(5, 2, 4\) for logits \(5, 4\)"):
        DecoupledKD()(teacher, student, labels=np.zeros((5, 2, 4)))


def test_of_two_classes_the_others_have_nothing_to_compare():
    teacher, student = rows(classes=2)
    labels = labels_of(student)
    only_second = DecoupledKD(alpha=0.0)(teacher, student, labels=labels)
    np.testing.assert_array_equal(as_numpy(only_second), 0.0)
    np.testing.assert_allclose(
        as_numpy(DecoupledKD()(teacher, student, labels=labels)),
        reference.soft_targets(teacher, student, 4.0).mean(),
        rtol=1e-5,
    )


def test_the_students_standard_deviation_has_a_gradient():
    """Scaling the student changes nothing, so its gradient is orthogonal to it."""
    teacher, student = rows()
    student -= student.mean(axis=-1, keepdims=True)
    _, (_, gradient) = value_and_gradients(apply(Standardized(SoftTargets(2.0))), teacher, student)
    np.testing.assert_allclose((gradient * student).sum(axis=-1), np.zeros(5), atol=1e-6)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (4, 4), (10, 10), (25, 25)])
def test_the_temperature_is_trained_against_the_student(step, epoch):
    teacher, student = rows()
    loss = CurriculumTemperature(steps=10)
    loss.settings[0].update(as_tensor(float(step)))
    theta = loss.layers[0].value
    _, (_, _, to_theta) = value_and_gradients(apply(loss), teacher, student, variables=[theta])
    expected = reference.gradient(lambda t: reference.ctkd(teacher, student, float(t[0])).mean(), np.ones(1))
    factor = reference.ctkd_reversal(epoch)
    np.testing.assert_allclose(
        0.0 if to_theta is None else to_theta, factor * expected[0], rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(loss.temperature, reference.ctkd_temperature(1.0), rtol=1e-6)


def test_a_curriculum_temperature_trains_in_a_distiller_and_stays_out_of_the_student(
    teacher, student, batch, tmp_path
):
    loss = CurriculumTemperature(steps=2)
    distiller = distill.Distiller(teacher, student, loss, **loss.recipe)
    distiller.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    before = loss.temperature
    history = distiller.fit(*batch, epochs=6, verbose=0).history
    assert abs(loss.temperature - before) > 1e-4
    assert history["curriculum_temperature_gradient_factor"][-1] == -1.0
    distiller.save(tmp_path / "student.keras")
    assert keras.models.load_model(tmp_path / "student.keras").count_params() == student.count_params()
    distiller.save_weights(tmp_path / "a.weights.h5")
    trained = loss.temperature
    loss.layers[0].set_weights([np.float32(0)])
    distiller.load_weights(tmp_path / "a.weights.h5")
    assert loss.temperature == trained


WRONG_ARGUMENTS = {
    "alpha": (lambda: DecoupledKD(alpha=-1.0), "alpha must be a finite number >= 0"),
    "beta": (lambda: GeneralizedJSD(1.5), "beta must be a number from 0 to 1"),
    "gamma": (lambda: DIST(gamma=float("nan")), "gamma must be"),
    "temperatures": (lambda: MultiLevelKD([]), "temperatures are a list of one or more"),
    "a temperature": (lambda: MultiLevelKD([1.0, 0.0]), "temperatures must be a number from"),
    "steps": (lambda: CurriculumTemperature(0), "steps must be a finite number >= 1"),
    "no loss": (lambda: Standardized("kl"), "a loss on softmax logits"),
    "sigmoid loss": (lambda: Standardized(BernoulliSoftTargets()), "a loss on softmax logits"),
}


@pytest.mark.parametrize("wrong", WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused(wrong):
    make, message = WRONG_ARGUMENTS[wrong]
    with pytest.raises(ValueError, match=message):
        make()


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


def check(make, like="SoftTargets 4.0"):
    test_value_and_gradient_follow_the_definition(CASES[like]._replace(make=make))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_oracle_catches_mutants(mutant):
    class Mutant(SoftTargets):
        def call(self, teacher, student):
            return kl(teacher, student, self.temperature, **MUTANTS[mutant])

    with pytest.raises(AssertionError):
        check(Mutant)


def test_the_oracle_catches_a_teacher_that_learns(monkeypatch):
    monkeypatch.setattr(ops, "stop_gradient", lambda x: x)
    for name, case in CASES.items():
        if name != "HardTargets":  # which reads the teacher's class alone
            with pytest.raises(AssertionError):
                test_value_and_gradient_follow_the_definition(case)


def test_the_unmutated_formula_passes():
    class Same(SoftTargets):
        def call(self, teacher, student):
            return kl(teacher, student, self.temperature)

    check(Same)


@pytest.mark.parametrize("name", [5, "", "a b", "a/b", "3d"])
def test_names_must_serve_in_logs(name):
    with pytest.raises(ValueError, match="known in the logs by its name"):
        SoftTargets(4.0, name=name)
