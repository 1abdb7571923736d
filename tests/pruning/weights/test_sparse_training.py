"""Training that is sparse from the first step: the number of weights, what SET exchanges, and runs that are resumed."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import as_numpy, only_on
from hypothesis import given
from hypothesis import strategies as st
from pruned_nets import compiled, masks_of
from sparse_nets import DUE, LOSS, Counts, callback_of, deep_net, distiller, random_net, smallest, watched

from distill import pruning
from distill.pruning import SET, RigL
from distill.pruning.weights._exchanges import slots_of
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights._masks import mask_of, pruned_part
from distill.pruning.weights._sparse_training import erdos_renyi

pytestmark = only_on("tensorflow", reason="RigL takes its gradients with TensorFlow")


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize("make", [deep_net, random_net, distiller])
@pytest.mark.sweep(1)
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
    counts = np.array(erdos_renyi(shapes, sparsity))
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
    draws = sum(plan.draw(kernels)[0].astype(int) for plan in plans)
    assert draws.sum() == 400 * 18
    assert np.abs(draws - 200).max() < 4.5 * 10  # binomial


OPTIMIZERS = [
    (lambda: keras.optimizers.SGD(0.1, momentum=0.9), 1),
    (lambda: keras.optimizers.Adam(0.01), 2),
    (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)), 2),
    (lambda: keras.optimizers.Adam(0.01, amsgrad=True, use_ema=True), 4),
]


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize(("optimizer", "number"), OPTIMIZERS, ids=["momentum", "adam", "scaled", "ema"])
@pytest.mark.sweep(1)
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
        found = slots_of(model)
        for i, variable in enumerate(model.trainable_variables):
            assert {id(slot) for slot in found[id(variable)]} == {id(slots[i]) for slots in lists}


class Stop(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("data", ["none", "arrays", "dataset"])
@pytest.mark.sweep(1)
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
def test_masks_move_back_with_weights_that_are_restored(kind, batch):
    """After five exchanges, the weights of the first epoch come back, whole."""
    model, best = deep_net(), []

    class First(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            best.append(self.model.get_weights())
            logs["val"] = epoch  # lower is better, so the first epoch is the best

    stop = keras.callbacks.EarlyStopping("val", mode="min", patience=9, restore_best_weights=True)
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    callback, counts = callback_of(kind, batch, 0.7, frequency=2, end_step=12), Counts()
    model.fit(*batch, batch_size=10, epochs=3, verbose=0, callbacks=[First(), stop, callback])
    assert not all(np.array_equal(a != 0, b != 0) for a, b in zip(best[0], best[2], strict=True))
    for weight, expected in zip(model.get_weights(), best[0], strict=True):
        np.testing.assert_array_equal(weight, expected)
    model.fit(*batch, batch_size=10, verbose=0, callbacks=[callback, counts])
    assert counts.seen[-1] == [round(0.7 * math.prod(k.variable.shape)) for k in callback.kernels]


def test_a_loaded_sparse_model_is_not_drawn_anew_silently(batch):
    model = deep_net()
    pruning.prune(model, 0.7)
    pruning.strip_pruning(model)  # as a file is
    model.compile("sgd", LOSS)
    with pytest.warns(UserWarning, match=r"begins with new random masks, though .* call pruning.keep_zeros"):
        model.fit(*batch, verbose=0, callbacks=[callback_of(SET, batch, 0.7, frequency=2, end_step=12)])
    model = deep_net()
    pruning.prune(model, 0.7)
    pruning.strip_pruning(model)
    pruning.keep_zeros(model)
    before = [weight != 0 for weight in model.get_weights()]
    model.compile(keras.optimizers.SGD(0.0), LOSS)
    model.fit(*batch, verbose=0, callbacks=[callback_of(SET, batch, 0.7, frequency=4, end_step=12)])
    for weight, there in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight != 0, there)


def test_sparse_training_goes_on_with_masks_of_its_sparsity_and_refuses_others(batch):
    model = compiled()
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[pruning.SET(0.75, frequency=2, end_step=9, seed=1)])
    before = masks_of(model)
    first = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: first.append(masks_of(model)))
    again = pruning.SET(0.75, frequency=2, end_step=9, seed=2)
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[again, watch])
    for a, b in zip(before, first[0], strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="or with masks of the same sparsity"):
        model.fit(*batch, verbose=0, callbacks=[pruning.SET(0.5, frequency=2, end_step=9, seed=2)])


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.parametrize("make", [deep_net, distiller])
def test_frozen_kernels_are_refused_or_left_alone(kind, make, batch):
    model = make()
    part = pruned_part(model)
    name = part.layers[1].name
    part.get_layer(name).trainable = False
    model.compile("adam", LOSS, run_eagerly=True)
    before = [as_numpy(weight) for weight in part.weights]
    with pytest.raises(ValueError, match=rf"frozen kernels: {name}/kernel\. Leave them alone with exclude="):
        model.fit(*batch, verbose=0, callbacks=[callback_of(kind, batch)])
    assert all(mask_of(kernel) is None for kernel in find_kernels(part).found)
    for weight, value in zip(part.weights, before, strict=True):
        np.testing.assert_array_equal(as_numpy(weight), value)
    callback = callback_of(kind, batch, exclude=name)
    model.fit(*batch, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(as_numpy(part.get_layer(name).kernel), before[0])
    assert len(callback.updates) == 1


@pytest.mark.parametrize("kind", [SET, RigL])
@pytest.mark.sweep(1)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "0 <= sparsity < 1. Received: sparsity=1.0"),
        ({"frequency": 0}, "frequency must be an integer >= 1. Received: frequency=0"),
        ({"frequency": 2.5}, "Received: frequency=2.5"),
        ({"end_step": 3}, "end_step must be an integer above frequency.* Received: end_step=3, frequency=3"),
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
