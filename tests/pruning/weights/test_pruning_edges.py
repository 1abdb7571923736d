"""Pruning where it is used as nobody meant it: weights replaced, callbacks reused, fits interrupted, models misfit."""

import re

import keras
import numpy as np
import pytest
from conftest import dense_net
from keras import layers

from distill import pruning
from distill.pruning import Blocks, GradualPruning, NofM, criteria

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(optimizer="sgd"):
    model = dense_net(8, activation=None)
    model.compile(optimizer, loss=LOSS)
    return model


def half(step):
    return step == 3, 0.5


def masks_of(model):
    return [np.array(k.variable.constraint.kept) for k in pruning.find_kernels(model).found]


def zeros_of(model):
    return [int((np.array(k.variable) == 0).sum()) for k in pruning.find_kernels(model).found]


def test_weights_that_were_replaced_are_judged_anew():
    model = compiled()
    weights = model.get_weights()
    pruning.prune(model, 0.9)
    model.set_weights(weights)
    pruning.prune(model, 0.5)
    after = model.get_weights()
    model.set_weights(weights)
    pruning.strip_pruning(model)
    pruning.prune(model, 0.5)
    for a, b in zip(after, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_second_fold_on_replaced_weights_begins_dense(batch):
    model = compiled()
    weights = model.get_weights()
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[GradualPruning(half)])
    model.set_weights(weights)
    model.compile("sgd", loss=LOSS)
    zeros = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: zeros.append(zeros_of(model)))
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[GradualPruning(half), watch])
    assert zeros == [[0, 0]] * 2 + [[24, 12]] * 3


def test_a_callback_begins_anew_with_another_model_and_after_a_strip(batch):
    callback = GradualPruning(half)
    for _ in range(2):
        model = compiled()
        model.fit(*batch, batch_size=8, verbose=0, callbacks=[callback])
        assert zeros_of(model) == [24, 12]
        assert [step for step, _ in callback.updates] == [3]
    pruning.strip_pruning(model)
    model.fit(*batch, batch_size=8, verbose=0)
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[callback])
    assert zeros_of(model) == [24, 12]


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
    with pytest.raises(ValueError, match="goes on with a model of the same sparsity"):
        model.fit(*batch, verbose=0, callbacks=[pruning.SET(0.5, frequency=2, end_step=9, seed=2)])


class Interrupt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_a_fit_that_was_interrupted_is_repeated_in_the_same_process(batch, tmp_path):
    model = compiled()

    def fit(*others):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callback = GradualPruning(lambda step: (step in (3, 12), step / 16))
        model.fit(*batch, batch_size=8, epochs=4, verbose=0, callbacks=[callback, backup, *others])
        return callback

    with pytest.raises(KeyboardInterrupt):
        fit(Interrupt())
    callback = fit()
    assert callback.steps_done == 20
    assert zeros_of(model) == [36, 18]
    assert not [name for name in vars(model.optimizer) if name.startswith("pruning")]


def test_masks_are_restored_by_name_whatever_the_order_of_callbacks(batch, tmp_path):
    def fit(model, order, *others):
        parts = [
            GradualPruning(lambda step: (step == 3, 0.75), include="hidden"),
            GradualPruning(lambda step: (step == 3, 0.25), include="head"),
        ]
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model.fit(*batch, batch_size=8, epochs=4, verbose=0, callbacks=[*parts[::order], backup, *others])

    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), 1, Interrupt())
    model = compiled()
    fit(model, -1)
    assert zeros_of(model) == [36, 6]


def test_pruning_by_hand_in_a_callback(batch):
    model = compiled()
    by_hand = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: pruning.prune(model, 0.25 * (epoch + 1))
    )
    model.fit(*batch, batch_size=8, epochs=2, verbose=0, callbacks=[by_hand])
    model.fit(*batch, batch_size=8, epochs=2, verbose=0)
    assert zeros_of(model) == [24, 12]


def test_a_model_with_an_optimizer_of_its_own_and_a_schedule_that_is_never_due_are_said(batch):
    class Own(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    inputs = keras.Input((6,))
    model = Own(inputs, layers.Dense(3)(inputs))
    model.compile("sgd", loss=LOSS)
    with pytest.warns(UserWarning, match="compiled optimizer, which made none"):
        model.fit(*batch, verbose=0, callbacks=[GradualPruning(half)])
    with pytest.warns(UserWarning, match="Nothing was pruned: no step from 1 to 5 was due"):
        compiled().fit(
            *batch, batch_size=8, verbose=0, callbacks=[GradualPruning(lambda step: (step == 50, 0.5))]
        )


def test_each_step_is_looked_at_once(batch):
    asked = []

    def schedule(step):
        asked.append(step)
        return step == 2, 0.5

    compiled().fit(*batch, batch_size=8, epochs=4, verbose=0, callbacks=[GradualPruning(schedule)])
    assert sorted(set(asked)) == list(range(1, 21))
    assert len(asked) <= 21


def test_blocks_after_elements_are_judged_by_what_is_left():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16, use_bias=False)])
    pruning.prune(model, 0.25)
    kernel = np.abs(np.array(model.layers[0].kernel))
    pruning.prune(model, 0.5, pattern=Blocks((4, 4)))
    means = kernel.reshape(4, 4, 4, 4).mean((1, 3))
    kept = masks_of(model)[0].reshape(4, 4, 4, 4).any((1, 3))
    assert kept.sum() == 8
    assert means[kept].min() >= means[~kept].max()


