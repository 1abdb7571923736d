"""Pruning while a model trains."""

import re
import zipfile

import keras
import numpy as np
import pytest
from conftest import dense_net
from keras import layers

import distill
from distill import pruning
from distill.pruning import Blocks, GradualPruning, NofM

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net():
    return dense_net(8, activation=None)


def compiled(optimizer="adam", **kwargs):
    model = net()
    model.compile(optimizer, loss=LOSS, **kwargs)
    return model


def ramp(step):
    """0.25 at step 4, 0.5 at step 8, 0.75 at step 12; then nothing moves."""
    return step in (4, 8, 12), step / 16


def zeros_of(model):
    return [int((np.array(k.variable) == 0).sum()) for k in pruning.find_kernels(model).found]


class Watch(keras.callbacks.Callback):
    """The kernels' zeros after each batch and at each epoch's end, and what stands in the logs."""

    def __init__(self):
        super().__init__()
        self.zeros, self.logs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.zeros.append(zeros_of(distill.pruning.masks.pruned_part(self.model)))

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


def test_gradient_accumulation_counts_updates_of_the_weights(batch):
    model = compiled(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2))
    callback = GradualPruning(ramp)
    model.fit(*batch, batch_size=8, epochs=5, verbose=0, callbacks=[callback])  # 25 batches, 12 updates
    assert [step for step, _ in callback.updates] == [4, 8, 12]
    assert zeros_of(model) == [36, 18]


def test_averages_and_restored_weights_are_pruned_too(batch):
    model = compiled(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9))
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=9, restore_best_weights=True)
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[stop, GradualPruning(ramp)])
    assert stop.best_epoch == 0  # when a quarter was pruned
    assert zeros_of(model) == [36, 18]


def test_steps_count_from_where_pruning_began_and_go_on_in_the_next_fit(batch):
    model, callback = compiled(), GradualPruning(ramp)
    model.fit(*batch, batch_size=8, epochs=2, verbose=0)
    model.fit(*batch, batch_size=8, epochs=1, verbose=0, callbacks=[callback])
    assert zeros_of(model) == [12, 6]
    model.fit(*batch, batch_size=8, epochs=1, verbose=0, callbacks=[callback])
    assert zeros_of(model) == [24, 12]
    model.compile("sgd", loss=LOSS)  # a new optimizer, which counts from 0
    model.fit(*batch, batch_size=8, epochs=1, verbose=0, callbacks=[callback])
    assert zeros_of(model) == [36, 18]
    assert [step for step, _ in callback.updates] == [4, 8, 12]


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


class Stop(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == self.step:
            raise KeyboardInterrupt


@pytest.fixture
def _deterministic():
    from tensorflow.python.framework import config  # only here it can be switched off

    config.enable_op_determinism()
    yield
    config.disable_op_determinism()


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("stop", [5, 7, 13])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(stop, batch, tmp_path):
    x, y = batch
    x = np.where(np.arange(6) < 2, 0, x)  # 16 weights that no gradient moves

    def trained(callbacks):
        keras.utils.set_random_seed(1)
        model = compiled(keras.optimizers.SGD(0.1, momentum=0.9))
        kernel = model.get_layer("hidden").kernel
        # Not all of these zeros are pruned at first: masks are saved, not read off the zeros.
        kernel.assign(np.where(np.arange(6)[:, None] < 2, 0, kernel))
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callbacks = [GradualPruning(ramp), backup, *callbacks]
        try:
            model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
        except KeyboardInterrupt:
            return None
        masks = [np.array(k.variable.constraint.kept) for k in pruning.find_kernels(model).found]
        return [*model.get_weights(), *masks], [step for step, _ in callbacks[0].updates]

    at_epoch_end = []

    class Masks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = self.model.get_layer("hidden").kernel
            free = np.array(kernel.constraint.kept) & (np.array(kernel) == 0)
            at_epoch_end.append(int(free.sum()))

    whole, _ = trained([Masks()])
    assert at_epoch_end == [4, 0, 0]
    assert trained([Stop(stop)]) is None
    resumed, steps = trained([])
    assert steps == [step for step in (4, 8, 12) if step > (stop - 1) // 5 * 5]
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_written_in_training_and_after_need_nothing_of_this_library(batch, tmp_path):
    model = compiled()
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[GradualPruning(ramp), checkpoint])
    for epoch, zeros in ((1, [12, 6]), (2, [24, 12]), (3, [36, 18])):
        loaded = keras.models.load_model(tmp_path / f"{epoch}.keras")  # its optimizer's state included
        assert zeros_of(loaded) == zeros
        assert loaded.optimizer.iterations == 5 * epoch
        loaded.fit(*batch, verbose=0)
    model.save(tmp_path / "after.keras")
    model.save_weights(tmp_path / "after.weights.h5")
    other = compiled()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "after.weights.h5")
    for name in ("1", "after"):
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as file:
            assert b"distill" not in file.read("config.json")
            assert b"prun" not in file.read("config.json")
            assert (b"pruning" in file.read("model.weights.h5")) == (name == "1")


