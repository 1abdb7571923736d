"""Logits of which some classes are known: losses on them in value and gradient, against float64."""

import math

import numpy as np
import pytest
import reference
from backend import as_numpy, as_tensor, value_and_gradients
from mutants import mutate

from distill import losses
from distill.losses import DIST, GeneralizedJSD, HardTargets, SoftTargets, _sparse
from distill.losses._sparse import SampledLogits, TopLogits


def sides(rows=5, classes=9, scale=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return tuple((scale * rng.normal(size=(rows, classes))).astype("float32") for _ in "ts")


def largest(teacher, k):
    return np.argsort(-teacher, axis=-1, kind="stable")[..., :k]


def top(teacher, k, temperatures):
    """What is known of the k largest logits, with the rest's sums from float64."""
    ids = largest(teacher, k)
    logits = np.take_along_axis(teacher, ids, axis=-1)
    others = teacher.astype("float64")
    np.put_along_axis(others, ids, -np.inf, axis=-1)
    with np.errstate(divide="ignore"):
        rests = {t: as_tensor(np.log(np.exp(others / t).sum(-1)).astype("float32")) for t in temperatures}
    return TopLogits(as_tensor(ids.astype("int32")), as_tensor(logits), rests, teacher.shape[-1])


def soft(temperature):
    def value(log_p, log_q):
        return temperature**2 * np.array([reference.kl(p, q) for p, q in zip(log_p, log_q, strict=True)])

    return value


def jsd(beta):
    return lambda log_p, log_q: reference.generalised_jsd(log_p, log_q, beta, 1.0)


LOSSES = {
    "SoftTargets 1": (lambda: SoftTargets(1.0), 1.0, soft(1.0)),
    "SoftTargets 4": (lambda: SoftTargets(4.0), 4.0, soft(4.0)),
    **{
        f"GeneralizedJSD {beta}": (
            lambda beta=beta: GeneralizedJSD(beta=beta, temperature=2.0),
            2.0,
            jsd(beta),
        )
        for beta in (0.0, 0.3, 1.0)
    },
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def follows(name, k=3, scale=3.0):
    """Value and gradient are those of k + 1 classes."""
    make, temperature, oracle = LOSSES[name]
    teacher, student = sides(scale=scale)
    ids = largest(teacher, k)

    def expected(student):
        value = oracle(*(reference.merged(side, ids, temperature) for side in (teacher, student)))
        return value.mean()

    known, loss = top(teacher, k, (1.0, 2.0, 4.0)), make()
    value, (gradient,) = value_and_gradients(lambda s: loss(known, s), student)
    np.testing.assert_allclose(value, expected(student), rtol=1e-5, atol=1e-6)
    slope = reference.gradient(expected, student)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=max(1e-8, 1e-5 * np.abs(slope).max()))


@every_loss
def test_the_largest_logits_follow_the_definition(name):
    follows(name)


@every_loss
@pytest.mark.parametrize("shared", [False, True])
def test_the_rest_as_one_class_is_at_most_the_dense_loss_and_the_same_where_it_is_shared_alike(name, shared):
    make, temperature, _ = LOSSES[name]
    teacher, student = sides()
    known = top(teacher, 4, (temperature,))
    if shared:  # the student's other classes differ from the teacher's by one number
        moved = teacher + 1.5
        np.put_along_axis(
            moved, largest(teacher, 4), np.take_along_axis(student, largest(teacher, 4), -1), axis=-1
        )
        student = moved
    loss = make()
    dense, (_, dense_slope) = value_and_gradients(lambda t, s: loss(t, s), teacher, student)
    value, (slope,) = value_and_gradients(lambda s: loss(known, s), student)
    if shared:
        np.testing.assert_allclose(value, dense, rtol=1e-5)
        np.testing.assert_allclose(slope, dense_slope, rtol=1e-4, atol=1e-5 * np.abs(dense_slope).max())
    else:
        assert value < dense - 1e-3


@every_loss
def test_all_classes_are_the_dense_loss(name):
    make, temperature, _ = LOSSES[name]
    teacher, student = sides()
    loss = make()
    dense, (_, dense_slope) = value_and_gradients(lambda t, s: loss(t, s), teacher, student)
    value, (slope,) = value_and_gradients(lambda s: loss(top(teacher, 9, (temperature,)), s), student)
    np.testing.assert_allclose(value, dense, rtol=1e-5)
    np.testing.assert_allclose(slope, dense_slope, rtol=1e-4, atol=1e-6)


def test_hard_targets_are_the_dense_loss():
    teacher, student = sides()
    teacher[2, 3] = teacher[2, 7] = 50.0  # of equal logits, the first
    loss = HardTargets()
    dense, (_, dense_slope) = value_and_gradients(lambda t, s: loss(t, s), teacher, student)
    value, (slope,) = value_and_gradients(lambda s: loss(top(teacher, 2, (1.0,)), s), student)
    np.testing.assert_array_equal(value, dense)
    np.testing.assert_array_equal(slope, dense_slope)


def tail_is_exact():
    """A rest of 1e-9 keeps its digits where 1 − Σ would lose all, on both sides."""
    teacher = np.array([[20.0, 19.0, -2.0, -1.0]], "float32")
    student = np.array([[19.0, 20.0, -1.0, -3.0]], "float32")
    log_p, log_q = top(teacher, 2, (1.0,)).softened(as_tensor(student), as_tensor(1.0))
    for found, side in ((log_p, teacher), (log_q, student)):
        expected = reference.merged(side, largest(teacher, 2), 1.0)
        assert expected[0, -1] < -20
        np.testing.assert_allclose(as_numpy(found), expected, rtol=1e-6)


def test_a_small_rest_keeps_its_digits():
    tail_is_exact()


@every_loss
def test_huge_logits_are_finite_and_teach(name):
    follows(name, scale=300.0)


def test_leaving_the_rest_out_is_biased():
    """At its own teacher a student has nothing to learn; renormalised probabilities teach it all the same.

    64 of 49,152 classes hold 79 % at T = 1 and 10 % at T = 2; those of a language model with as many, 79 % and 16 %.
    """
    ranks = np.arange(1, 49153)
    logits = -1.4 * np.log(ranks + 1.0).astype("float32")[None]
    kept = {
        t: float(np.exp(reference.merged(logits, largest(logits, 64), t)[0, :-1]).sum()) for t in (1.0, 2.0)
    }
    np.testing.assert_allclose([kept[1.0], kept[2.0]], [0.79, 0.097], atol=0.005)
    loss, known = SoftTargets(2.0), top(logits, 64, (2.0,))
    value, (slope,) = value_and_gradients(lambda s: loss(known, s), logits)
    assert abs(float(value)) < 1e-4
    assert np.abs(slope).sum() < 1e-3
    alone = TopLogits(known.ids, known.logits, {2.0: as_tensor(np.array([-np.inf], "float32"))}, 49152)
    _, (biased,) = value_and_gradients(lambda s: loss(alone, s), logits)
    # 2 (q − p) over the kept classes, which would get all of the rest.
    np.testing.assert_allclose(np.abs(biased).sum(), 2 * 2 * (1 - kept[2.0]), rtol=1e-3)


def test_the_mean_over_draws_is_the_divergence_and_its_gradient():
    teacher, student = sides(rows=1, classes=6, scale=1.5)
    p = np.array(reference.softmax(teacher[0] / 2.0))
    # The mean over single draws is the sum over classes of p times the value of each.
    values, slopes, loss = [], [], SoftTargets(2.0)
    for drawn in range(6):
        known = SampledLogits(
            as_tensor(np.array([[drawn]], "int32")),
            as_tensor(reference.entropy(teacher, 2.0).astype("float32")),
            2.0,
            6,
        )
        value, (slope,) = value_and_gradients(lambda s, known=known: loss(known, s), student)
        values.append(value)
        slopes.append(slope)
    dense, (_, dense_slope) = value_and_gradients(lambda t, s: loss(t, s), teacher, student)
    np.testing.assert_allclose(np.dot(p, values), dense, rtol=1e-5)
    np.testing.assert_allclose(np.tensordot(p, slopes, 1), dense_slope, rtol=1e-4, atol=1e-6)


def test_a_temperature_that_is_not_known_is_nan():
    teacher, student = sides()
    assert math.isnan(float(as_numpy(SoftTargets(3.0)(top(teacher, 2, (1.0, 2.0)), student))))


def test_tokens_and_masks_count_as_with_all_logits():
    teacher, student = (side.reshape(3, 2, 9) for side in sides(rows=6))
    loss, known = SoftTargets(2.0), top(teacher, 9, (2.0,))
    weight = np.array([1.0, 0.0, 2.0], "float32")
    np.testing.assert_allclose(
        as_numpy(loss(known, student, weight)), as_numpy(loss(teacher, student, weight)), rtol=1e-5
    )


def test_other_losses_refuse():
    teacher, student = sides()
    with pytest.raises(
        ValueError, match="DIST needs the teacher's logits of all classes. Received: TopLogits"
    ):
        DIST()(top(teacher, 2, (1.0,)), student)
    with pytest.raises(ValueError, match="same shape"):
        SoftTargets(1.0)(top(teacher, 2, (1.0,)), student[:, :8])
    assert GeneralizedJSD(beta=0.5).sparse == (TopLogits,)
    assert GeneralizedJSD(beta=0).sparse == (TopLogits, SampledLogits)
    assert losses.Standardized(SoftTargets(2.0)).sparse == ()


MUTANTS = {
    "the student's kept classes counted twice": (
        _sparse, "TopLogits.softened", "self._without(scaled)", "scaled", lambda: follows("SoftTargets 4"),
    ),
    "the student not softened": (
        _sparse, "TopLogits.softened", "student / temperature", "student", lambda: follows("SoftTargets 4"),
    ),
    "the rest as 1 less the others": (
        _sparse, "TopLogits.softened", "return ops.log_softmax(taught, axis=-1), ops.log_softmax(learned, axis=-1)",
        "log_q = ops.log_softmax(scaled, axis=-1); own = ops.take_along_axis(log_q, self.ids, axis=-1); "
        "rest = ops.log1p(-ops.sum(ops.exp(own), axis=-1, keepdims=True)); "
        "return ops.log_softmax(taught, axis=-1), ops.concatenate([own, rest], axis=-1)",
        tail_is_exact,
    ),
    "the logits not softened": (
        _sparse, "TopLogits.softened", "self.logits / temperature", "self.logits", lambda: follows("SoftTargets 4"),
    ),
    "the rest of another temperature": (
        _sparse, "_at", "found = ops.where(ops.equal(temperature, known), value, found)", "found = value",
        lambda: follows("SoftTargets 1"),
    ),
    "no entropy": (
        _sparse, "SampledLogits.divergence", "- _at(temperature, {self.temperature: self.entropy})", "",
        test_the_mean_over_draws_is_the_divergence_and_its_gradient,
    ),
    "no square of the temperature": (
        losses._soft_targets, "SoftTargets.call_sparse", "ops.square(self._temperature.variable) * ", "",
        lambda: follows("SoftTargets 4"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name, monkeypatch):
    module, function, old, new, check = MUTANTS[name]
    check()
    mutate(monkeypatch, module, function, old, new)
    with pytest.raises(AssertionError):
        check()
