"""One contract that every loss keeps, against the float64 oracle."""

import functools
import inspect
import json
from collections.abc import Callable
from typing import NamedTuple

import hypothesis
import hypothesis.extra.numpy as hnp
import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, FLOAT64, as_numpy, as_tensor, compiled, dtype_of, value_and_gradients
from hypothesis import strategies as st
from keras import layers, ops

import distill.losses
from distill.losses import (
    DIST,
    AttentionTransfer,
    BernoulliSoftTargets,
    ContrastiveRepresentation,
    CurriculumTemperature,
    DecoupledKD,
    DistillationLoss,
    GeneralizedJSD,
    HardTargets,
    Hint,
    LogitMSE,
    MultiLevelKD,
    NeuronSelectivity,
    OutputMSE,
    OverhaulDistillation,
    ProbabilisticTransfer,
    Relational,
    SimilarityPreserving,
    SoftTargets,
    Standardized,
    VariationalInformation,
)

BATCH = 4
MARGINS = [-0.3, -1.0, 0.0, -0.1]
# Of the contrastive loss: the classes of ten examples, those of a batch, and the rows drawn for each of the ten.
CLASSES = np.array([1, 0, 1, 2, 0, 2, 2, 1, 0, 1])
IDS = np.array([6, 1, 9, 4, 0, 3], "int32")
DRAWN = np.random.default_rng(5).integers(0, 10, (10, 5)).astype("int32")


# --- oracles of losses with layers: their arithmetic again, on their weights --------------------------


def linear(values, kernel, bias=0.0):
    kernel = np.asarray(kernel, "float64").reshape(values.shape[-1], -1)
    return values @ kernel + bias


def batch_norm(values, gamma, beta):
    axes = tuple(range(values.ndim - 1))
    mean, variance = values.mean(axis=axes), values.var(axis=axes)
    return gamma * (values - mean) / np.sqrt(variance + 1e-5) + beta


def weights_of(loss):
    """What the loss trains, in float64."""
    trained = [variable for layer in loss.layers for variable in layer.trainable_variables]
    return [as_numpy(variable).astype("float64") for variable in trained]


def hint(loss, teacher, student, weights=None):
    """The regressor between maps of one size, the dense layer of vectors, or the identity."""
    weights = weights_of(loss) if weights is None else weights
    projected = np.asarray(student, "float64")
    if weights:
        kernel, bias, *norm = weights
        projected = linear(projected, kernel, bias)
        projected = np.maximum(batch_norm(projected, *norm), 0) if norm else projected
    return reference.hint(teacher, projected)


def vid(loss, teacher, student, weights=None):
    teacher, student = reference.float64(teacher, student)
    if teacher.ndim == 4:
        pairs = [reference.to_smaller(t, s) for t, s in zip(teacher, student, strict=True)]
        teacher, student = (np.array(side) for side in zip(*pairs, strict=True))
    first, second, third, a = weights or weights_of(loss)
    mu = linear(np.maximum(linear(np.maximum(linear(student, first), 0), second), 0), third)
    return reference.vid(teacher, mu, a)


def ofd(loss, teacher, student, weights=None):
    weights = weights_of(loss) if weights is None else weights
    connected = np.asarray(student, "float64")
    if weights:
        kernel, *norm = weights
        connected = batch_norm(linear(connected, kernel), *norm)
    return reference.ofd([teacher], [connected], loss.margins)


def attention(loss, teacher, student):
    return reference.attention_transfer(teacher, student, loss.p, paper=loss.paper_form)


def embedded(loss, teacher, student):
    """Of the contrastive loss: the embeddings of both sides."""
    embeddings = []
    for x, layer in ((teacher, loss._embed_teacher), (student, loss._embed_student)):
        z = linear(reference.flat(x), *(as_numpy(weight).astype("float64") for weight in layer.weights))
        embeddings.append(z / np.linalg.norm(z, axis=-1, keepdims=True))
    return embeddings


