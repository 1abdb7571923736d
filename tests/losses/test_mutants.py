"""Mutants of the losses on logits, which the contract must catch."""

import numpy as np
import pytest
from backend import as_numpy, as_tensor, only_on, value_and_gradients
from loss_cases import CASES, cases_where
from loss_checks import (
    apply,
    follows,
    labels_of,
    sides,
    temperature_is_trained_against_the_student,
    values_over_random_shapes,
)
from mutants import mutate

from distill.losses import (
    _bernoulli,
    _curriculum,
    _decoupled,
    _dist,
    _hard_targets,
    _jsd,
    _logit_mse,
    _multi_level,
    _output_mse,
    _soft_targets,
    _softened,
    _standardized,
)

NO_GRADIENT_LEFT = ("GeneralizedJSD 0.1", "GeneralizedJSD 0.5")  # the loss is bounded


@cases_where(lambda name, case: case.make().same_shape and case.exact and name not in NO_GRADIENT_LEFT)
def test_huge_logits_have_a_gradient(case):
    """A clipped probability would have no gradient left."""
    teacher = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], "float32")
    student = np.array([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], "float32")
    loss = case.make()
    value, (_, gradient) = value_and_gradients(apply(loss), teacher, student)
    np.testing.assert_allclose(
        value, case.oracle(loss, teacher, student, labels_of(student)).mean(), rtol=1e-5
    )
    assert np.abs(gradient).max() > 0.04


# Where an epsilon is not small next to what it is added to: (case, scale of the logits, tolerance). Differences of
# nearly equal probabilities have few digits in float32.
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
    """Three examples: no case has three classes, so that means over examples and over classes differ."""
    if name in GUARDED:
        check_guard(name)
    elif name == "reversal":
        temperature_is_trained_against_the_student(4, 4)
    elif name == "random shapes":
        values_over_random_shapes(CASES["SoftTargets 20.0"])
    else:
        follows(CASES[name], batch=3)


SOFT, BERNOULLI, HARD = "SoftTargets 4.0", "BernoulliSoftTargets 4.0", "HardTargets"
STANDARD, DKD, JSD = "Standardized SoftTargets", "DecoupledKD 2, 0.5, 1", "GeneralizedJSD 0.1"
MLKD, MLKD_STANDARD, CTKD = "MultiLevelKD", "MultiLevelKD standardized", "CurriculumTemperature"
SQUARE = "ops.square(self._temperature.variable) * "
DISTANCE = "ops.mean(ops.square(student - teacher), axis=-1)"
LOG_Q = "ops.log_softmax(student / self._temperature.variable, axis=-1)"
MUTANTS = {
    _soft_targets: {
        "SoftTargets.call": [
            (SOFT, "no T²", SQUARE, ""),
            (SOFT, "T for T²", "ops.square(self._temperature.variable)", "self._temperature.variable"),
            (SOFT, "reverse KL", "(log_p, log_q)", "(log_q, log_p)"),
            # Small next to the logarithm of any class but a rare one, times T².
            ("random shapes", "eps in the logarithm", LOG_Q, f"ops.log(ops.exp({LOG_Q}) + 1e-7)"),
            (SOFT, "not softened", "student / self._temperature.variable", "student"),
        ],
        "kl_divergence": [(SOFT, "mean over classes", "ops.sum", "ops.mean")],
    },
    _softened: {
        "kl_terms": [
            (SOFT, "gradient to the student", "-flow", "flow"),
            ("GeneralizedJSD 1", "gradient to the first", "flow * (ratio + 1.0)", "flow"),
        ],
    },
    _bernoulli: {
        "BernoulliSoftTargets.call": [
            (BERNOULLI, "no T²", SQUARE, ""),
            (BERNOULLI, "T for T²", "ops.square(self._temperature.variable)", "self._temperature.variable"),
            (BERNOULLI, "mean over labels", "ops.sum(", "ops.mean("),
            (BERNOULLI, "reverse KL", "kl_terms(log_p, log_q)", "kl_terms(log_q, log_p)"),
            (BERNOULLI, "yes alone", " + kl_terms(log_not_p, log_not_q)", ""),
            (BERNOULLI, "not softened", "student / self._temperature.variable", "student"),
        ],
    },
    _logit_mse: {
        "LogitMSE.call": [
            ("LogitMSE", "sum over classes", DISTANCE, "ops.sum(ops.square(student - teacher), axis=-1)"),
            ("LogitMSE", "halved", DISTANCE, f"{DISTANCE} / 2"),
            ("LogitMSE", "absolute", "ops.square(", "ops.abs("),
        ],
    },
    _hard_targets: {
        "HardTargets.call": [
            (HARD, "all but the largest", "teacher >= most", "teacher < most"),
            (
                HARD,
                "the student's class",
                "(teacher >= most,",
                "(student >= ops.max(student, -1, keepdims=True),",
            ),
            (HARD, "no logits", "student, from_logits=True", "ops.exp(student), from_logits=True"),
        ],
    },
    _output_mse: {
        "OutputMSE.call": [
            ("OutputMSE", "sum over values", DISTANCE, "ops.sum(ops.square(student - teacher), axis=-1)"),
            ("OutputMSE", "halved", DISTANCE, f"{DISTANCE} / 2"),
            ("OutputMSE", "absolute", "ops.square(", "ops.abs("),
        ],
    },
    _standardized: {
        "standardize": [
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
            (STANDARD, "student alone", "standardize(teacher)", "teacher"),
            (STANDARD, "teacher alone", "standardize(student)", "student"),
        ],
    },
    _decoupled: {
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
    },
    _dist: {
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
    },
    _jsd: {
        "GeneralizedJSD.call": [(JSD, "not softened", "side / self._temperature.variable", "side")],
        "GeneralizedJSD._between": [
            (JSD, "T²", "return ops.sum(", "return ops.square(self._temperature.variable) * ops.sum("),
            (JSD, "mean over classes", "ops.sum(", "ops.mean("),
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
    },
    _multi_level: {
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
            (MLKD_STANDARD, "nothing standardized", "[standardize(side) for", "[side for"),
        ],
        "_between_classes": [
            (MLKD, "not halved", " / 2.0", ""),
            (MLKD, "half of it", " + ops.sum(mixed * ops.transpose(mixed))", ""),
            (MLKD, "mixed not turned", "mixed * ops.transpose(mixed)", "mixed * mixed"),
        ],
    },
    _curriculum: {
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
