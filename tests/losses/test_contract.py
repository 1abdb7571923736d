"""One contract that every loss keeps, against the float64 oracle."""

import functools
import inspect
import json

import hypothesis
import keras
import numpy as np
import pytest
from backend import (
    BACKEND,
    FLOAT64,
    as_numpy,
    as_tensor,
    compiled,
    dtype_of,
    only_on,
    value_and_gradients,
)
from hypothesis import strategies as st
from keras import layers, ops
from loss_cases import CASES, EACH, cases_where, each_loss, every_loss, small
from loss_checks import (
    BATCH,
    apply,
    asked,
    call,
    gradient_follows,
    oracle,
    ready,
    sides,
    value_follows,
    values_over_random_shapes,
)

import distill.losses
from distill._keras import set_keras_mask
from distill.losses import DistillationLoss
from distill.losses._multi_level import _between_classes


def test_no_loss_is_left_out():
    exported = {getattr(distill.losses, name) for name in distill.losses.__all__}
    losses = {one for one in exported if inspect.isclass(one) and issubclass(one, DistillationLoss)}
    assert {type(CASES[name].make()) for name in EACH} == losses - {DistillationLoss}


@every_loss
def test_value_follows_the_definition(case):
    value_follows(case)


@every_loss
def test_gradient_follows_the_definition_and_none_goes_to_the_teacher(case):
    gradient_follows(case)


@every_loss
@pytest.mark.sweep(14)
def test_value_over_random_shapes(case):
    values_over_random_shapes(case)


@every_loss
@pytest.mark.sweep(14)
def test_gradient_over_random_shapes(case):
    @hypothesis.settings(max_examples=2, deadline=None, derandomize=True)
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
    """Next to equality all digits of a divergence are rounding."""
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
    set_keras_mask(masked, as_tensor(kept))
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
        teacher[..., 0] *= -1  # huge on the other side too, so that a softmax does not hide it
        loss = ready(case, teacher, student)

        def masked(teacher, student, loss=loss):
            set_keras_mask(student, as_tensor(kept))
            return loss(teacher, student, **asked(loss, student))

        value, (_, gradient) = value_and_gradients(masked, teacher, student)
        gradient = np.zeros_like(student) if gradient is None else gradient  # JAX gives None for zeros
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
    """Yields a case and pairs of constant or very large sides: three examples, then one of the smallest shape."""
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
@pytest.mark.sweep(14)
def test_finite_and_right_for_constant_and_huge_sides(case):
    for shaped, pairs in extremes(case):
        loss = ready(shaped, *pairs[0])
        for teacher, student in pairs:
            if BACKEND == "torch" and not case.exact and np.ptp(student) == 0 and np.abs(student).max() > 3:
                continue  # there Keras computes a variance as E[x²] − E[x]², negative for a large constant: NaN
            expected = oracle(case, loss, teacher, student).mean()
            value, (_, gradient) = value_and_gradients(apply(loss), teacher, student)
            assert np.isfinite(value)
            assert gradient is None or np.abs(gradient).max() < case.steepest  # JAX gives None for zeros
            if case.exact:
                np.testing.assert_allclose(value, expected, rtol=1e-5, atol=max(1e-7, case.rounding))


def cased(case, **arguments):
    """Arguments that give the loss a name, and the layers to read if it reads layers."""
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
    with pytest.raises(
        ValueError,
        match=r"example by example, so .* the same batch size\. Received: teacher \(4.*student \(3",
    ):
        loss(teacher, student[:3], **given)
    with pytest.raises(ValueError, match=r"compares one output\. Received: a teacher with outputs \[0, 1\]"):
        loss([teacher, teacher], student, **given)
    with pytest.raises(ValueError, match="as many or fewer"):
        loss(teacher, student, **given, sample_weight=np.ones((BATCH, 3), "float32"))
    if loss.same_shape:
        with pytest.raises(ValueError, match=r"the same shape.*teacher \(4, 4\) and student \(4, 1\)"):
            loss(teacher, student[:, :1], **given)
        with pytest.raises(ValueError, match=r"the same shape.*teacher \(4, 4\) and student \(4,\)"):
            loss(teacher, student[:, 0], **given)


@each_loss
@pytest.mark.sweep(2)
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
)  # HardTargets only reads the teacher's class
def test_the_contract_catches_a_teacher_that_learns(case, monkeypatch):
    monkeypatch.setattr(ops, "stop_gradient", lambda x: x)
    with pytest.raises(AssertionError):
        gradient_follows(case)


@cases_where(lambda name, case: case.make().head == "softmax")
def test_a_loss_says_truly_whether_it_sees_the_number_that_a_softmax_leaves_free(case):
    teacher, student = sides(case)
    shift = np.arange(1.0, 1.0 + len(teacher), dtype="float32")[:, None]
    loss = ready(case, teacher, student)
    values = call(loss, teacher, student)
    shifted = call(loss, teacher + shift, student - 2 * shift)
    stays = np.allclose(values, shifted, rtol=1e-4, atol=case.rounding * 10)
    assert stays == loss.shift_invariant


@only_on("tensorflow", reason="the sizes of what is computed are read from its graph")
@cases_where(lambda name, case: case.make().head is not None and name in EACH)
def test_no_loss_on_logits_computes_classes_by_classes(case):
    import tensorflow as tf

    classes, batch = 1024, 4
    loss = case._replace(teacher=(classes,), student=(classes,)).make()
    labels = {"labels": np.zeros(batch, "int64")} if loss.needs_labels else {}

    @tf.function(autograph=False)
    def step(teacher, student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss(teacher, student, **labels)
        return tape.gradient(value, student)

    spec = tf.TensorSpec((batch, classes), "float32")
    sizes = [
        out.shape.num_elements()
        for op in step.get_concrete_function(spec, spec).graph.get_operations()
        for out in op.outputs
        if out.shape.rank
    ]
    assert max(size for size in sizes if size is not None) <= 2 * batch * classes


def test_relations_of_classes_that_are_nearly_the_same_keep_their_digits():
    """‖PPᵀ‖² + ‖QQᵀ‖² − 2‖PQᵀ‖² has none left in float32."""
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(64, 40)).astype("float32")
    student = (teacher + 1e-3 * rng.normal(size=teacher.shape)).astype("float32")
    p, q = (np.exp(x.astype("float64")) for x in (teacher, student))
    p, q = (x / x.sum(axis=-1, keepdims=True) for x in (p, q))
    wanted = np.square(p.T @ p - q.T @ q).sum()
    found = as_numpy(_between_classes(ops.softmax(as_tensor(teacher)), ops.softmax(as_tensor(student))))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