def remembered(loss, ids):
    """Of the contrastive loss: both banks, and in them the rows of examples and of those drawn for each."""
    banks = [as_numpy(bank).astype("float64") for bank in (loss._memory.teacher, loss._memory.student)]
    # They hold the examples sorted by class.
    own = np.argsort(np.argsort(CLASSES, kind="stable"))[ids]
    return banks, np.concatenate([own[:, None], as_numpy(loss._draw(ids))], axis=1)


def crd(loss, teacher, student, ids):
    banks, places = remembered(loss, ids)
    constants = [float(as_numpy(z)) for z in (loss._memory.student_scale, loss._memory.teacher_scale)]
    rows = [bank[places] for bank in banks]
    return reference.crd(*embedded(loss, teacher, student), *rows, *constants, len(CLASSES))


def known_draws(loss):
    """The contrastive loss without chance, and no constant that the first batch would set."""
    loss._draw = lambda ids: ops.take(as_tensor(DRAWN), ids, axis=0)
    loss._memory.student_scale.assign(30.0)
    loss._memory.teacher_scale.assign(60.0)


# --- random sides -------------------------------------------------------------------------------------


def random_logits(data, case, limit=50):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(2, 7)))
    values = hnp.arrays("float32", shape, elements=st.floats(-limit, limit, width=32))
    return data.draw(values), data.draw(values)


def random_spread_logits(data, case):
    """What divides by a spread differs, rightly, between float32 and float64 where there is next to none."""
    teacher, student = random_logits(data, case, limit=5)
    steps = np.arange(teacher.size).reshape(teacher.shape) ** 2 / 8
    teacher, student = (
        (side + sign * steps).astype("float32") for side, sign in ((teacher, 1), (student, -1))
    )
    correlates = case.make is DIST or isinstance(case.make(), DIST)
    if correlates:
        teacher, student = teacher % 5, student % 5
    axes = (0, 1) if correlates else (1,)
    hypothesis.assume(
        min(np.ptp(side, axis=axis).min() for side in (teacher, student) for axis in axes) > 0.1
    )
    return teacher, student


def feature_shapes(data, case, pools, limit=5):
    """Of any two sizes and widths where the larger map is pooled, else of one size and of the case's widths."""
    size = st.integers(1, limit)
    if pools:
        return [(data.draw(size), data.draw(size), data.draw(size)) for _ in "ts"]
    positions = [data.draw(size) for _ in case.teacher[1:]]
    return [(*positions, side[-1]) for side in (case.teacher, case.student)]


def random_features(data, case, pools=False):
    batch = data.draw(st.integers(1, 5))
    shapes = feature_shapes(data, case, pools)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    # A normalization of one example makes numbers of the rounding of large features, or of what a bias leaves of small.
    scale = data.draw(st.sampled_from([1.0, 1e4, 1e-2])) if pools else 1.0
    return tuple((scale * rng.normal(size=(batch, *shape))).astype("float32") for shape in shapes)


def random_rows(data, case):
    """Eighths: zeros, equal rows and rows on one line come up often, and products are exact."""
    batch = data.draw(st.sampled_from([1, 2, 3, 6]))
    eighths = st.integers(-80, 80).map(lambda n: n / 8)
    teacher, student = (
        data.draw(hnp.arrays("float32", (batch, data.draw(st.sampled_from([1, 4]))), elements=eighths))
        for _ in "ts"
    )
    if case.make is ProbabilisticTransfer:
        # Where the student's rows are opposite, K is as small as the guard and as float32's rounding of a cosine.
        cosines = [[reference.unit(a) @ reference.unit(b) for a in student] for b in student]
        hypothesis.assume(np.min(cosines) > -0.99)
    return teacher, student


def small(data, case):
    """The case with a shape of few numbers, of which each has its difference quotient."""
    if case.random is random_rows:
        shapes = [(data.draw(st.integers(1, 3)),) for _ in "ts"]
    elif case.make().same_shape:
        shapes = [(data.draw(st.integers(2, 5)),)] * 2
    else:
        shapes = feature_shapes(data, case, case.random is not random_features, limit=3)
    return case._replace(teacher=shapes[0], student=shapes[1])


