"""Losses on logits: what is theirs alone beside the contract of all losses, and the mutants that it catches."""

import keras
import numpy as np
import pytest
import reference
import test_contract
from backend import as_numpy, as_tensor, compiled, only_on, value_and_gradients
from mutants import mutate
from test_contract import CASES, apply, cases_where, follows, labels_of, sides

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
from distill.losses import _divergences as divergences
from distill.losses import _logits as logits
from distill.losses import _output_mse as outputs
from distill.losses._base import BatchLoss

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


# --- mutants ------------------------------------------------------------------------------------------

# Where an epsilon is not small beside what it is added to: (case, scale of the logits, tolerance). Probabilities that
# are all but equal have few digits of a difference in float32.
GUARDED = {
    "deviations of 1e-6": ("Standardized SoftTargets", 1e-6, 2e-5),
    "deviations of 1e-4": ("Standardized SoftTargets", 1e-4, 2e-5),
    "probabilities 1e-4 apart": ("DIST", 5e-4, 1e-2),
}


def check_guard(name):
    case, scale, tolerance = GUARDED[name]
    case = CASES[case]
    teacher, student = sides(case, batch=3, scale=scale / case.scale)
    expected = case.oracle(None, teacher, student)
    values = as_numpy(case.make().call(as_tensor(teacher), as_tensor(student)))
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", GUARDED)
def test_epsilons_are_those_of_the_definition(name):
    check_guard(name)


def check(name):
    """Of as many examples as no case has classes, so that a mean over the one is none over the other."""
    if name in GUARDED:
        check_guard(name)
    elif name == "reversal":
        test_the_temperature_is_trained_against_the_student(4, 4)
    elif name == "random shapes":
        test_contract.test_value_over_random_shapes(CASES["SoftTargets 20.0"])
    else:
        follows(CASES[name], batch=3)


