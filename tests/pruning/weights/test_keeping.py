"""Zeros that are there already."""

import keras
import pytest
from keras import layers
from pruned_nets import LOSS, zeros_of

from distill import pruning


def test_a_kernel_of_zeros_is_not_kept_so(batch):
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="body")(inputs)
    model = keras.Model(inputs, layers.Dense(3, kernel_initializer="zeros", name="head")(x))
    with pytest.raises(ValueError, match="Received: head/kernel with zeros alone"):
        pruning.keep_zeros(model)
    pruning.prune(model, 0.5, include="body")
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), loss=LOSS)
    model.fit(*batch, verbose=0, callbacks=[pruning.KeepZeros()])
    assert zeros_of(model) == [24, 0]


def test_a_call_that_failed_does_not_make_the_next_keep_nothing(batch):
    """It leaves masks that keep everything."""
    x, y = batch
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu", name="hidden"), layers.Dense(3, name="head")]
    )
    model.compile("adam", LOSS)
    kernel = model.get_layer("hidden").kernel
    kernel.assign(keras.ops.where(keras.ops.arange(6)[:, None] < 3, 0.0, kernel))
    model.get_layer("head").kernel.assign(keras.ops.zeros((8, 3)))
    with pytest.raises(ValueError, match="zero"):
        model.fit(x, y, verbose=0, callbacks=[pruning.KeepZeros()])
    model.fit(x, y, verbose=0, callbacks=[pruning.KeepZeros(exclude="head")])
    assert zeros_of(model)[0] == 24