def test_a_kernel_of_zeros_is_not_kept_so(batch):
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="body")(inputs)
    model = keras.Model(inputs, layers.Dense(3, kernel_initializer="zeros", name="head")(x))
    with pytest.raises(ValueError, match="Received: head/kernel, all of whose weights are zero"):
        pruning.keep_zeros(model)
    pruning.prune(model, 0.5, include="body")
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), loss=LOSS)
    model.fit(*batch, verbose=0, callbacks=[pruning.KeepZeros()])
    assert zeros_of(model) == [24, 0]


def test_a_wrapper_does_not_hide_the_layer_that_it_wraps():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SpectralNormalization(layers.Conv2D(4, 3, name="conv"), name="normed"),
        ]
    )
    assert [kernel.name for kernel in pruning.find_kernels(model).found] == ["normed/conv/kernel"]


class Three(keras.Model):
    def __init__(self):
        super().__init__()
        self.p, self.r, self.q = layers.Dense(8, name="proj"), layers.Dense(6), layers.Dense(8, name="proj")
        self.unused = layers.Dense(4, name="unused")

    def call(self, x):
        return self.q(self.r(self.p(x)))


@pytest.mark.filterwarnings("ignore:.build... was called on layer")  # Keras, of the layer that is not used
def test_layers_of_one_name_and_layers_that_are_not_built():
    model = Three()
    model(np.zeros((2, 8), "float32"))
    found = pruning.prune(model, pattern=NofM(2, 4))
    assert [row.name for row in found.kernels] == ["proj/kernel", f"{model.r.name}/kernel"]
    assert found.skipped == {
        "proj/kernel:2": "its 6 input channels are no multiple of 4",
        "unused": "Dense is not built",
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scope": "model"}, ValueError, "compete by 'layer', 'global' or 'output'"),
        ({"pattern": Blocks((2, 2)), "scope": "output"}, ValueError, "Blocks span several outputs"),
        ({"pattern": NofM}, TypeError, "A pattern is Elements(), Blocks(shape) or NofM(keep, of)"),
        ({"pattern": "2:4"}, TypeError, "A pattern is"),
        ({"criterion": "magnitude"}, TypeError, "A criterion is a function of a model and kernels"),
        ({"criterion": criteria.random}, TypeError, "such as criteria.magnitude or criteria.random(0)"),
    ],
)
def test_mistakes_are_seen_before_any_training(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        GradualPruning(half, **arguments)
    with pytest.raises(error, match=re.escape(message)):
        pruning.prune(compiled(), 0.5, **arguments)


def test_a_schedule_that_is_none_and_one_that_contradicts_its_pattern():
    with pytest.raises(TypeError, match="A schedule is a function of the step. Received: 0.8"):
        GradualPruning(0.8)
    with pytest.raises(ValueError, match="says itself how much is cut, 0.5"):
        GradualPruning(pruning.PolynomialDecay(0.0, 0.8, 0, 10, frequency=1), pattern=NofM(2, 4))
    with pytest.raises(TypeError, match="Kernels are of a Keras 3 model or layer"):
        pruning.prune(None, 0.5)


def test_two_callbacks_do_not_move_one_mask(batch):
    callbacks = [GradualPruning(half, include="hidden"), GradualPruning(half)]
    with pytest.raises(ValueError, match="A mask is moved by one callback. Received: two for hidden/kernel"):
        compiled().fit(*batch, verbose=0, callbacks=callbacks)


def test_rounds_begin_with_less_than_they_prune():
    model = compiled()
    pruning.prune(model, 0.8)
    with pytest.raises(ValueError, match="weights are pruned already, and a first sparsity of 0.5"):
        pruning.iterative(model, lambda model, callbacks: None, [0.5])


def test_masks_of_layers_that_changed_since_are_stripped():
    model = compiled()
    pruning.prune(model, 0.5)
    model.get_layer("hidden").enable_lora(2)
    pruning.strip_pruning(model)
    assert all(variable.constraint is None for variable in model.variables)


def test_tfmots_final_sparsity_is_taken_exactly():
    third = pruning.ConstantSparsity(1 / 3, 1)
    timetable = pruning.callbacks._Timetable(third)
    assert timetable.due(0, 1) == 1 / 3
