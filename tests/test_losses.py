"""Losses on logits: what is theirs alone beside the contract of all losses, and the mutants that it catches."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, as_tensor, compiled, value_and_gradients
from keras import ops
from test_contract import CASES, apply, cases_where, follows, labels_of

import distill
from distill.losses import (
    DIST,
    BernoulliSoftTargets,
    CurriculumTemperature,
    DecoupledKD,
    DistillationLoss,
    GeneralizedJSD,
    MultiLevelKD,
    SoftTargets,
    Standardized,
)
from distill.losses.base import BatchLoss

SOFTENED = [
    pytest.param(SoftTargets, reference.soft_targets, id="SoftTargets"),
    pytest.param(BernoulliSoftTargets, reference.bernoulli_soft_targets, id="BernoulliSoftTargets"),
]
every_softened = pytest.mark.parametrize(("make", "oracle"), SOFTENED)


def rows(count=5, classes=4, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple((scale * rng.normal(size=(count, classes))).astype("float32") for _ in range(2))


NO_GRADIENT_LEFT = ("GeneralizedJSD 0.1", "GeneralizedJSD 0.5")  # which is bounded


@cases_where(lambda name, case: case.make().same_shape and case.exact and name not in NO_GRADIENT_LEFT)
def test_huge_logits_have_a_gradient(case):
    """A clipped probability would have none left."""
    teacher = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], "float32")
    student = np.array([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], "float32")
    loss = case.make()
    value, (_, gradient) = value_and_gradients(apply(loss), teacher, student)
    np.testing.assert_allclose(
        value, case.oracle(loss, teacher, student, labels_of(student)).mean(), rtol=1e-5
    )
    assert np.abs(gradient).max() > 0.04


@pytest.mark.parametrize("make", [DIST, MultiLevelKD])
def test_what_compares_the_examples_of_a_batch_takes_no_tokens(make):
    maps = [side.reshape(2, 3, 4) for side in rows(count=6)]
    with pytest.raises(ValueError, match=r"needs logits \(batch, classes\)"):
        make()(*maps)


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
    "standardized twice": (lambda: Standardized(MultiLevelKD()), r"Use MultiLevelKD\(standardize=True\)"),
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


def check(make):
    follows(CASES["SoftTargets 4.0"]._replace(make=make))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_oracle_catches_mutants(mutant):
    class Mutant(SoftTargets):
        def call(self, teacher, student):
            return kl(teacher, student, self.temperature, **MUTANTS[mutant])

    with pytest.raises(AssertionError):
        check(Mutant)


def test_the_unmutated_formula_passes():
    class Same(SoftTargets):
        def call(self, teacher, student):
            return kl(teacher, student, self.temperature)

    check(Same)


@pytest.mark.parametrize("name", [5, "", "a b", "a/b", "3d"])
def test_names_must_serve_in_logs(name):
    with pytest.raises(ValueError, match="known in the logs by its name"):
        SoftTargets(4.0, name=name)