# --- the losses ---------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A loss, its oracle of (loss, teacher, student, labels or ids), and what the contract must know of it."""

    make: Callable[..., DistillationLoss]
    oracle: Callable[..., np.ndarray]
    teacher: tuple[int, ...]  # the shape of one example
    student: tuple[int, ...]
    least: tuple[tuple[int, ...], ...]  # the smallest such shapes
    random: Callable[..., tuple[np.ndarray, np.ndarray]]
    scale: float = 1.0
    # Of a value. Divergences of nats are rounded at 1e-6 of a nat before T² enlarges it.
    rounding: float = 1e-6
    zero_at_equality: bool = True
    never_negative: bool = True
    by_position: bool = False  # rows are values of their own, so tokens work
    exact: bool = True  # follows the oracle for constants and for ±1e4 too
    steepest: float = (
        np.inf
    )  # of the gradient there; 1e7 and 1e12, a formula's own at zeros, would end a training
    settle: Callable[[DistillationLoss], None] = lambda loss: None


def of_sides(oracle, *settings):
    """An oracle of a reference that takes both sides alone."""
    return lambda loss, teacher, student, *labels: oracle(teacher, student, *settings)


def on_logits(make, oracle, *settings, **known):
    known = {"random": random_logits, "scale": 3.0, "by_position": True, **known}
    return Case(make, of_sides(oracle, *settings), (4,), (4,), ((2,), (2,)), **known)


def on_labels(make, oracle, *settings, **known):
    case = on_logits(make, oracle, **known)
    return case._replace(oracle=lambda loss, t, s, labels: oracle(t, s, labels, *settings))


def softened(make, oracle, temperature):
    known = {"rounding": 1e-6 * max(1.0, temperature**2 / 10)}
    return on_logits(functools.partial(make, temperature), oracle, temperature, **known)


def on_maps(make, oracle, **known):
    known = {"random": random_features, "rounding": 1e-8, **known}
    return Case(make, oracle, (3, 2, 4), (3, 2, 3), ((1, 1, 4), (1, 1, 1)), **known)


def pooling(make, oracle, **known):
    return on_maps(make, oracle, random=functools.partial(random_features, pools=True), **known)


def on_vectors(make, oracle, **known):
    return on_maps(make, oracle, **known)._replace(teacher=(4,), student=(3,), least=((4,), (1,)))


def on_rows(make, oracle):
    return Case(make, of_sides(oracle), (5,), (3,), ((1,), (1,)), random_rows, rounding=1e-10, steepest=1e4)


SPREAD = {"random": random_spread_logits, "exact": False}
OF_BATCH = {"by_position": False}
TRAINED = {"zero_at_equality": False}
# A batch normalization makes numbers of the rounding of a large constant.
NORMALIZED = {**TRAINED, "exact": False}
JSD = {f"GeneralizedJSD {beta}": beta for beta in (0, 0.1, 0.5, 1)}

