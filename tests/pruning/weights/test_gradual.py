"""Pruning while a model trains."""

import re

import keras
import numpy as np
import pytest
from keras import layers
from pruned_nets import LOSS, compiled, half, net, ramp, zeros_of

import distill
from distill import pruning
from distill.pruning import Blocks, GradualPruning, NofM
from distill.pruning.weights._masks import pruned_part


class Watch(keras.callbacks.Callback):
    """The kernels' zeros after each batch and at each epoch's end, and what stands in the logs."""

    def __init__(self):
        super().__init__()
        self.zeros, self.logs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.zeros.append(zeros_of(pruned_part(self.model)))

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


def test_zeros_follow_the_schedule_step_by_step(batch):
    model, callback, watch = compiled(), GradualPruning(ramp), Watch()
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[callback, watch])  # 15 steps
    expected = [0] * 3 + [0.25] * 4 + [0.5] * 4 + [0.75] * 4
    assert watch.zeros == [[round(48 * s), round(24 * s)] for s in expected]
    assert [log["sparsity"] for log in watch.logs] == [0.25, 0.5, 0.75]
    assert callback.updates == [
        (step, {"hidden/kernel": step / 16, "head/kernel": step / 16}) for step in (4, 8, 12)
    ]


def test_the_smallest_weights_of_the_moment_go(batch):
    seen = []

    class Before(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(np.array(self.model.get_layer("hidden").kernel))

    model = compiled(keras.optimizers.SGD(0.5))
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[Before(), GradualPruning(ramp)])  # 5 steps
    mask = np.array(model.get_layer("hidden").kernel.constraint.kept)
    assert np.abs(seen[3])[~mask].max() < np.abs(seen[3])[mask].min()
    assert (np.abs(seen[0])[~mask].max() > np.abs(seen[0])[mask].min()).all()


@pytest.mark.parametrize("steps_per_execution", [1, 5, 100])
@pytest.mark.sweep(1)
def test_no_step_is_missed_between_two_looks(steps_per_execution, batch):
    if keras.backend.backend() == "torch" and steps_per_execution > 1:
        pytest.skip("torch has no steps_per_execution")
    model = compiled(steps_per_execution=steps_per_execution)
    callback = GradualPruning(ramp)
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    assert zeros_of(model) == [36, 18]
    assert callback.updates[-1][1]["head/kernel"] == 0.75


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch has no steps_per_execution")
def test_a_step_that_is_due_with_the_very_last_one(batch):
    model = compiled(steps_per_execution=5)
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[GradualPruning(lambda step: (step == 5, 0.5))])
    assert zeros_of(model) == [24, 12]


def test_averages_and_restored_weights_are_pruned_too(batch):
    model = compiled(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True)
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[stop, GradualPruning(ramp)])
    assert stop.best_epoch == 0  # when a quarter was pruned
    assert zeros_of(model) == [36, 18]


def test_two_callbacks_prune_two_parts(batch):
    model = compiled()
    callbacks = [
        GradualPruning(ramp, include="hidden", log_layers=True),
        GradualPruning(lambda step: (step == 2, 0.5), include="head", pattern=NofM(2, 4), log_layers=True),
    ]
    history = model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=callbacks).history
    assert zeros_of(model) == [36, 12]
    assert history["sparsity/hidden/kernel"] == [0.25, 0.5, 0.75]
    assert history["sparsity/head/kernel"] == [0.5] * 3


def test_a_distiller_prunes_its_student(teacher, batch):
    student = net()
    distiller = distill.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile("adam", loss=LOSS)
    history = distiller.fit(
        *batch, batch_size=8, epochs=3, verbose=0, callbacks=[GradualPruning(ramp)]
    ).history
    assert history["sparsity"] == [0.25, 0.5, 0.75]
    assert zeros_of(student) == [36, 18]
    assert zeros_of(teacher) == [0, 0]


