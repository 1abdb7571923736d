"""Checks of one loss against its oracle, in value and gradient."""

import hypothesis
import numpy as np
import reference
from backend import BACKEND, as_numpy, as_tensor, value_and_gradients
from hypothesis import strategies as st
from loss_cases import random_features
from loss_oracles import IDS

from distill.losses import CurriculumTemperature

BATCH = 4


def sides(case, batch=BATCH, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = (batch, *case.teacher), (batch, *case.student)
    return tuple((scale * case.scale * rng.normal(size=shape)).astype("float32") for shape in shapes)


def labels_of(student):
    """Labels that are the same for the same shape."""
    return np.arange(int(np.prod(student.shape[:-1]))).reshape(student.shape[:-1]) % student.shape[-1]


def asked(loss, student):
    """Arguments that the loss takes besides the two sides."""
    if loss.needs_labels:
        return {"labels": labels_of(student)}
    return {"ids": IDS[: len(student)]} if loss.needs_ids else {}


def ready(case, teacher, student, **arguments):
    """The loss, built, with the same weights and statistics in its layers each time."""
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
    """The value of each row, as a numpy array."""
    given = (given or asked(loss, student)).values()
    return as_numpy(loss.call(as_tensor(teacher), as_tensor(student), *given))


def apply(loss, **given):
    """The loss as a function of the two sides only."""
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
    if to_student is None and BACKEND == "jax":  # zeros arrive as None there
        to_student = np.zeros_like(student)
    loss = ready(case, teacher, student)  # fresh: a memory would keep the step above
    expected = oracle(case, loss, teacher, student).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=case.rounding)
    step = 1e-6 * kwargs.get("scale", 1.0)
    slope = reference.gradient(lambda s: oracle(case, loss, teacher, s).mean(), student, step)
    atol = max(case.rounding / 5, 1e-5 * np.abs(slope).max())
    np.testing.assert_allclose(to_student, slope, rtol=1e-4, atol=atol)


def logits_of(count=5, classes=4, scale=3.0, seed=0):
    """Logits of a teacher and a student."""
    rng = np.random.default_rng(seed)
    return tuple((scale * rng.normal(size=(count, classes))).astype("float32") for _ in range(2))


def values_over_random_shapes(case):
    """Compares values on sides that hypothesis draws."""
    examples = (
        4 if BACKEND == "jax" or case.random is random_features else 8
    )  # each example is compiled or built anew

    @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True)
    @hypothesis.given(data=st.data())
    def holds(data):
        teacher, student = case.random(data, case)
        loss = ready(case, teacher, student)
        expected = oracle(case, loss, teacher, student)
        values = call(loss, teacher, student)
        # The terms of the sum grow with the logits, as the logarithm of a probability does, and so does their rounding.
        atol = case.rounding * max(1.0, *(np.abs(side).max() / case.scale for side in (teacher, student)))
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=atol)
        assert not case.never_negative or values.min() >= -atol

    holds()


def temperature_is_trained_against_the_student(step, epoch):
    """Compares the gradient of θ at one step of a curriculum of ten steps."""
    teacher, student = logits_of()
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


def features_of(teacher=(3, 3, 2, 4), student=(3, 3, 2, 3), seed=0):
    """Features of a teacher and a student, of these shapes."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape).astype("float32") for shape in (teacher, student))
