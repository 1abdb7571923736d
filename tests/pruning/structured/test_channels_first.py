"""Structured pruning of models whose channels come first, which TensorFlow cannot run on a CPU: here it transposes."""

import inspect

import keras
import numpy as np
import pytest
from backend import only_on
from keras import layers
from keras.src import backend

from distill import cost, pruning
from distill.pruning.structured import importance

FIRST = {"data_format": "channels_first"}
TRANSPOSED = ("conv", "depthwise_conv", "separable_conv", "conv_transpose", "max_pool", "average_pool")


@pytest.fixture(autouse=True)
def runs_on_a_cpu(monkeypatch):
    import tensorflow as tf

    for name in TRANSPOSED:
        original = getattr(backend.nn, name)

        def call(*args, original=original, **kwargs):
            bound = inspect.signature(original).bind(*args, **kwargs)
            bound.apply_defaults()
            if bound.arguments["data_format"] != "channels_first":
                return original(*args, **kwargs)
            first = next(iter(bound.arguments))
            x = tf.convert_to_tensor(bound.arguments[first])
            rank = len(x.shape)
            bound.arguments[first] = tf.transpose(x, [0, *range(2, rank), 1])
            bound.arguments["data_format"] = "channels_last"
            return tf.transpose(original(*bound.args, **bound.kwargs), [0, rank - 1, *range(1, rank - 1)])

        monkeypatch.setattr(backend.nn, name, call)


# Sizes are odd: Keras adds a bias to the wrong axis of as many channels as there are columns.
def flat(x):
    x = layers.Conv2D(8, 3, padding="same", **FIRST)(x)
    x = layers.PReLU(shared_axes=[2, 3])(layers.BatchNormalization(axis=1)(x))
    x = layers.Add()([x, layers.Conv2D(8, 3, groups=4, padding="same", **FIRST)(x)])
    x = layers.SeparableConv2D(6, 3, depth_multiplier=2, **FIRST)(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, **FIRST)(x)
    x = layers.GroupNormalization(3, axis=1)(layers.MaxPooling2D(**FIRST)(x))
    squeezed = layers.Dense(4, "relu")(layers.GlobalAveragePooling2D(**FIRST)(x))
    x = layers.Multiply()([x, layers.Reshape((12, 1, 1))(layers.Dense(12, "sigmoid")(squeezed))])
    x = layers.ZeroPadding2D(1, **FIRST)(layers.Conv2DTranspose(5, 2, **FIRST)(x))
    x = layers.SpatialDropout2D(0.3, **FIRST)(layers.UpSampling2D(**FIRST)(x))
    return layers.Flatten(**FIRST)(layers.AveragePooling2D(3, **FIRST)(x))


def long(x):
    x = layers.SeparableConv1D(6, 3, **FIRST)(layers.Conv1D(8, 3, padding="same", **FIRST)(x))
    x = layers.Conv1DTranspose(6, 3, **FIRST)(layers.DepthwiseConv1D(3, depth_multiplier=2, **FIRST)(x))
    x = layers.AveragePooling1D(2, **FIRST)(layers.MaxPooling1D(2, **FIRST)(x))
    return layers.GlobalMaxPooling1D(**FIRST)(x)


def deep(x):
    x = layers.ZeroPadding3D(1, **FIRST)(layers.Conv3D(8, 2, **FIRST)(x))
    x = layers.UpSampling3D(2, **FIRST)(layers.Cropping3D(1, **FIRST)(x))
    x = layers.MaxPooling3D(2, **FIRST)(layers.Conv3DTranspose(6, 2, **FIRST)(x))
    return layers.GlobalAveragePooling3D(**FIRST)(layers.SpatialDropout3D(0.2, **FIRST)(x))


CASES = {"flat": (flat, (3, 31, 31)), "long": (long, (3, 25)), "deep": (deep, (3, 7, 7, 7))}

# Half of those above; of the six that become three groups of four two groups stay.
WIDTHS = {"flat": [4, 4, 4, 3], "long": [4, 3, 3], "deep": [4, 3]}


def net(name):
    build, shape = CASES[name]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.Dense(3)(build(inputs)))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "float" in variable.dtype:
            value = rng.normal(size=variable.shape)
            variable.assign(np.abs(value) + 0.2 if "variance" in variable.path else value)
    return model


@only_on("tensorflow", reason="others run it as it is")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sweep(1)
def test_what_stays_is_what_it_was(name):
    model, proof = net(name), pruning.Proof()
    small = pruning.prune_channels(model, 0.5, round_to=1, importance=importance.random(1), verify=proof)
    assert proof.largest_error < 1e-9
    assert [layer.filters for layer in small.layers if hasattr(layer, "filters")] == WIDTHS[name]
    assert np.isfinite(small(np.ones((2, *CASES[name][1])))).all()


@only_on("tensorflow", reason="others run it as it is")
def test_a_target_of_multiply_adds_is_met():
    model = net("flat")
    assert cost.macs(pruning.prune_channels(model, macs=0.6)) == pytest.approx(
        0.6 * cost.macs(model), rel=0.02
    )