def test_a_model_with_its_own_training_step(batch):
    class Own(keras.Model):
        def train_step(self, *args):  # of JAX with the state before the data
            return super().train_step(*args)

    inputs = keras.Input((6,))
    model = Own(inputs, layers.Dense(3, name="head")(inputs))
    model.compile("adam", loss=LOSS)
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[GradualPruning(ramp)])
    assert zeros_of(model) == [round(18 * 0.75)]


def test_blocks_and_whole_models(batch):
    model = compiled()
    callback = GradualPruning(ramp, pattern=Blocks((2, 1)), scope="global")
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    assert sum(zeros_of(model)) == 54
    kept = np.array(model.get_layer("hidden").kernel.constraint.kept)
    np.testing.assert_array_equal(kept[0::2], kept[1::2])


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


def test_zeros_that_a_schedule_would_free_are_named(batch):
    model = compiled()
    pruning.prune(model, 0.75)
    pruning.strip_pruning(model)  # as a file is
    with pytest.warns(
        UserWarning, match=r"fewer zeros than the model has: 75% of its weights are zero and train"
    ):
        model.fit(*batch, batch_size=8, verbose=0, callbacks=[GradualPruning(ramp)])  # 5 steps: to .25
    assert zeros_of(model) == [12, 6]
    pruning.strip_pruning(model)
    at_once = GradualPruning(pruning.ConstantSparsity(0.25, 0, frequency=1))
    model.fit(*batch, batch_size=8, verbose=0, callbacks=[at_once])
    assert zeros_of(model) == [12, 6]


def test_pruning_by_hand_in_a_callback(batch):
    model = compiled()
    by_hand = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: pruning.prune(model, 0.25 * (epoch + 1))
    )
    model.fit(*batch, batch_size=8, epochs=2, verbose=0, callbacks=[by_hand])
    model.fit(*batch, batch_size=8, epochs=2, verbose=0)
    assert zeros_of(model) == [24, 12]


def test_two_callbacks_do_not_move_one_mask(batch):
    callbacks = [GradualPruning(half, include="hidden"), GradualPruning(half)]
    with pytest.raises(
        ValueError, match="Only one callback may move a mask. Received: two for hidden/kernel"
    ):
        compiled().fit(*batch, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (lambda step: 0.5, {}, "A schedule must return (whether masks move, sparsity)"),
        (lambda step: (True, 1.0), {}, "0 <= sparsity < 1. Received: sparsity=1.0"),
        (
            lambda step: (True, 0.8),
            {"pattern": NofM(2, 4), "include": "head"},
            "sets the sparsity to 0.5, so the schedule must have the same",
        ),
        (ramp, {"include": "body"}, "Each selector must match at least one layer"),
        (lambda step: (True, 0.5), {"scope": "model"}, "scope must be 'layer', 'global' or 'output'"),
    ],
)
def test_what_cannot_be_meant(schedule, arguments, message, batch):
    with pytest.raises(ValueError, match=re.escape(message)):
        compiled().fit(*batch, verbose=0, callbacks=[GradualPruning(schedule, **arguments)])


@pytest.mark.slow
def test_each_kernels_zeros_reach_wandb_and_tensorboard(batch, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from wandb_reader import read_runs

    from distill.tracking import EpochLogger, Tracker

    model = compiled()
    with Tracker(
        tmp_path, study="pruning", arm="ramp", config={}, wandb="offline", tensorboard=True
    ) as tracker:
        callbacks = [GradualPruning(ramp, log_layers=True), EpochLogger(tracker)]
        model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
        tracker.finish({"sparsity": 0.75})
    (run,) = read_runs(tmp_path)
    assert [value for _, value in run.column("sparsity/hidden/kernel")] == [0.25, 0.5, 0.75]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"sparsity", "sparsity/hidden/kernel", "sparsity/head/kernel"} <= set(events.Tags()["tensors"])


def test_keras_own_tensorboard_callback_has_them_too(batch, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callbacks = [GradualPruning(ramp, log_layers=True), keras.callbacks.TensorBoard(tmp_path)]
    compiled().fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=callbacks)
    events = EventAccumulator(str(tmp_path / "train")).Reload()
    assert {"epoch_sparsity", "epoch_sparsity/hidden/kernel"} <= set(events.Tags()["tensors"])
