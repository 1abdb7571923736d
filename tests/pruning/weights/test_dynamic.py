"""Dynamic sparse training: what goes and what comes, step by step, against numpy; and resumed as if never stopped."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import as_numpy, only_on, value_and_gradients
from conftest import FEATURES, dense_net
from hypothesis import given
from hypothesis import strategies as st

from distill import Distiller, SoftTargets
from distill.pruning.weights import _dynamic as dynamic
from distill.pruning.weights._dynamic import SET, RigL, _erdos_renyi, _slots
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights._masks import mask_of, pruned_part

pytestmark = only_on("tensorflow", reason="RigL takes its gradients with TensorFlow")

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DUE = (3, 6, 9)  # of frequency=3, end_step=12


def deep_net(name=None, dtype=None):
    """Two kernels of one shape, and a third."""
    inputs = keras.Input((FEATURES,))
    x = inputs
    for layer in ("first", "second"):
        x = keras.layers.Dense(FEATURES, activation="tanh", name=layer, dtype=dtype)(x)
    outputs = keras.layers.Dense(3, name="head", dtype=dtype)(x)
    return keras.Model(inputs, outputs, name=name)


def random_net():
    """Its passes in training move statistics and a random generator."""
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.3, seed=1)(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def distiller():
    student = random_net()
    return Distiller(dense_net(8, activation=None, name="teacher"), student, SoftTargets(2.0))


def callback_of(kind, data, sparsity=0.5, **options):
    options = {"frequency": 3, "end_step": 12, "drop_fraction": 0.5, "seed": 5} | options
    if kind is RigL:
        return RigL(sparsity, data, batch_size=10, **options)
    return SET(sparsity, **options)


class Watch(keras.callbacks.Callback):
    """Copies of everything at the beginning of batches: one before a callback, one after it tell what it does."""

    def __init__(self):
        super().__init__()
        self.steps = {}

    def on_train_batch_begin(self, batch, logs=None):
        kernels = find_kernels(pruned_part(self.model)).found
        variables = [*self.model.variables, *self.model.metrics_variables]
        slots = _slots(self.model) if self.model.optimizer.built else {}
        self.steps[len(self.steps) + 1] = {
            "kept": [as_numpy(mask_of(k).kept).copy() for k in kernels],
            "weights": [as_numpy(k.variable).copy() for k in kernels],
            "biases": [as_numpy(k.layer.bias).copy() for k in kernels],
            "slots": [[as_numpy(s).copy() for s in slots.get(id(k.variable), ())] for k in kernels],
            "others": {
                v.path: as_numpy(v).copy() for v in variables if not any(v is k.variable for k in kernels)
            },
        }


def watched(model, callback, batch, optimizer=None, epochs=3, **kwargs):
    """Every step before and after the callback; 4 steps an epoch."""
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, LOSS, run_eagerly=True, **kwargs)  # tracing takes longer than all these steps
    before, after = Watch(), Watch()
    model.fit(
        *batch, batch_size=10, epochs=epochs, shuffle=False, verbose=0, callbacks=[before, callback, after]
    )
    return before.steps, after.steps


# The number of weights.


class Counts(keras.callbacks.Callback):
    """Zeros of masks after every batch; weights are zero there."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        kernels = find_kernels(pruned_part(self.model)).found
        kept = [as_numpy(mask_of(kernel).kept) for kernel in kernels]
        assert not any(as_numpy(k.variable)[~m].any() for k, m in zip(kernels, kept, strict=True))
        self.seen.append([int((~mask).sum()) for mask in kept])


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize("make", [deep_net, random_net, distiller])
def test_each_kernel_has_its_number_of_weights_at_every_step(kind, make, batch):
    model = make()
    model.compile("adam", LOSS, run_eagerly=make is not deep_net)
    callback, counts = callback_of(kind, batch, 0.7, frequency=1, end_step=11), Counts()
    history = model.fit(*batch, batch_size=10, epochs=3, verbose=0, callbacks=[callback, counts]).history
    sizes = [math.prod(k.variable.shape) for k in find_kernels(pruned_part(model)).found]
    assert counts.seen == [[round(0.7 * size) for size in sizes]] * 12
    assert [step for step, _ in callback.updates] == list(range(1, 11))
    noted = np.array(list(callback.updates[-1][1].values()))
    np.testing.assert_allclose(noted * sizes, counts.seen[0], rtol=1e-6)
    assert history["sparsity"][-1] >= sum(counts.seen[0]) / sum(sizes)


