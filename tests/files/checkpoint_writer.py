"""Models for TensorFlow checkpoints; run as `python checkpoint_writer.py FOLDER`, write them with Keras 2.

For each model NAME: the checkpoint NAME/cp, and NAME.npz with inputs and outputs. The tests make the same models with
Keras 3.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def models(keras: ModuleType) -> dict[str, Any]:
    """Models by name: layers whose weights lie deeper than one attribute, or under another name than in Keras 3."""
    layers = keras.layers

    def one(layer, shape):
        return keras.Sequential([keras.Input(shape), layer])

    def attention():
        inputs = keras.Input((5, 8))
        return keras.Model(inputs, layers.MultiHeadAttention(2, 4)(inputs, inputs))

    def in_two_places():
        dense, inputs = layers.Dense(3), keras.Input((4, 3))
        between = layers.TimeDistributed(layers.Dense(3))(dense(inputs))
        return keras.Model(inputs, layers.TimeDistributed(dense)(between))

    def nested():
        inner = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.BatchNormalization()])
        inputs = keras.Input((2, 6))
        return keras.Model(inputs, layers.Dense(3)(layers.TimeDistributed(inner)(inputs)))

    class Own(keras.Model):
        """A model of attributes."""

        def __init__(self):
            super().__init__()
            self.first, self.rest = layers.Dense(3), [layers.Dense(2), {"last": layers.Dense(1)}]
            self.scale = self.add_weight(name="zoom", shape=(1,))

        def call(self, inputs):
            """Scale the outputs of three layers."""
            return self.rest[1]["last"](self.rest[0](self.first(inputs))) * self.scale

    def own():
        model = Own()
        model(np.zeros((1, 2), "float32"))
        return model

    noisy = [layers.Dense(3), layers.Dropout(0.5), layers.GaussianNoise(0.1), layers.Dense(2)]
    return {
        "depthwise": one(layers.DepthwiseConv2D(3), (8, 8, 4)),
        "depthwise_1d": one(layers.DepthwiseConv1D(2), (6, 3)),
        "separable": one(layers.SeparableConv1D(3, 2), (6, 3)),
        "cells": one(layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)]), (4, 3)),
        "both_directions": one(layers.Bidirectional(layers.GRU(2)), (4, 3)),
        "images": one(layers.ConvLSTM1D(2, 2, recurrent_activation="sigmoid"), (3, 6, 2)),
        "attention": attention(),
        "statistics": one(layers.Normalization(), (3,)),
        "random": keras.Sequential([keras.Input((4,)), *noisy]),
        "states": keras.Sequential([keras.Input((5, 3), batch_size=4), layers.LSTM(3, stateful=True)]),
        "in_two_places": in_two_places(),
        "nested": nested(),
        "own": own(),
    }


def main(folder: Path) -> None:
    """Write all models, with weights that are all different."""
    import tensorflow as tf
    import tf_keras

    rng = np.random.default_rng(0)
    for name, model in models(tf_keras).items():
        for weight in model.weights:
            low = 0.5 if "variance" in weight.name else -0.5
            weight.assign(tf.cast(rng.uniform(low, low + 1.0, weight.shape), weight.dtype))
        for layer in model.layers:
            if isinstance(layer, tf_keras.layers.Normalization):
                layer.finalize_state()
        shape = (1, 2) if name == "own" else model.input_shape
        inputs = rng.normal(size=(4, *shape[1:])).astype("float32")
        model.compile("adam", "mse")
        if name == "random":
            model.fit(inputs, np.zeros((4, 2)), verbose=0)
            model.save(folder / "saved_model", save_format="tf")
        model.save_weights(folder / name / "cp")
        np.savez(folder / f"{name}.npz", inputs=inputs, outputs=model(inputs, training=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