# A new loss joins the contract with one line here.
CASES = {
    **{f"SoftTargets {t}": softened(SoftTargets, reference.soft_targets, t) for t in (0.5, 1.0, 4.0, 20.0)},
    **{
        f"BernoulliSoftTargets {t}": softened(BernoulliSoftTargets, reference.bernoulli_soft_targets, t)
        for t in (0.5, 1.0, 4.0, 20.0)
    },
    "LogitMSE": on_logits(LogitMSE, reference.logit_mse),
    "OutputMSE": on_logits(OutputMSE, reference.logit_mse),
    "HardTargets": on_logits(HardTargets, reference.hard_labels, zero_at_equality=False),
    "Standardized SoftTargets": on_logits(
        lambda **kw: Standardized(SoftTargets(2.0), **kw), reference.standardised_soft_targets, 2.0, **SPREAD
    ),
    "Standardized DecoupledKD": on_labels(
        lambda **kw: Standardized(DecoupledKD(temperature=2.0), **kw),
        reference.standardised_decoupled,
        rounding=2e-6,
        **SPREAD,
    ),
    "DecoupledKD": on_labels(DecoupledKD, reference.decoupled, rounding=1e-5),
    "DecoupledKD 2, 0.5, 1": on_labels(
        functools.partial(DecoupledKD, 2.0, 0.5, 1.0), reference.decoupled, 1.0, 2.0, 0.5
    ),
    "DIST": on_logits(DIST, reference.dist, **SPREAD, **OF_BATCH),
    "DIST 2, 3, 4": on_logits(
        functools.partial(DIST, 2.0, 3.0, 4.0),
        reference.dist,
        *(4.0, 2.0, 3.0),
        rounding=1e-4,
        **SPREAD,
        **OF_BATCH,
    ),
    **{
        name: on_logits(functools.partial(GeneralizedJSD, beta, 1.5), reference.generalised_jsd, beta, 1.5)
        for name, beta in JSD.items()
    },
    "MultiLevelKD": on_logits(MultiLevelKD, reference.mlkd, rounding=2e-5, **OF_BATCH),
    "MultiLevelKD standardized": on_logits(
        functools.partial(MultiLevelKD, (1.0, 3.0), standardize=True),
        lambda t, s: reference.mlkd(t, s, (1.0, 3.0), standardised=True),
        **SPREAD,
        **OF_BATCH,
    ),
    "CurriculumTemperature": on_logits(
        functools.partial(CurriculumTemperature, 10), reference.ctkd, rounding=5e-5
    ),
    "Hint": on_maps(Hint, hint, **NORMALIZED),
    "Hint of vectors": on_vectors(Hint, hint, by_position=True, **TRAINED),
    "Hint as it is": on_maps(lambda **kw: Hint(projector=layers.Identity(), **kw), hint)._replace(
        student=(3, 2, 4), least=((1, 1, 1), (1, 1, 1))
    ),
    "AttentionTransfer": pooling(AttentionTransfer, attention),
    "AttentionTransfer of the paper": pooling(
        functools.partial(AttentionTransfer, paper_form=True), attention
    ),
    "VariationalInformation": pooling(VariationalInformation, vid, never_negative=False, **TRAINED),
    "VariationalInformation of vectors": on_vectors(
        VariationalInformation, vid, by_position=True, never_negative=False, **TRAINED
    ),
    "NeuronSelectivity": pooling(NeuronSelectivity, of_sides(reference.nst))._replace(rounding=3e-7),
    # Of one number, 1 / √1e-5 times its rounding is left, of which 2 (s − t') / 1000 counts.
    "OverhaulDistillation": on_maps(
        functools.partial(OverhaulDistillation, MARGINS), ofd, rounding=1e-7, **NORMALIZED
    ),
    "OverhaulDistillation of vectors": on_vectors(
        functools.partial(OverhaulDistillation, MARGINS), ofd, rounding=1e-7, **NORMALIZED
    ),
    "OverhaulDistillation as it is": on_maps(
        lambda **kw: OverhaulDistillation([-9.0] * 4, projector=layers.Identity(), **kw), ofd
    )._replace(student=(3, 2, 4), least=((1, 1, 4), (1, 1, 4))),
    "SimilarityPreserving": on_rows(SimilarityPreserving, reference.similarity_preserving),
    "Relational distances": on_rows(functools.partial(Relational, 1.0, 0.0), reference.rkd_distance),
    "Relational angles": on_rows(functools.partial(Relational, 0.0, 1.0), reference.rkd_angle),
    "Relational": on_rows(Relational, reference.rkd),
    "ProbabilisticTransfer": on_rows(ProbabilisticTransfer, reference.pkt),
    "ContrastiveRepresentation": on_rows(
        functools.partial(ContrastiveRepresentation, CLASSES, negatives=5, width=4), reference.crd
    )._replace(oracle=crd, settle=known_draws, rounding=1e-6, zero_at_equality=False),
}
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def cases_where(holds):
    """For parametrize: the losses that a clause of the contract is about."""
    return pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in CASES.items() if holds(n, c)])


