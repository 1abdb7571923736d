"""Small networks, and what tests of structured pruning do with them."""

import keras
from keras import layers, ops
from keras.layers import Dense

from distill import pruning
from distill.cost import calls_of


def net(build, *shapes, dtype="float32"):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, build(*inputs))


def half(model, **options):
    return pruning.prune_channels(model, 0.5, **{"round_to": 1, "verify": True, **options})


def free(model, name):
    return sum(group.atoms.size for group in pruning.explain(model).groups if group.name == name)


def kernel_macs(model):
    return calls_of(model).products.weights


class Turned(layers.Layer):
    def call(self, x):
        return x[..., ::-1]


def across_positions(t):
    return ops.softmax(t, axis=1)


def backbone():
    inner = keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(8, 1, name="in_conv")], name="inner")

    def build(x):
        x = layers.Conv2D(6, 1, name="conv")(x)
        x = layers.BatchNormalization(name="bn")(layers.DepthwiseConv2D(3, padding="same", name="dw")(x))
        return Dense(3)(layers.GlobalAveragePooling2D()(inner(x)))

    return net(build, (8, 8, 3))


def convolutional():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(32, 3, activation="relu", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(48, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(5, name="head"),
        ],
        name="convolutional",
    )


def widths(model):
    return [layer.weights[0].shape[-1] for layer in model.layers if layer.weights and layer.name != "norm"]