SOFT, BERNOULLI, HARD = "SoftTargets 4.0", "BernoulliSoftTargets 4.0", "HardTargets"
STANDARD, DKD, JSD = "Standardized SoftTargets", "DecoupledKD 2, 0.5, 1", "GeneralizedJSD 0.1"
MLKD, MLKD_STANDARD, CTKD = "MultiLevelKD", "MultiLevelKD standardized", "CurriculumTemperature"
SQUARE = "ops.square(self._temperature.variable) * "
DISTANCE = "ops.mean(ops.square(student - teacher), axis=-1)"
LOG_Q = "ops.log_softmax(student / self._temperature.variable, axis=-1)"
MUTANTS = {
    logits: {
        "SoftTargets.call": [
            (SOFT, "no T²", SQUARE, ""),
            (SOFT, "T for T²", "ops.square(self._temperature.variable)", "self._temperature.variable"),
            (SOFT, "reverse KL", "(log_p, log_q)", "(log_q, log_p)"),
            # Small beside the logarithm of any but a rare class, times T².
            ("random shapes", "eps in the logarithm", LOG_Q, f"ops.log(ops.exp({LOG_Q}) + 1e-7)"),
            (SOFT, "not softened", "student / self._temperature.variable", "student"),
        ],
        "kl_divergence": [(SOFT, "mean over classes", "ops.sum", "ops.mean")],
        "kl_terms": [
            (SOFT, "gradient to the student", "-flow", "flow"),
            ("GeneralizedJSD 1", "gradient to the first", "flow * (ratio + 1.0)", "flow"),
        ],
        "BernoulliSoftTargets.call": [
            (BERNOULLI, "no T²", SQUARE, ""),
            (BERNOULLI, "T for T²", "ops.square(self._temperature.variable)", "self._temperature.variable"),
            (BERNOULLI, "mean over labels", "ops.sum(", "ops.mean("),
            (BERNOULLI, "reverse KL", "kl_terms(log_p, log_q)", "kl_terms(log_q, log_p)"),
            (BERNOULLI, "yes alone", " + kl_terms(log_not_p, log_not_q)", ""),
            (BERNOULLI, "not softened", "student / self._temperature.variable", "student"),
        ],
        "LogitMSE.call": [
            ("LogitMSE", "sum over classes", DISTANCE, "ops.sum(ops.square(student - teacher), axis=-1)"),
            ("LogitMSE", "halved", DISTANCE, f"{DISTANCE} / 2"),
            ("LogitMSE", "absolute", "ops.square(", "ops.abs("),
        ],
        "HardTargets.call": [
            (HARD, "least likely class", "teacher >= ops.max(", "teacher <= ops.min("),
            (HARD, "the student's class", "teacher >= ops.max(teacher,", "student >= ops.max(student,"),
            (HARD, "no logits", "student, from_logits=True", "ops.exp(student), from_logits=True"),
        ],
    },
    outputs: {
        "OutputMSE.call": [
            ("OutputMSE", "sum over values", DISTANCE, "ops.sum(ops.square(student - teacher), axis=-1)"),
            ("OutputMSE", "halved", DISTANCE, f"{DISTANCE} / 2"),
            ("OutputMSE", "absolute", "ops.square(", "ops.abs("),
        ],
    },
    divergences: {
        "_standardize": [
            (STANDARD, "ddof 0", "(logits.shape[-1] - 1)", "logits.shape[-1]"),
            (STANDARD, "not centered", "logits - ops.mean(logits, axis=-1, keepdims=True)", "logits"),
            (STANDARD, "variance", "(1e-7 + spread)", "(1e-7 + spread**2)"),
            (STANDARD, "spread held constant", "(1e-7 + spread)", "(1e-7 + ops.stop_gradient(spread))"),
            ("deviations of 1e-6", "eps 1e-6", "1e-7", "1e-6"),
            ("deviations of 1e-4", "eps 1e-6", "1e-7", "1e-6"),
            ("deviations of 1e-6", "eps 1e-8", "1e-7", "1e-8"),
            ("deviations of 1e-6", "eps in the root", "(1e-7 + spread)", "ops.sqrt(variance + 1e-14)"),
            ("deviations of 1e-6", "eps as a floor", "1e-7 + spread", "ops.maximum(spread, 1e-7)"),
        ],
        "Standardized.call": [
            (STANDARD, "student alone", "_standardize(teacher)", "teacher"),
            (STANDARD, "teacher alone", "_standardize(student)", "student"),
        ],
        "DecoupledKD.call": [
            ("DecoupledKD", "no T²", SQUARE, ""),
            (DKD, "beta for alpha", "self._alpha", "self._beta"),
            (DKD, "alpha for beta", "self._beta", "self._alpha"),
            (DKD, "reverse KL of the label", "divergence(log_b_t, log_b_s)", "divergence(log_b_s, log_b_t)"),
            (DKD, "reverse KL of the others", "divergence(log_o_t, log_o_s)", "divergence(log_o_s, log_o_t)"),
            ("DecoupledKD", "not softened", "side / self._temperature.variable", "side"),
        ],
        "_decouple": [
            (DKD, "the label among the others", "ops.where(target, -1e30, logits)", "logits"),
            (DKD, "all for the rest", "ops.where(target, -1e30, log_p)", "log_p"),
        ],
        "DIST.call": [
            ("DIST 2, 3, 4", "no T²", SQUARE, ""),
            ("DIST 2, 3, 4", "beta for gamma", "self._beta", "self._gamma"),
            ("DIST 2, 3, 4", "gamma for beta", "self._gamma", "self._beta"),
            ("DIST 2, 3, 4", "not softened", "side / self._temperature.variable", "side"),
            ("DIST", "sum of columns", "ops.mean(_pearson(", "ops.sum(_pearson("),
            ("DIST", "rows twice", "axis=0", "axis=1"),
        ],
        "_pearson": [
            ("DIST", "not centered", "side - ops.mean(side, axis=axis, keepdims=True)", "side"),
            ("DIST", "covariance", " / (_norm(a, axis) * _norm(b, axis) + 1e-8)", ""),
            ("probabilities 1e-4 apart", "eps 1e-6", "1e-8", "1e-6"),
            ("probabilities 1e-4 apart", "eps 1e-7", "1e-8", "1e-7"),
            ("probabilities 1e-4 apart", "no eps", "1e-8", "1e-30"),
            (
                "probabilities 1e-4 apart",
                "eps at each norm",
                "(_norm(a, axis) * _norm(b, axis) + 1e-8)",
                "((_norm(a, axis) + 1e-8) * (_norm(b, axis) + 1e-8))",
            ),
        ],
        "GeneralizedJSD.call": [
            (JSD, "T²", "return ops.sum(", "return ops.square(self._temperature.variable) * ops.sum("),
            (JSD, "mean over classes", "ops.sum(", "ops.mean("),
            (JSD, "not softened", "side / self._temperature.variable", "side"),
            (
                "GeneralizedJSD 0",
                "reverse at 0",
                "kl_divergence(log_p, log_q)",
                "kl_divergence(log_q, log_p)",
            ),
            (
                "GeneralizedJSD 1",
                "forward at 1",
                "kl_divergence(log_q, log_p)",
                "kl_divergence(log_p, log_q)",
            ),
        ],
        "GeneralizedJSD._terms": [
            (
                JSD,
                "mixture the other way",
                "self._beta * p + (1.0 - self._beta) * q",
                "self._beta * q + (1.0 - self._beta) * p",
            ),
            (
                JSD,
                "weights the other way",
                "of_p + of_q",
                "of_p / self._beta * (1.0 - self._beta) + of_q / (1.0 - self._beta) * self._beta",
            ),
            (JSD, "half of it", "of_p + of_q, gradient", "of_p, gradient"),
            (JSD, "gradient of the other", "upstream * of_q", "upstream * of_p"),
        ],
        "MultiLevelKD.call": [
            (MLKD, "no T²", "temperature**2 * ", ""),
            (MLKD, "classes not / C", " / p.shape[-1]", ""),
            (MLKD, "classes / B", " / p.shape[-1]", " / p.shape[0]"),
            (
                MLKD,
                "mean of examples",
                "ops.sum(ops.square(examples), axis=-1)",
                "ops.mean(ops.square(examples), axis=-1)",
            ),
            (MLKD, "without examples", "ops.sum(ops.square(examples), axis=-1) + ", ""),
            (MLKD, "reverse KL", "(log_p, log_q)", "(log_q, log_p)"),
            (
                MLKD_STANDARD,
                "all standardized",
                "for side in (teacher, student))\n        p, q",
                "for side in sides)\n        p, q",
            ),
            (MLKD_STANDARD, "nothing standardized", "[_standardize(side) for", "[side for"),
        ],
        "CurriculumTemperature.call": [
            (CTKD, "no T²", "ops.square(temperature) * ", ""),
            (CTKD, "from 0", "1.0 + 20.0", "20.0"),
            (CTKD, "span of 10", "20.0", "10.0"),
            (CTKD, "not softened", "side / temperature", "side"),
            ("reversal", "not turned", "factor * theta + ops.stop_gradient(theta - factor * theta)", "theta"),
            (
                "reversal",
                "T² without θ",
                "ops.square(temperature)",
                "ops.square(ops.stop_gradient(temperature))",
            ),
        ],
        "CurriculumTemperature._factor": [
            ("reversal", "from -1", "1.0 - ops.cos", "1.0 + ops.cos"),
            ("reversal", "with the student", "-0.5", "0.5"),
            ("reversal", "linear", "0.5 * (1.0 - ops.cos(math.pi * done))", "1.0 * done"),
        ],
    },
}
EACH_MUTANT = [
    pytest.param(module, function, case, old, new, id=f"{function}: {what} ({case})")
    for module, functions in MUTANTS.items()
    for function, of_it in functions.items()
    for case, what, old, new in of_it
]


@only_on("tensorflow", reason="mutants are of the formula, which is the same everywhere")
@pytest.mark.parametrize(("module", "function", "case", "old", "new"), EACH_MUTANT)
def test_the_oracle_catches_mutants(module, function, case, old, new, monkeypatch):
    mutate(monkeypatch, module, function, old, new)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(case)


def test_what_is_mutated_passes():
    for case in {mutant.values[2] for mutant in EACH_MUTANT}:
        check(case)


@pytest.mark.parametrize("name", [5, "", "a b", "a/b", "3d"])
def test_names_must_serve_in_logs(name):
    with pytest.raises(ValueError, match="known in the logs by its name"):
        SoftTargets(4.0, name=name)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_has_no_decoupled_answer(label):
    teacher, student = np.array([[1.0, 2, 3]] * 2, "float32"), np.array([[3.0, 1, 2]] * 2, "float32")
    rows = as_numpy(
        DecoupledKD().call(as_tensor(teacher), as_tensor(student), as_tensor(np.array([1, label])))
    )
    assert np.isfinite(rows[0])
    assert np.isnan(rows[1])