# What does not depend on a loss's arguments is checked of those without any, and of these.
ONE_OF_SEVERAL = (
    "SoftTargets 4.0",
    "BernoulliSoftTargets 4.0",
    "Standardized DecoupledKD",
    "GeneralizedJSD 0.5",
    "AttentionTransfer of the paper",
)
EACH = [name for name in CASES if " " not in name or name in ONE_OF_SEVERAL]
each_loss = cases_where(lambda name, case: name in EACH)


def test_no_loss_is_left_out():
    exported = {getattr(distill.losses, name) for name in distill.losses.__all__}
    losses = {one for one in exported if inspect.isclass(one) and issubclass(one, DistillationLoss)}
    assert {type(CASES[name].make()) for name in EACH} == losses - {DistillationLoss}


# --- what the contract, and the mutants of single losses, call ----------------------------------------


def sides(case, batch=BATCH, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = (batch, *case.teacher), (batch, *case.student)
    return tuple((scale * case.scale * rng.normal(size=shape)).astype("float32") for shape in shapes)


def labels_of(student):
    """The same for the same shape."""
    return np.arange(int(np.prod(student.shape[:-1]))).reshape(student.shape[:-1]) % student.shape[-1]


def asked(loss, student):
    """What the loss takes besides the two sides."""
    if loss.needs_labels:
        return {"labels": labels_of(student)}
    return {"ids": IDS[: len(student)]} if loss.needs_ids else {}


def ready(case, teacher, student, **arguments):
    """The loss, built, with the same weights and statistics of its layers each time, not those of a fresh one."""
    loss = case.make(**arguments)
    loss.ensure_built(as_tensor(teacher), as_tensor(student))
    rng = np.random.default_rng(1)
    for variable in (v for layer in loss.layers for v in layer.variables if v.dtype == "float32"):
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, size=variable.shape))
        elif len(variable.shape) > 1:
            variable.assign(rng.uniform(-0.8, 0.8, size=variable.shape))
    case.settle(loss)
    return loss


def oracle(case, loss, teacher, student, **given):
    return case.oracle(loss, teacher, student, *(given or asked(loss, student)).values())


def call(loss, teacher, student, **given):
    """A row's values in numpy."""
    given = (given or asked(loss, student)).values()
    return as_numpy(loss.call(as_tensor(teacher), as_tensor(student), *given))


def apply(loss, **given):
    """The loss of both sides, labels included."""
    return lambda teacher, student: loss(teacher, student, **asked(loss, student), **given)


def follows(case, **kwargs):
    """Value and gradient of a few rows."""
    value_follows(case, **kwargs)
    gradient_follows(case, **kwargs)


def value_follows(case, **kwargs):
    teacher, student = sides(case, **kwargs)
    loss = ready(case, teacher, student)
    expected = oracle(case, loss, teacher, student)
    values = call(loss, teacher, student)
    assert values.shape == (len(teacher),)
    assert values.dtype == "float32"
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=case.rounding)


def gradient_follows(case, **kwargs):
    teacher, student = sides(case, **kwargs)
    value, (to_teacher, to_student) = value_and_gradients(
        apply(ready(case, teacher, student)), teacher, student
    )
    assert to_teacher is None
    if to_student is None and BACKEND == "jax":  # how its zeros come
        to_student = np.zeros_like(student)
    loss = ready(case, teacher, student)  # as before the first step, which a memory would keep
    expected = oracle(case, loss, teacher, student).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=case.rounding)
    step = 1e-6 * kwargs.get("scale", 1.0)
    slope = reference.gradient(lambda s: oracle(case, loss, teacher, s).mean(), student, step)
    atol = max(case.rounding / 5, 1e-5 * np.abs(slope).max())
    np.testing.assert_allclose(to_student, slope, rtol=1e-4, atol=atol)


