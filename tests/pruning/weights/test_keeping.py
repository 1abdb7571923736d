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
