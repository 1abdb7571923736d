"""What quantize_aware refuses, with the layer and a way out."""

import keras
import numpy as np
import pytest
from keras import layers

from distill import quantization

SHAPE = (8, 8, 4)


def of(body, shape=SHAPE, name="student"):
    inputs = keras.Input(shape, name="image")
    return keras.Model(inputs, body(inputs), name=name)


def images(count=64, shape=SHAPE):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def shared_with_norm(inputs):
    conv = layers.Conv2D(4, 3, name="shared")
    return layers.Add()([layers.BatchNormalization(name="norm")(conv(inputs)), conv(inputs)])


def read_twice(inputs):
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    return layers.Add()([x, layers.BatchNormalization(name="norm")(x)])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            layers.LayerNormalization(name="ln"),
            r"never guesses\. Received: 'ln' \(LayerNormalization\)\. Known",
        ),
        (layers.ReLU(3.0, name="three"), r"Received: 'three' \(ReLU\)"),
        (layers.ReLU(negative_slope=0.1, name="leaky"), r"Received: 'leaky' \(ReLU\)"),
        (lambda x: keras.ops.add(x, x), "never guesses"),
        (layers.Conv2D(4, 3, activation="gelu", name="conv"), r"Received: 'conv' with gelu"),
        (
            lambda x: layers.Flatten()(layers.Conv2D(4, 3, activation="sigmoid", name="c")(x)),
            "'c' with sigmoid",
        ),
        (layers.Activation("tanh", name="tanh"), "'tanh' with tanh"),
        (
            layers.Conv2D(4, 3, dilation_rate=2, name="wide"),
            r"dilated.*Received: 'wide', with dilation_rate=",
        ),
        (layers.Conv2D(4, 3, data_format="channels_first", name="first"), "'first', with data_format"),
        (layers.Conv2D(4, 3, dtype="mixed_float16", name="half"), r"'half', which computes in float16"),
        (layers.Dense(4, name="deep"), r"unless its input is .*'deep' on \(None, 8, 8, 4\)\. Use Conv1D"),
        (lambda x: layers.Add(name="sum")([x, x, x]), r"'sum' \(Add\) with 3 inputs"),
        (layers.BatchNormalization(name="norm"), r"Received: 'norm' after 'image' \(InputLayer\)"),
        (
            lambda x: layers.BatchNormalization(name="norm")(
                layers.Conv2D(4, 3, activation="relu", name="c")(x)
            ),
            r"Received: 'norm' after 'c' \(Conv2D\)\. Move the activation",
        ),
        (
            lambda x: layers.BatchNormalization(1, name="norm")(layers.Conv2D(4, 3, name="c")(x)),
            r"Received: 'norm' after 'c'",
        ),
        (shared_with_norm, r"'norm' after 'shared'"),
        (read_twice, r"'norm' after 'conv'"),
    ],
)
def test_what_is_not_known_is_refused(body, message):
    with pytest.raises(ValueError, match=message):
        quantization.quantize_aware(of(body), images(2))


def test_what_cannot_be_read_is_refused():
    model = Subclassed()
    model(images(2, (3,)))
    with pytest.raises(
        ValueError, match=r"Received: 'subclassed', a Subclassed\. Build it from keras\.Input"
    ):
        quantization.quantize_aware(model, images(2, (3,)))
    with pytest.raises(ValueError, match=r"Received: \[0\] of them"):
        quantization.quantize_aware(of(layers.Flatten()), images(0))


def test_layers_with_more_than_their_weights_are_refused():
    dense = layers.Dense(8, name="adapted")
    model = keras.Sequential([keras.Input((6,)), dense, layers.BatchNormalization(), layers.Dense(3)])
    dense.enable_lora(2)
    with pytest.raises(ValueError, match="'adapted', which has LoRA"):
        quantization.quantize_aware(model, np.ones((8, 6), "float32"))