# --- the contract -------------------------------------------------------------------------------------


@every_loss
def test_value_follows_the_definition(case):
    value_follows(case)


@every_loss
def test_gradient_follows_the_definition_and_none_goes_to_the_teacher(case):
    gradient_follows(case)


@every_loss
def test_value_over_random_shapes(case):
    examples = 4 if BACKEND == "jax" or case.random is random_features else 12  # these compile or build anew

    @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True)
    @hypothesis.given(data=st.data())
    def holds(data):
        teacher, student = case.random(data, case)
        loss = ready(case, teacher, student)
        expected = oracle(case, loss, teacher, student)
        values = call(loss, teacher, student)
        # What is summed is rounded, and grows, as a logarithm of a probability does, with the logits.
        atol = case.rounding * max(1.0, *(np.abs(side).max() / case.scale for side in (teacher, student)))
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=atol)
        assert not case.never_negative or values.min() >= -atol

    holds()


@every_loss
def test_gradient_over_random_shapes(case):
    @hypothesis.settings(max_examples=2 if BACKEND == "jax" else 4, deadline=None, derandomize=True)
    @hypothesis.given(data=st.data())
    def holds(data):
        batch, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 9))
        gradient_follows(small(data, case), batch=batch, seed=seed)

    holds()


@cases_where(lambda name, case: case.zero_at_equality)
def test_zero_at_equality(case):
    for batch in (BATCH, 1):
        teacher, _ = sides(case, batch)
        loss = ready(case, teacher, teacher)
        np.testing.assert_allclose(call(loss, teacher, teacher), np.zeros(batch), atol=case.rounding)
        _, (_, gradient) = value_and_gradients(apply(loss), teacher, teacher)
        assert gradient is None or np.abs(gradient).max() < 4e-5 / batch


@cases_where(lambda name, case: case.never_negative)
def test_never_negative_beside_equality(case):
    """Where all digits of a divergence are rounding."""
    if case.zero_at_equality:
        teacher, _ = sides(case)
        for relative in (1e-7, 1e-5, 1e-3):
            student = (teacher * (1 + relative * np.sign(teacher[::-1]))).astype("float32")
            assert call(ready(case, teacher, student), teacher, student).min() >= -max(
                1e-7, 2 * case.rounding
            )
    else:
        assert call(ready(case, *sides(case)), *sides(case)).min() >= 0


@each_loss
def test_values_move_with_their_examples(case):
    teacher, student = sides(case)
    order = np.array([3, 0, 2, 1])
    loss = ready(case, teacher, student)
    given = {key: values[order] for key, values in asked(loss, student).items()}
    in_order = call(loss, teacher, student)
    shuffled = call(ready(case, teacher, student), teacher[order], student[order], **given)
    np.testing.assert_allclose(shuffled, in_order[order], rtol=1e-5, atol=case.rounding)


@cases_where(lambda name, case: case.by_position)
def test_tokens_keep_their_own_values_and_masks_count(case):
    flat = sides(case, batch=6)
    teacher, student = (side.reshape(2, 3, -1) for side in flat)
    loss = ready(case, teacher, student)
    expected = case.oracle(loss, *flat, *(x.reshape(6) for x in asked(loss, student).values()))
    values = call(loss, teacher, student)
    np.testing.assert_allclose(values, expected.reshape(2, 3), rtol=1e-5, atol=case.rounding)
    kept = np.array([[True, True, True], [True, False, False]])
    masked = as_tensor(student)
    keras.src.backend.set_keras_mask(masked, as_tensor(kept))
    value = loss(as_tensor(teacher), masked, **asked(loss, student))
    np.testing.assert_allclose(as_numpy(value), values[kept].mean(), rtol=1e-5)


