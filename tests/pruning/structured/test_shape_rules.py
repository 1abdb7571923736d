"""Rules of raw operations that move positions."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import pruning


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda x: Dense(3)(layers.Reshape((-1, 4))(Dense(8)(x))), (None, 8)),
        (lambda x: Dense(3)(layers.Reshape((-1, 8))(layers.Conv2D(8, 1)(x))), (None, 4, 3)),
        (lambda x: Dense(3)(ops.reshape(Dense(8)(ops.reshape(x, (-1, 6))), (-1, 5, 8))), (5, 6)),
    ],
)
def test_reshapes_of_unknown_sizes_end(build, shape):
    assert {group.name: group.locked for group in pruning.explain(net(build, shape)).groups}


def test_what_is_broadcast_is_cut():
    inputs = keras.Input(batch_shape=(2, 4))
    x = ops.broadcast_to(Dense(8, name="made")(inputs)[:, None], (2, 3, 8))
    assert half(keras.Model(inputs, Dense(3)(x))).get_layer("made").units == 4


def test_stacked_arrays_are_cut():
    inputs = keras.Input(batch_shape=(2, 4))
    x = ops.stack([Dense(8)(inputs), np.ones((2, 8), "float32")], 1)
    assert half(keras.Model(inputs, Dense(3)(x))).output_shape == (2, 2, 3)
