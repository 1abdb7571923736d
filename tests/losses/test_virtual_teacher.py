"""The virtual teacher: values and gradients against its definition in float64."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, dtype_of, only_on, value_and_gradients
from conftest import dense_net

from distill.losses import VirtualTeacher


def virtual(labels, logits, weight=0.1, temperature=20.0, correct=0.99):
    values = []
    for label, row in zip(labels, np.asarray(logits, "float64"), strict=True):
        d = np.full(len(row), (1 - correct) / (len(row) - 1))
        d[label] = correct
        u, log_q = reference.softmax(d / temperature), reference.log_softmax(row)
        divergence = sum(p * (np.log(p) - q) for p, q in zip(u, log_q, strict=True) if p > 0)
        values.append((1 - weight) * -log_q[label] + weight * divergence)
    return np.array(values)


SETTINGS = [{}, {"weight": 0.5, "temperature": 2.0, "correct": 0.9}, {"weight": 1.0, "temperature": 0.01}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_virtual_teacher_follows_its_definition(settings):
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 5, 8)
    wanted = virtual(labels, logits, **settings)
    loss = VirtualTeacher(**settings, from_logits=True)
    np.testing.assert_allclose(
        as_numpy(loss.call(labels, keras.ops.convert_to_tensor(logits))), wanted, rtol=1e-5
    )
    np.testing.assert_allclose(as_numpy(loss(labels[:, None], logits)), wanted.mean(), rtol=1e-5)
    probabilities = np.array([reference.softmax(row) for row in logits], "float32")
    np.testing.assert_allclose(
        as_numpy(VirtualTeacher(**settings)(labels, probabilities)), wanted.mean(), rtol=1e-4
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_gradient_of_the_virtual_teacher_follows_its_definition(settings, from_logits):
    rng = np.random.default_rng(1)
    outputs, labels = 2 * rng.normal(size=(3, 4)).astype("float32"), np.array([3, 0, 2])
    if not from_logits:
        outputs = np.array([reference.softmax(row) for row in outputs], "float32")
    loss = VirtualTeacher(**settings, from_logits=from_logits)
    value, (gradient,) = value_and_gradients(lambda x: loss(labels, x), outputs)

    def wanted(x):
        # Keras, too, divides probabilities by their sum.
        logits = x if from_logits else np.log(x / x.sum(axis=-1, keepdims=True))
        return virtual(labels, logits, **settings).mean()

    np.testing.assert_allclose(value, wanted(outputs.astype("float64")), rtol=1e-5)
    slope = reference.gradient(wanted, outputs)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_virtual_teacher_computes_in_float32(dtype):
    rng = np.random.default_rng(1)
    labels = np.array([2999, 0, 1001])  # the first and last are no numbers of half precision
    half = keras.ops.cast(3 * rng.normal(size=(3, 3000)), dtype)
    same = keras.ops.cast(half, "float32")
    expected = virtual(labels, as_numpy(same)).mean()
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        value, again = (VirtualTeacher(from_logits=True)(labels, x) for x in (half, same))
    finally:
        keras.config.set_floatx(before)
    assert dtype_of(value) == "float32"
    np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5)
    np.testing.assert_array_equal(as_numpy(value), as_numpy(again))


@pytest.mark.parametrize(
    "mutant",
    [{"weight": 0.2}, {"temperature": 4.0}, {"temperature": 1.0}, {"correct": 0.9, "temperature": 1.0}],
    ids=str,
)
def test_the_definition_tells_other_virtual_teachers(mutant):
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 5, 8)
    found = as_numpy(VirtualTeacher(**mutant, from_logits=True)(labels, logits))
    assert abs(found - virtual(labels, logits).mean()) > 1e-4 * found


@only_on("tensorflow", reason="elsewhere Keras clips the probabilities of a softmax head")
def test_a_virtual_teacher_trains_plain_models(batch):
    x, y = batch
    model = dense_net(8)
    model.compile("adam", VirtualTeacher())
    losses = model.fit(x, y, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 1.5}, "weight"),
        ({"temperature": 0.0}, "temperature must be a finite number >= 1e-06"),
        ({"correct": -0.1}, "correct"),
    ],
    ids=str,
)
def test_impossible_virtual_teachers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VirtualTeacher(**arguments)


def test_a_label_that_is_no_class_is_nan():
    values = as_numpy(VirtualTeacher().call(np.array([-1, 0, 3]), keras.ops.ones((3, 3)) / 3))
    assert np.isnan(values).tolist() == [True, False, True]


def test_a_virtual_teacher_needs_labels_of_rows():
    with pytest.raises(ValueError, match=r"Received: labels of shape \(2, 3\)"):
        VirtualTeacher()(np.eye(3)[:2], np.ones((2, 3)) / 3)
    with pytest.raises(ValueError, match=r"predictions of shape \(8, 3, 4, 5\)"):
        VirtualTeacher(axis=1)(np.zeros((8, 2), int), np.ones((8, 3, 4, 5)) / 3)