def test_an_optimizer_holds_the_masks_only_while_training_runs(batch):
    held = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            held.append([name for name in vars(self.model.optimizer) if name.startswith("pruning")])

    model = compiled()
    callbacks = [GradualPruning(ramp, include="hidden"), GradualPruning(ramp, include="head"), Look()]
    model.fit(*batch, batch_size=8, verbose=0, callbacks=callbacks)
    assert [len(set(names)) for names in held] == [2]
    assert not [name for name in vars(model.optimizer) if name.startswith("pruning")]


def tfmot():
    return pruning.PolynomialDecay, pruning.ConstantSparsity


def test_tfmots_schedules(batch):
    polynomial, constant = tfmot()
    model, callback = compiled(), GradualPruning(polynomial(0.1, 0.75, 1, 13, power=3, frequency=4))
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    rises = {step: 0.75 + (0.1 - 0.75) * (1 - (step - 1) / 12) ** 3 for step in (1, 5, 9, 13)}
    assert [step for step, _ in callback.updates] == list(rises)
    found = [values["hidden/kernel"] for _, values in callback.updates]
    np.testing.assert_allclose(found, [round(48 * s) / 48 for s in rises.values()], rtol=1e-12)
    model, callback = compiled(), GradualPruning(constant(0.5, 0, frequency=6))
    model.fit(*batch, batch_size=8, epochs=3, verbose=0, callbacks=[callback])
    assert [step for step, _ in callback.updates] == [6, 12]
    assert zeros_of(model) == [24, 12]


@pytest.mark.parametrize(
    "make",
    [
        lambda polynomial, constant: polynomial(0.0, 0.8, 0, 950, frequency=100),
        lambda polynomial, constant: polynomial(0.0, 0.8, 0, 0, frequency=100),
        lambda polynomial, constant: polynomial(0.0, 0.8, 5, 100, frequency=100),
        lambda polynomial, constant: constant(0.8, 0, end_step=50, frequency=100),
    ],
)
def test_a_schedule_that_never_reaches_its_target_is_refused(make):
    with pytest.raises(ValueError, match="which never reaches its final sparsity"):
        GradualPruning(make(*tfmot()))


def test_a_training_that_ends_too_early_says_so(batch):
    polynomial, _ = tfmot()
    with pytest.warns(UserWarning, match="Pruning ends at step 20, and this training at step 5"):
        compiled().fit(
            *batch,
            batch_size=8,
            verbose=0,
            callbacks=[GradualPruning(polynomial(0.0, 0.8, 0, 20, frequency=2))],
        )


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (lambda step: 0.5, {}, "A schedule maps a step to (whether masks move, sparsity)"),
        (lambda step: (True, 1.0), {}, "0 <= sparsity < 1. Received: sparsity=1.0"),
        (
            lambda step: (True, 0.8),
            {"pattern": NofM(2, 4), "include": "head"},
            "says itself how much is cut, 0.5",
        ),
        (ramp, {"include": "body"}, "A selector fits at least one layer"),
        (lambda step: (True, 0.5), {"scope": "model"}, "compete by 'layer', 'global' or 'output'"),
    ],
)
def test_what_cannot_be_meant(schedule, arguments, message, batch):
    with pytest.raises(ValueError, match=re.escape(message)):
        compiled().fit(*batch, verbose=0, callbacks=[GradualPruning(schedule, **arguments)])


def test_masks_need_an_optimizer():
    for callback in (GradualPruning(ramp), pruning.KeepZeros()):
        model = net()
        with pytest.raises(ValueError, match="Masks follow an optimizer's steps"):
            callback.set_model(model)
        assert all(variable.constraint is None for variable in model.variables)


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