@cases_where(lambda name, case: case.by_position and name in EACH)
@pytest.mark.parametrize("kept", [[[1, 1, 1], [1, 0, 0]], [[0, 0, 0], [0, 0, 0]]], ids=["some", "none"])
def test_nothing_comes_from_under_a_mask(case, kept):
    kept = np.array(kept, bool)
    found = []
    for under in (0.0, 1e4, 1e18):
        teacher, student = (
            np.where(kept[..., None], side.reshape(2, 3, -1), sign * under).astype("float32")
            for side, sign in zip(sides(case, batch=6), (1, -1), strict=True)
        )
        teacher[..., 0] *= -1  # one that is huge on the other side, which no softmax takes away
        loss = ready(case, teacher, student)

        def masked(teacher, student, loss=loss):
            keras.src.backend.set_keras_mask(student, as_tensor(kept))
            return loss(teacher, student, **asked(loss, student))

        value, (_, gradient) = value_and_gradients(masked, teacher, student)
        gradient = np.zeros_like(student) if gradient is None else gradient  # how JAX's zeros come
        found.append((value, gradient))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert not gradient[~kept].any()
    assert kept.any() or found[0][0] == 0
    for value, gradient in found[1:]:
        np.testing.assert_array_equal(value, found[0][0])
        np.testing.assert_array_equal(gradient, found[0][1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", FLOAT64])
@each_loss
def test_computes_in_float32_whatever_comes(case, dtype):
    given = [ops.cast(side, dtype) for side in sides(case)]
    same = [ops.cast(side, "float32") for side in given]
    value = apply(ready(case, *same))(*given)
    assert dtype_of(value) == "float32"
    expected = apply(ready(case, *same))(*same)
    np.testing.assert_array_equal(as_numpy(value), as_numpy(expected))


@each_loss
def test_computes_in_float32_under_any_policy(case):
    teacher, student = sides(case)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        loss = ready(case, teacher, student)
        expected = oracle(case, loss, teacher, student).mean()
        value = apply(loss)(teacher, student)
    finally:
        keras.config.set_dtype_policy(before)
    assert {v.dtype for v in loss.variables if "seed" not in v.path} <= {"float32"}
    np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5, atol=case.rounding)


@each_loss
def test_sample_weight_multiplies_each_row(case):
    teacher, student = sides(case)
    weights = np.array([0.0, 2.0, 0.5, 3.0], "float32")
    loss = ready(case, teacher, student)
    expected = (weights * oracle(case, loss, teacher, student)).sum() / BATCH
    value = apply(loss, sample_weight=weights)(teacher, student)
    np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5, atol=case.rounding)
    assert as_numpy(apply(loss, sample_weight=np.zeros(BATCH))(teacher, student)) == 0.0


def extremes(case):
    """Constant and very large sides: a case, and pairs of three examples, or of one of the smallest shape."""
    teacher, student = sides(case, batch=3)
    large = (side.astype("float16") for side in sides(case, batch=3, scale=1e4 / case.scale))
    huge = 1e4 * np.sign(teacher), 1e4 * np.sign(student)
    constants = [(0, 0), (3, 3), (1e4, -1e4), (7, student), (teacher, 7), (teacher, 0), (0, student)]
    yield case, [*(both_as(teacher, student, *pair) for pair in constants), huge, tuple(large)]
    case = case._replace(teacher=case.least[0], student=case.least[1])
    teacher, student = sides(case, batch=1)
    alone = [(0, 0), (-1e4, 1e4), (teacher, 0), (0, student), (teacher, student)]
    yield case, [both_as(teacher, student, *pair) for pair in alone]


def both_as(teacher, student, *values):
    """Arrays of the shapes of both sides, of these values."""
    return tuple(
        np.zeros_like(x) + np.float32(value) for x, value in zip((teacher, student), values, strict=True)
    )