@pytest.mark.parametrize("kind", [SET, RigL])
def test_several_due_steps_in_one_execution_are_one_exchange_and_none_ends_training(kind, batch):
    model = deep_net()
    model.compile("sgd", LOSS, steps_per_execution=4)
    callback, counts = callback_of(kind, batch, frequency=2, end_step=100), Counts()
    model.fit(*batch, batch_size=10, epochs=3, verbose=0, callbacks=[callback, counts])
    assert [step for step, _ in callback.updates] == [1, 5, 9]
    assert counts.seen == [[18, 18, 9]] * 3
    model.fit(*batch, batch_size=10, epochs=1, verbose=0, callbacks=[callback, counts])
    assert [step for step, _ in callback.updates] == [1, 5, 9, 13]


def test_a_model_that_is_compiled_anew_keeps_its_masks_and_another_draws_its_own(batch):
    model, callback = deep_net(), callback_of(SET, batch, frequency=100, end_step=1000)
    for _ in range(2):
        model.compile("adam", LOSS, run_eagerly=True)
        model.fit(*batch, verbose=0, callbacks=[callback])
    assert len(callback.updates) == 1
    other = deep_net()
    other.compile("adam", LOSS, run_eagerly=True)
    other.fit(*batch, verbose=0, callbacks=[callback])
    assert [int((~as_numpy(mask_of(k).kept)).sum()) for k in find_kernels(other).found] == [18, 18, 9]


@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple), min_size=1, max_size=5),
    sparsity=st.floats(0, 0.95),
)
def test_erdos_renyi_agrees_with_bisection(shapes, sparsity):
    sizes, sums = [np.array([f(shape) for shape in shapes], float) for f in (math.prod, sum)]
    counts = np.array(_erdos_renyi(shapes, sparsity))
    kept = sizes.sum() - round(sizes.sum() * sparsity)
    assert counts.sum() == max(kept, len(shapes))
    assert (counts >= 1).all()
    assert (counts <= sizes).all()
    low, high = 0.0, sizes.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(sizes, middle * sums).sum() < kept else (low, middle)
    wanted = np.minimum(sizes, high * sums)
    if (wanted >= 1).all():
        np.testing.assert_array_less(np.abs(counts - wanted), 1 + 1e-6)


def test_erdos_renyi_leaves_the_small_head_denser(batch):
    model = deep_net()
    callback = callback_of(SET, batch, 0.6, distribution="erdos-renyi")
    watched(model, callback, batch)
    # 90 weights, 36 of which stay: 12 ε + 12 ε + 9 ε = 36, and of 13.1, 13.1 and 9.8 the last is nearest to the next.
    assert {
        k: round(v * s) for (k, v), s in zip(callback.updates[0][1].items(), (36, 36, 18), strict=True)
    } == {
        "first/kernel": 23,
        "second/kernel": 23,
        "head/kernel": 8,
    }


# What goes and what comes.


def smallest(weights, kept, number):
    mask = np.zeros(weights.size, bool)
    mask[np.argsort(np.where(kept, np.abs(weights), np.inf), axis=None, kind="stable")[:number]] = True
    return mask.reshape(weights.shape)


def gradients_of(state, x, y):
    """Of the mean cross entropy of `deep_net` to its kernels, in float64."""
    kernels, biases = ([np.asarray(part, float) for part in state[name]] for name in ("weights", "biases"))
    activities = [x.astype(float)]
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        activities.append(np.tanh(activities[-1] @ kernel + bias))
    logits = activities[-1] @ kernels[-1] + biases[-1]
    p = np.exp(logits - logits.max(1, keepdims=True))
    delta = (p / p.sum(1, keepdims=True) - np.eye(3)[y]) / len(x)
    found = []
    for kernel, activity in zip(kernels[::-1], activities[::-1], strict=True):
        found.insert(0, activity.T @ delta)
        delta = (delta @ kernel.T) * (1 - activity**2)
    return found


