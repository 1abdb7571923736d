"""A backup in one process: training goes on after a stop as if there had been none."""

import keras
import numpy as np
import pytest
from backend import only_on
from conftest import dense_net

from distill.training import Backup


class Stop(keras.callbacks.Callback):
    """Interrupts training at the end of the n-th batch."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def net():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


def fit(model, *callbacks, **kwargs):
    """4 batches an epoch."""
    x = np.random.default_rng(3).normal(size=(64, 6)).astype("float32")
    kwargs = {"epochs": 4, "batch_size": 16, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(x, x[:, :3], callbacks=list(callbacks), **kwargs).epoch


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_backup_goes_on_in_one_process(tmp_path):
    whole = net()
    fit(whole)
    for stop in (6, 9):  # in epoch 1, then 9 batches on from there: in epoch 3
        with pytest.raises(KeyboardInterrupt):
            fit(net(), Backup(tmp_path), Stop(stop))
    assert files(tmp_path) == ["epoch-3.weights.h5"]
    (tmp_path / "partial.weights.h5").write_text("from a save that was cut off")
    (tmp_path / "epoch-2.weights.h5").write_text("from a kill before this was deleted")
    model = net()
    assert fit(model, Backup(tmp_path, delete_checkpoint=False)) == [3]
    assert files(tmp_path) == ["epoch-4.weights.h5"]
    np.testing.assert_array_equal(model.get_weights()[0], whole.get_weights()[0])

    finished = net()
    assert fit(finished, Backup(tmp_path)) == []
    np.testing.assert_array_equal(finished.get_weights()[0], whole.get_weights()[0])
    assert not tmp_path.exists()
    assert fit(finished, Backup(tmp_path)) == [0, 1, 2, 3]  # no backup, so from the beginning


@pytest.mark.slow
def test_backup_in_the_middle_of_an_epoch(tmp_path):
    cut = net()
    with pytest.raises(KeyboardInterrupt):
        fit(cut, Stop(7), Backup(tmp_path, save_freq=3), initial_epoch=1)
    assert files(tmp_path) == ["epoch-2.weights.h5"]  # saved after 2 batches of the second epoch
    model, six = net(), net()
    assert fit(model, Backup(tmp_path, save_freq=3)) == [2, 3]
    fit(six, epochs=1)
    fit(six, epochs=1, steps_per_epoch=2)
    fit(six, epochs=2)
    np.testing.assert_array_equal(model.get_weights()[0], six.get_weights()[0])


@only_on("tensorflow", reason="elsewhere fit has built the model by then")
def test_backup_needs_a_built_model(tmp_path):
    model = keras.Sequential([keras.layers.Dense(3)], name="bare")
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Received: 'bare', which is not built"):
        fit(model, Backup(tmp_path))


@pytest.mark.slow
def test_a_backup_of_a_training_that_has_ended_is_not_for_the_next_model(tmp_path):
    backup, first = Backup(tmp_path, delete_checkpoint=False), net()
    fit(first, backup)
    other = net()
    before = other.get_weights()
    with pytest.raises(
        ValueError, match="a training that has ended, for another model.*directory of its own"
    ):
        fit(other, backup)
    assert all(map(np.array_equal, before, other.get_weights()))
    assert fit(first, backup, epochs=6) == [4, 5]
    deleted = Backup(tmp_path / "deleted")
    for model in (net(), net()):
        assert fit(model, deleted) == [0, 1, 2, 3]


def test_a_bucket_is_refused():
    with pytest.raises(ValueError, match=r"needs a folder on a disk.*Received: backup_dir='gs://bucket/run'"):
        Backup("gs://bucket/run")


def test_a_later_training_begins_with_its_first_epoch(batch, tmp_path):
    x, y = batch

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def made():
        model = dense_net(4)
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        return model

    with pytest.raises(KeyboardInterrupt):
        made().fit(x, y, epochs=4, verbose=0, callbacks=[Backup(tmp_path / "backup"), Kill()])
    model = made()
    resumed = model.fit(x, y, epochs=4, verbose=0, callbacks=[Backup(tmp_path / "backup")])
    assert resumed.epoch == [2, 3]
    assert model.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]
