"""Every loss from a cache: the same as live in value and gradient, or refused with what to record."""

import keras
import numpy as np
import pytest
from backend import BACKEND, as_tensor, value_and_gradients
from loss_cases import CASES
from loss_checks import asked, ready, sides

from distill import cache
from distill.training._recorded import RecordedTeacher
from distill.training._taps import Read

BATCH = 4
# How far numbers of a dtype may be from live, as a share of themselves.
DTYPES = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


def recorded(folder, teacher, loss, target):
    """What a loss reads of a teacher whose answers were recorded."""
    answers = cache.record(
        lambda ids: teacher[ids[:, 0]], np.arange(BATCH)[:, None], folder, targets=target, verbose=0
    )
    read = Read(head=loss.head, from_logits=True)
    taught = RecordedTeacher(answers, [read], [loss])
    return taught.answer(
        {name: as_tensor(part) for name, part in taught.pipeline(np.arange(BATCH)).items()}
    ).values[0]


def compared(case, loss, teacher, student):
    """Value and gradient to the student."""
    arguments = asked(loss, student)
    value, (slope,) = value_and_gradients(lambda s: loss(teacher, s, **arguments), student)
    return value, np.zeros_like(student) if slope is None and BACKEND == "jax" else slope


@pytest.mark.parametrize("name", CASES)
def test_a_loss_on_all_numbers_is_the_live_one_bit_for_bit(name, tmp_path):
    case = CASES[name]
    teacher, student = sides(case, batch=BATCH)
    live, live_slope = compared(case, ready(case, teacher, student), as_tensor(teacher), student)
    loss = ready(case, teacher, student)
    value, slope = compared(case, loss, recorded(tmp_path / "cache", teacher, loss, cache.Dense()), student)
    np.testing.assert_array_equal(value, live)
    np.testing.assert_array_equal(slope, live_slope)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_within_its_rounding(dtype, tmp_path):
    case = CASES["LogitMSE"]
    teacher, student = sides(case, batch=BATCH)
    loss = ready(case, teacher, student)
    found = keras.ops.convert_to_numpy(recorded(tmp_path / "cache", teacher, loss, cache.Dense(dtype)))
    apart = np.abs(found - teacher) / np.abs(teacher)
    assert DTYPES[dtype] / 4 < apart.max() <= DTYPES[dtype]
    expected = np.mean((student - found) ** 2)
    np.testing.assert_allclose(compared(case, loss, as_tensor(found), student)[0], expected, rtol=1e-6)


SERVED = {
    "TopK": [name for name in CASES if name.startswith(("SoftTargets", "GeneralizedJSD", "HardTargets"))],
    "Sampled": [name for name in CASES if name.startswith("SoftTargets") or name == "GeneralizedJSD 0"],
}


def some_classes(kind, loss, k):
    temperature = getattr(loss, "temperature", 1.0)
    if kind == "TopK":
        return cache.TopK(k, temperatures=(3.0, temperature), from_logits=True)
    return cache.Sampled(k, temperature=temperature, from_logits=True)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in SERVED.items() for name in names])
def test_a_loss_on_some_classes_is_near_the_live_one(kind, name, tmp_path):
    """All four classes, so TopK is the live loss; 3,000 draws are near it, whose mean is (tests/losses/test_sparse)."""
    case = CASES[name]
    teacher, student = sides(case, batch=BATCH)
    loss = case.make()
    target = some_classes(kind, loss, 4 if kind == "TopK" else 3000)
    live, live_slope = compared(case, case.make(), as_tensor(teacher), student)
    value, slope = compared(case, loss, recorded(tmp_path / "cache", teacher, loss, target), student)
    # Of draws, five standard deviations at most.
    error = 0.0 if kind == "TopK" else 5 * getattr(loss, "temperature", 1.0) * np.std(student) / 3000**0.5
    np.testing.assert_allclose(value, live, rtol=1e-5, atol=case.rounding + error)
    np.testing.assert_allclose(slope, live_slope, rtol=1e-4, atol=1e-6 + error)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, served in SERVED.items() for name in CASES if name not in served],
)
def test_other_losses_say_what_to_record(kind, name, tmp_path):
    case = CASES[name]
    teacher = sides(case, batch=BATCH)[0].reshape(BATCH, -1)
    with pytest.raises(ValueError, match="needs all numbers of 'output'.*Record with targets=cache.Dense"):
        recorded(tmp_path / "cache", teacher, case.make(), some_classes(kind, case.make(), 1))
