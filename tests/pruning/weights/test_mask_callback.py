"""What callbacks that prune share: steps counted right, masks saved and restored, mistakes seen."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from pruned_nets import LOSS, compiled, half, net, ramp, zeros_of

from distill import pruning
from distill.pruning import GradualPruning


def test_gradient_accumulation_counts_updates_of_the_weights(batch):
    model = compiled(keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2))
    callback = GradualPruning(ramp)
    model.fit(*batch, batch_size=8, epochs=5, verbose=0, callbacks=[callback])  # 25 batches, 12 updates
    assert [step for step, _ in callback.updates] == [4, 8, 12]
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


class Stop(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == self.step:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("stop", [5, 7, 13])
@pytest.mark.sweep(1)
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


def test_masks_need_an_optimizer():
    for callback in (GradualPruning(ramp), pruning.KeepZeros()):
        model = net()
        with pytest.raises(
            ValueError, match="must be compiled with an optimizer, because masks follow its steps"
        ):
            callback.set_model(model)
        assert all(variable.constraint is None for variable in model.variables)


def test_a_model_with_an_optimizer_of_its_own_and_a_schedule_that_is_never_due_are_said(batch):
    class Own(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    inputs = keras.Input((6,))
    model = Own(inputs, layers.Dense(3)(inputs))
    model.compile("sgd", loss=LOSS)
    with pytest.warns(UserWarning, match="is compiled with made no steps"):
        model.fit(*batch, verbose=0, callbacks=[GradualPruning(half)])
    with pytest.warns(UserWarning, match="Nothing was pruned: .* moved no masks at any step from 1 to 5"):
        compiled().fit(
            *batch, batch_size=8, verbose=0, callbacks=[GradualPruning(lambda step: (step == 50, 0.5))]
        )
