"""Every loss with its oracle, and what the tests must know of it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import reference
from hypothesis import strategies as st
from keras import layers
from loss_oracles import CLASSES, MARGINS, attention, crd, hint, known_draws, ofd, vid

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

# --- random sides -------------------------------------------------------------------------------------


def random_logits(data, case, limit=50):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(2, 7)))
    values = hnp.arrays("float32", shape, elements=st.floats(-limit, limit, width=32))
    return data.draw(values), data.draw(values)


def random_spread_logits(data, case):
    """Logits with some spread: losses that divide by a spread near 0 cannot agree in float32 and float64."""
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
    """Shapes of any sizes and widths if the loss pools, otherwise of one size and the case's widths."""
    size = st.integers(1, limit)
    if pools:
        return [(data.draw(size), data.draw(size), data.draw(size)) for _ in "ts"]
    positions = [data.draw(size) for _ in case.teacher[1:]]
    return [(*positions, side[-1]) for side in (case.teacher, case.student)]


def random_features(data, case, pools=False):
    batch = data.draw(st.integers(1, 5))
    shapes = feature_shapes(data, case, pools)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    # Normalizing one example would blow up the rounding of large features, and what a bias leaves of small ones.
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
        # Between opposite rows of the student, K is as small as the guard and as the rounding of a cosine in float32.
        cosines = [[reference.unit(a) @ reference.unit(b) for a in student] for b in student]
        hypothesis.assume(np.min(cosines) > -0.99)
    return teacher, student


def small(data, case):
    """The case with a shape of few numbers, because each costs a difference quotient."""
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
    # Rounding of a value. Divergences are rounded at 1e-6 of a nat, which T² then enlarges.
    rounding: float = 1e-6
    zero_at_equality: bool = True
    never_negative: bool = True
    by_position: bool = False  # each row has a value of its own, so tokens work
    exact: bool = True  # follows the oracle for constants and for ±1e4 too
    # Bound of the gradient there; a formula's own at zeros, 1e7 or 1e12, would ruin a training.
    steepest: float = np.inf
    settle: Callable[[DistillationLoss], None] = lambda loss: None


def of_sides(oracle, *settings):
    """An oracle from a reference that takes only the two sides."""
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
# A batch normalization blows up the rounding of a large constant.
NORMALIZED = {**TRAINED, "exact": False}
JSD = {f"GeneralizedJSD {beta}": beta for beta in (0, 0.1, 0.5, 1)}

# Add one line here for each new loss, and it joins the contract.
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
        functools.partial(DecoupledKD, alpha=2.0, beta=0.5, temperature=1.0),
        reference.decoupled,
        1.0,
        2.0,
        0.5,
    ),
    "DIST": on_logits(DIST, reference.dist, **SPREAD, **OF_BATCH),
    "DIST 2, 3, 4": on_logits(
        functools.partial(DIST, beta=2.0, gamma=3.0, temperature=4.0),
        reference.dist,
        *(4.0, 2.0, 3.0),
        rounding=1e-4,
        **SPREAD,
        **OF_BATCH,
    ),
    **{
        name: on_logits(
            functools.partial(GeneralizedJSD, beta=beta, temperature=1.5),
            reference.generalised_jsd,
            beta,
            1.5,
        )
        for name, beta in JSD.items()
    },
    "MultiLevelKD": on_logits(MultiLevelKD, reference.mlkd, rounding=2e-5, **OF_BATCH),
    "MultiLevelKD standardized": on_logits(
        functools.partial(MultiLevelKD, temperatures=(1.0, 3.0), standardize=True),
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
    # Normalizing a single number leaves its rounding times 1 / √1e-5, of which 2 (s − t') / 1000 counts.
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
    "Relational distances": on_rows(
        functools.partial(Relational, distance=1.0, angle=0.0), reference.rkd_distance
    ),
    "Relational angles": on_rows(functools.partial(Relational, distance=0.0, angle=1.0), reference.rkd_angle),
    "Relational": on_rows(Relational, reference.rkd),
    "ProbabilisticTransfer": on_rows(ProbabilisticTransfer, reference.pkt),
    "ContrastiveRepresentation": on_rows(
        functools.partial(ContrastiveRepresentation, CLASSES, negatives=5, width=4), reference.crd
    )._replace(oracle=crd, settle=known_draws, rounding=1e-6, zero_at_equality=False),
}
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def cases_where(holds):
    """Parametrizes a test with the losses that a clause of the contract is about."""
    return pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in CASES.items() if holds(n, c)])


# Clauses that do not depend on arguments are checked with the losses without arguments, and with these.
ONE_OF_SEVERAL = (
    "SoftTargets 4.0",
    "BernoulliSoftTargets 4.0",
    "Standardized DecoupledKD",
    "GeneralizedJSD 0.5",
    "AttentionTransfer of the paper",
)
EACH = [name for name in CASES if " " not in name or name in ONE_OF_SEVERAL]
each_loss = cases_where(lambda name, case: name in EACH)