def test_set_exchanges_the_smallest_for_others_at_random(batch):
    model, callback = deep_net(), callback_of(SET, batch, 0.6)
    before, after = watched(model, callback, batch)
    for step in range(2, 13):
        for old, new, weights in zip(
            before[step]["kept"], after[step]["kept"], before[step]["weights"], strict=True
        ):
            gone, come = old & ~new, new & ~old
            number = round(0.5 * old.sum()) if step in DUE else 0
            assert gone.sum() == come.sum() == number  # so nothing that went came back
            np.testing.assert_array_equal(gone, smallest(weights, old, number))
    again = callback_of(SET, batch, 0.6, seed=6)
    other, _ = watched(deep_net(), again, batch)
    assert any((a != b).any() for a, b in zip(before[2]["kept"], other[2]["kept"], strict=True))


def test_set_exchanges_what_there_is_where_few_weights_are_pruned(batch):
    before, after = watched(deep_net(), callback_of(SET, batch, 0.1), batch)
    for old, new in zip(before[3]["kept"], after[3]["kept"], strict=True):
        assert (new & ~old).sum() == (~old).sum() == (old & ~new).sum()


def test_the_first_draw_follows_no_pattern():
    kernels = find_kernels(deep_net()).found
    plans = [SET(0.5, end_step=200, seed=seed)._plan for seed in range(400)]
    draws = sum(plan._draw(kernels)[0].astype(int) for plan in plans)
    assert draws.sum() == 400 * 18
    assert np.abs(draws - 200).max() < 4.5 * 10  # binomial


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
    real = dynamic._smallest
    monkeypatch.setattr(dynamic, "_smallest", lambda *given: shares.append(given[2]) or real(*given))
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


# What is left alone, and what is forgotten.


@pytest.mark.parametrize("make", [random_net, distiller])
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


OPTIMIZERS = [
    (lambda: keras.optimizers.SGD(0.1, momentum=0.9), 1),
    (lambda: keras.optimizers.Adam(0.01), 2),
    (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)), 2),
    (lambda: keras.optimizers.Adam(0.01, amsgrad=True, use_ema=True), 4),
]


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize(("optimizer", "number"), OPTIMIZERS, ids=["momentum", "adam", "scaled", "ema"])
def test_the_optimizer_forgets_what_comes_and_nothing_else(kind, optimizer, number, batch):
    before, after = watched(deep_net(), callback_of(kind, batch, 0.6), batch, optimizer())
    forgot = 0
    for step in DUE:
        for i, (old, new) in enumerate(zip(before[step]["kept"], after[step]["kept"], strict=True)):
            assert len(after[step]["slots"][i]) == number
            for was, now in zip(before[step]["slots"][i], after[step]["slots"][i], strict=True):
                np.testing.assert_array_equal(now, np.where(new & ~old, 0, was))
                forgot += (was[new & ~old] != 0).any()
            assert not after[step]["weights"][i][new & ~old].any()
    assert forgot >= 3


def test_slots_are_found_whatever_the_names():
    def block(name):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(4, name="same")(inputs), name=name)

    inputs = keras.Input((4,))
    x = block("left")(inputs)
    x = block("right")(x)
    for name in ("dense", "dense_kernel", "a_dense"):
        x = keras.layers.Dense(4, name=name)(x)
    model = keras.Model(inputs, x)
    paths = [variable.path for variable in model.trainable_variables]
    assert len(set(paths)) < len(paths)
    for optimizer in (keras.optimizers.Adam(use_ema=True), keras.optimizers.SGD(momentum=0.9)):
        model.compile(optimizer, "mse")
        optimizer.build(model.trainable_variables)
        adam = isinstance(optimizer, keras.optimizers.Adam)
        lists = (
            [optimizer._model_variables_moving_average, optimizer._momentums, optimizer._velocities]
            if adam
            else [optimizer.momentums]
        )
        found = _slots(model)
        for i, variable in enumerate(model.trainable_variables):
            assert {id(slot) for slot in found[id(variable)]} == {id(slots[i]) for slots in lists}


