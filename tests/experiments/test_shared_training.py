"""What the arms of the studies share."""

import dataclasses

import keras
import numpy as np
import pytest

from distill import studies
from experiments import _training


@pytest.fixture
def run(tmp_path):
    x = np.random.default_rng(0).normal(size=(130, 9, 1)).astype("float32")
    split = x, np.arange(130) % 10
    return studies.Run(
        seed=3, train=split, dev=split, callbacks=[], directory=tmp_path, smoke=False, _files={}
    )


def test_smoothed_labels():
    np.testing.assert_allclose(
        _training.one_hot(np.array([3]), 0.1)[0], np.where(np.arange(10) == 3, 0.91, 0.01)
    )


def test_all_arms_see_the_same_examples_in_the_same_order(run):
    def seen(places, seed=3):
        batches = _training.batches(run.train, dataclasses.replace(run, seed=seed), places=places)
        return [[(x.numpy(), y.numpy()) for x, y in batches] for _ in range(2)]

    one, again, plain, other = seen(2), seen(2), seen(0), seen(2, seed=4)
    for epoch, (first, second) in enumerate(zip(one, again, strict=True)):
        assert [len(x) for x, _ in first] == [64, 64, 2]
        for (x, y), (same, labels), (raw, raw_labels) in zip(first, second, plain[epoch], strict=True):
            np.testing.assert_array_equal(x, same)
            np.testing.assert_array_equal(y, labels)
            np.testing.assert_array_equal(y, raw_labels)  # moving leaves the order
            assert not np.array_equal(x, raw)
    assert not np.array_equal(one[0][0][0], one[1][0][0])
    assert not np.array_equal(one[0][0][0], other[0][0][0])


def test_the_rate_falls_to_zero_over_all_epochs(run):
    network = keras.Sequential([keras.Input((9, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    rates = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append(float(network.optimizer.learning_rate))
    )
    x, y = run.train
    _training.fit(network, (x, _training.one_hot(y)), run, epochs=4, rate=0.1, callbacks=[watch])
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(1, 5) / 4)), atol=1e-6)
    assert "val_accuracy" in network.history.history
    _training.fit(
        network, (x, _training.one_hot(y)), dataclasses.replace(run, smoke=True), epochs=4, rate=0.1
    )
    assert len(network.history.epoch) == 2