@every_loss
def test_finite_and_right_for_constant_and_huge_sides(case):
    for shaped, pairs in extremes(case):
        loss = ready(shaped, *pairs[0])
        for teacher, student in pairs:
            if BACKEND == "torch" and not case.exact and np.ptp(student) == 0 and np.abs(student).max() > 3:
                continue  # Keras' variance of a large constant is E[x²] − E[x]² there, which may be negative: NaN
            expected = oracle(case, loss, teacher, student).mean()
            value, (_, gradient) = value_and_gradients(apply(loss), teacher, student)
            assert np.isfinite(value)
            assert gradient is None or np.abs(gradient).max() < case.steepest  # None: zeros, to JAX
            if case.exact:
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=max(1e-7, case.rounding))


def cased(case, **arguments):
    """The loss with a name of its own, and those of the layers that it reads, if it reads layers."""
    if not case.make().same_shape:
        arguments = {"teacher_layer_name": "body/out", "student_layer_name": "out", **arguments}
    return {"name": "mine", **arguments}


@every_loss
def test_config_round_trip(case):
    teacher, student = sides(case)
    arguments = cased(case)
    loss = ready(case, teacher, student, **arguments)
    text = json.dumps(keras.saving.serialize_keras_object(loss))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()
    assert {key: getattr(again, key) for key in arguments} == arguments
    again = ready(case._replace(make=lambda: again), teacher, student)
    np.testing.assert_array_equal(call(again, teacher, student), call(loss, teacher, student))


@functools.cache
def models(head):
    """A teacher and a student with maps of 4 and 3 channels, and three classes."""

    def model(channels):
        inputs = keras.Input((3, 3, 1))
        x = layers.Conv2D(channels, 1, name="out")(inputs)
        return keras.Model(inputs, layers.Dense(3, head)(layers.GlobalAveragePooling2D()(x)))

    return model(4), model(3)


@each_loss
def test_recipe_holds_arguments_of_the_distiller(case):
    names = {"teacher_layer_name": "out", "student_layer_name": "out"} if not case.make().same_shape else {}
    loss = case.make(**names)
    distiller = distill.Distiller(*models(loss.head or "softmax"), loss, **loss.recipe)
    assert {key: getattr(distiller, key) for key in loss.recipe} == pytest.approx(loss.recipe)


@each_loss
def test_what_does_not_fit_is_refused(case):
    teacher, student = sides(case)
    loss = case.make()
    given = asked(loss, student)
    with pytest.raises(ValueError, match=r"one shape|example by example|examples by their features"):
        loss(teacher, student[:3], **given)
    with pytest.raises(ValueError, match="compares one output"):
        loss([teacher, teacher], student, **given)
    with pytest.raises(ValueError, match="as many or fewer"):
        loss(teacher, student, **given, sample_weight=np.ones((BATCH, 3), "float32"))
    if loss.same_shape:
        with pytest.raises(ValueError, match=r"one shape.*teacher \(4, 4\) and student \(4, 1\)"):
            loss(teacher, student[:, :1], **given)
        with pytest.raises(ValueError, match="one shape"):
            loss(teacher, student[:, 0], **given)


@each_loss
def test_gives_the_same_in_compiled_code_for_any_batch(case):
    teacher, student = sides(case)
    loss = ready(case, teacher, student)
    names = list(asked(loss, student))

    def step(teacher, student, *given):
        return loss(teacher, student, **dict(zip(names, given, strict=True)))

    run = compiled(step, loss.variables)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        arrays = [teacher, student, *asked(loss, student).values()]
        run = tf.function(step, [tf.TensorSpec((None, *a.shape[1:]), a.dtype) for a in arrays])
    for batch in (BATCH, 1):
        teacher, student = sides(case, batch)
        expected = oracle(case, loss, teacher, student).mean()
        value = run(*map(as_tensor, (teacher, student, *asked(loss, student).values())))
        np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5, atol=max(1e-7, case.rounding))


@cases_where(
    lambda name, case: name in EACH and name != "HardTargets"
)  # which reads the teacher's class alone
def test_the_contract_catches_a_teacher_that_learns(case, monkeypatch):
    monkeypatch.setattr(ops, "stop_gradient", lambda x: x)
    with pytest.raises(AssertionError):
        gradient_follows(case)