# Going on, and half precision.


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("data", ["none", "arrays", "dataset"])
def test_a_resumed_run_has_the_masks_of_one_that_was_never_stopped(data, batch, tmp_path):
    x, y = batch
    given = batch if data == "arrays" else tf.data.Dataset.from_tensor_slices((x, y)).batch(15)
    initial = deep_net().get_weights()

    def run(*others):
        model = deep_net()
        model.set_weights(initial)
        model.compile("adam", LOSS, run_eagerly=True)
        callback = callback_of(SET if data == "none" else RigL, given, end_step=15)
        callbacks = [callback, *others]
        try:
            model.fit(x, y, batch_size=10, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
        except KeyboardInterrupt:
            assert [step for step, _ in callback.updates] == [1, 3, 6]
        return callback, model

    def masks(model):
        return [as_numpy(mask_of(kernel).kept) for kernel in find_kernels(model).found]

    whole, expected = run()
    assert [step for step, _ in whole.updates] == [1, 3, 6, 9, 12]
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    _, stopped = run(backup, Stop())
    assert any((a != b).any() for a, b in zip(masks(stopped), masks(expected), strict=True))
    resumed, found = run(keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    assert [step for step, _ in resumed.updates] == [9, 12]
    for one, other in zip(masks(found), masks(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [SET, RigL])
def test_half_precision(kind, batch):
    x, y = batch
    model = deep_net(dtype="mixed_float16")
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**24)
    model.compile(optimizer, LOSS)
    callback, counts = callback_of(kind, batch, 0.7), Counts()
    model.fit(x, y, batch_size=10, epochs=6, verbose=0, callbacks=[callback, counts])
    assert counts.seen == [[25, 25, 13]] * 24
    assert [step for step, _ in callback.updates] == [1, 3, 6, 9]
    assert optimizer.iterations < 24  # overflowing batches make no step


def test_an_overflowing_gradient_is_taken_at_a_smaller_scale(batch):
    model = deep_net(dtype="mixed_float16")
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=2.0**40), LOSS)
    kernels = find_kernels(model).found
    state = {
        "weights": [as_numpy(kernel.variable) for kernel in kernels],
        "biases": [as_numpy(kernel.layer.bias) for kernel in kernels],
    }
    gradients = dynamic._gradients_of(model, [kernel.variable for kernel in kernels])
    found = dynamic._dense_gradients(model, gradients, batch)
    for one, other in zip(found, gradients_of(state, *batch), strict=True):
        np.testing.assert_allclose(one / np.abs(one).max(), other / np.abs(other).max(), atol=5e-3)
    with pytest.raises(ValueError, match="has training diverged"):
        dynamic._dense_gradients(model, gradients, (batch[0] * np.nan, batch[1]))


# Errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "0 <= sparsity < 1. Received: sparsity=1.0"),
        ({"frequency": 0}, "at least 1. Received: frequency=0"),
        ({"frequency": 2.5}, "Received: frequency=2.5"),
        ({"end_step": 3}, "Received: end_step=3, frequency=3. Choose an end_step above"),
        ({"drop_fraction": 0}, "0 < drop_fraction < 1. Received: drop_fraction=0"),
        ({"drop_fraction": 1.0}, "Received: drop_fraction=1.0"),
        ({"drop_fraction": "half"}, "Received: drop_fraction='half'"),
        ({"distribution": "normal"}, "'uniform' or 'erdos-renyi'. Received: distribution='normal'"),
        ({"seed": -1}, "integer >= 0. Received: seed=-1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [SET, RigL])
def test_arguments_that_do_not_fit(kind, options, message, batch):
    with pytest.raises(ValueError, match=message):
        callback_of(kind, batch, **options)


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
