"""RigL: what comes has the largest gradients, and taking them moves nothing."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import as_numpy, only_on, value_and_gradients
from conftest import dense_net
from sparse_nets import (
    DUE,
    LOSS,
    callback_of,
    deep_net,
    distiller,
    gradients_of,
    random_net,
    smallest,
    watched,
)

from distill import Distiller, SoftTargets
from distill.pruning import SET, RigL
from distill.pruning.weights import _exchanges as exchanges
from distill.pruning.weights import _rigl as rigl
from distill.pruning.weights._kernels import find_kernels

pytestmark = only_on("tensorflow", reason="RigL takes its gradients with TensorFlow")


@pytest.mark.parametrize("sparsity", [0.6, 0.2])
def test_rigl_exchanges_the_smallest_for_the_largest_gradients(sparsity, batch):
    x, y = batch
    before, after = watched(deep_net(), callback_of(RigL, batch, sparsity), batch)
    returned = 0
    for step in DUE:
        begin = (step // 3 - 1) * 10  # the next batch of the data
        gradients = gradients_of(before[step], x[begin : begin + 10], y[begin : begin + 10])
        for i, gradient in enumerate(gradients):
            old, new = before[step]["kept"][i], after[step]["kept"][i]
            number = round(0.5 / 2 * (1 + math.cos(math.pi * step / 12)) * old.sum())
            gone = smallest(before[step]["weights"][i], old, number)
            free = ~old | gone
            assert (new & ~free).sum() == old.sum() - number  # what did not go stays
            come = new & free
            assert come.sum() == number
            if number:
                assert np.abs(gradient[come]).min() >= np.abs(gradient[free & ~come]).max() * (1 - 1e-4)
            returned += (come & gone).sum()
            # What comes back has never been away.
            for part in (before[step]["weights"][i], *before[step]["slots"][i]):
                assert not come[gone].any() or (part[come & gone] != 0).all()
            np.testing.assert_array_equal(
                after[step]["weights"][i], np.where(new & old, before[step]["weights"][i], 0)
            )
    assert returned > 0


def test_rigl_drops_by_a_cosine_and_set_always_the_same(batch, monkeypatch):
    shares = []
    real = exchanges.smallest
    monkeypatch.setattr(exchanges, "smallest", lambda *given: shares.append(given[2]) or real(*given))
    for kind in (RigL, SET):
        watched(deep_net(), callback_of(kind, batch, end_step=11), batch)
    np.testing.assert_allclose(shares, [0.413715, 0.214421, 0.039687, 0.5, 0.5, 0.5], atol=1e-6)


def test_rigl_takes_its_batches_in_turn(batch, monkeypatch):
    x, y = batch
    asked = []
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    callback = callback_of(RigL, data)
    at = type(callback._batches).at
    monkeypatch.setattr(type(callback._batches), "at", lambda self, n: asked.append(at(self, n)) or asked[-1])
    watched(deep_net(), callback, batch)
    assert len(asked) == 3
    for (seen, labels), begin in zip(asked, (0, 20, 0), strict=True):
        np.testing.assert_array_equal(as_numpy(seen), x[begin : begin + 20])
        np.testing.assert_array_equal(as_numpy(labels), y[begin : begin + 20])
    np.testing.assert_array_equal(as_numpy(at(callback._batches, 7)[0]), x[20:])
    np.testing.assert_array_equal(as_numpy(at(callback._batches, 0)[0]), x[:20])


def test_rigl_takes_the_whole_loss_of_a_distiller(batch):
    x, y = batch
    teacher = dense_net(8, activation=None, name="teacher")
    model = Distiller(teacher, deep_net(name="student"), SoftTargets(2.0), student_loss_weight=0.1)
    before, after = watched(model, callback_of(RigL, batch, 0.6), batch)
    kernels = find_kernels(model.student).found
    for kernel, weights, bias in zip(kernels, before[3]["weights"], before[3]["biases"], strict=True):
        kernel.variable.assign(weights)
        kernel.layer.bias.assign(bias)

    def loss():
        return model.compute_loss(x[:10], y[:10], model(x[:10], training=True))

    _, gradients = value_and_gradients(loss, variables=[kernel.variable for kernel in kernels])
    for gradient, old, new in zip(gradients, before[3]["kept"], after[3]["kept"], strict=True):
        come = new & ~old
        assert come.any()
        assert np.abs(gradient[come]).min() >= np.abs(gradient[~old & ~new]).max() * (1 - 1e-4)


@pytest.mark.parametrize("make", [random_net, distiller])
@pytest.mark.sweep(1)
def test_gradients_move_nothing(make, batch):
    before, after = watched(make(), callback_of(RigL, batch), batch, metrics=["accuracy"])
    for step in DUE:
        assert any((b != a).any() for b, a in zip(before[step]["kept"], after[step]["kept"], strict=True))
        moving = {
            path
            for path in before[2]["others"]
            if (before[2]["others"][path] != before[4]["others"][path]).any()
        }
        assert {"norm/moving_mean", "accuracy/total"} <= moving
        assert any("seed" in path for path in moving)
        for path, value in before[step]["others"].items():
            np.testing.assert_array_equal(after[step]["others"][path], value, err_msg=path)


def test_an_overflowing_gradient_is_taken_at_a_smaller_scale(batch):
    model = deep_net(dtype="mixed_float16")
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=2.0**40), LOSS)
    kernels = find_kernels(model).found
    state = {
        "weights": [as_numpy(kernel.variable) for kernel in kernels],
        "biases": [as_numpy(kernel.layer.bias) for kernel in kernels],
    }
    gradients = rigl.gradients_of(model, [kernel.variable for kernel in kernels])
    found = rigl.finite_gradients(model, gradients, batch)
    for one, other in zip(found, gradients_of(state, *batch), strict=True):
        np.testing.assert_allclose(one / np.abs(one).max(), other / np.abs(other).max(), atol=5e-3)
    with pytest.raises(ValueError, match="training may have diverged"):
        rigl.finite_gradients(model, gradients, (batch[0] * np.nan, batch[1]))


def test_rigl_refuses_data_that_it_cannot_use(batch):
    x, y = batch
    options = {"end_step": 200, "seed": 0}
    for empty in (
        (x[:0], y[:0]),
        tf.data.Dataset.from_tensor_slices(batch).batch(8).take(0),
        tf.data.Dataset.from_tensor_slices(batch).filter(lambda a, b: b > 9),
    ):
        with pytest.raises(ValueError, match="data without any batch"):
            RigL(0.5, empty, **options)
    with pytest.raises(TypeError, match="Received: ndarray"):
        RigL(0.5, x, **options)
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        RigL(0.5, batch, batch_size=0, **options)


def test_rigl_needs_tensorflow(batch, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Received: Keras on 'jax'. Use SET"):
        RigL(0.5, batch, end_step=200, seed=0)


def test_rigl_needs_one_device(batch):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = deep_net()
        model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="on 2 replicas"):
        callback_of(RigL, batch).set_model(model)


def test_the_states_of_recurrent_layers_are_put_back():
    model = keras.Sequential(
        [keras.Input((3, 2), batch_size=4), keras.layers.LSTM(5, stateful=True, name="lstm")]
    )
    model.compile("sgd", "mse")
    x, y = np.ones((4, 3, 2), "float32"), np.ones((4, 5), "float32")
    model(x)
    before = [as_numpy(state) for state in model.get_layer("lstm").states]
    rigl.finite_gradients(model, rigl.gradients_of(model, [model.get_layer("lstm").cell.kernel]), (x, y))
    for state, value in zip(model.get_layer("lstm").states, before, strict=True):
        np.testing.assert_array_equal(as_numpy(state), value)
        assert np.abs(value).max() > 0


def test_a_loss_of_older_versions_of_keras_is_taken():
    class Old(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return keras.ops.mean(keras.ops.square(y - y_pred))

    model = Old([keras.Input((2,)), keras.layers.Dense(3, name="head")])
    model.compile("sgd")
    x, y = np.eye(2, dtype="float32"), np.zeros((2, 3), "float32")
    kernel = model.get_layer("head").kernel
    (found,) = rigl.finite_gradients(model, rigl.gradients_of(model, [kernel]), (x, y))
    np.testing.assert_allclose(found, 2 * x.T @ as_numpy(model(x)) / 6, rtol=1e-5)


def test_slots_of_variables_that_share_a_name_and_not_a_shape():
    def block(units):
        inner = keras.Input((4,))
        return keras.Model(inner, keras.layers.Dense(units, name="dense")(inner))

    blocks = [block(units) for units in (4, 2, 4)]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [block(inputs) for block in blocks])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    found = exchanges.slots_of(model)
    every, adam = model.optimizer.variables, model.optimizer
    places = [
        [next(i for i, one in enumerate(every) if one is slot) for slot in kept]
        for kept in (adam._momentums, adam._velocities)
    ]
    for variable in model.trainable_variables:
        slots = [next(i for i, one in enumerate(every) if one is slot) for slot in found[id(variable)]]
        own = next(i for i, one in enumerate(model.trainable_variables) if one is variable)
        assert slots == [places[0][own], places[1][own]]
