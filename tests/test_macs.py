"""Multiply-adds: by hand, by running kernels of ones, and against published figures."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from distill import cost


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def counted_by_ones(model):
    """Products in a forward pass: with inputs and kernels of ones and no bias, each adds 1 to an output."""
    model.set_weights([np.ones(w.shape) for w in model.weights])
    (shape,) = [t.shape[1:] for t in model.inputs]
    return int(np.sum(model(np.ones((1, *shape), "float32"), training=False)))


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6,), layers.Dense(7, use_bias=False)),
        ((5, 6), layers.Dense(7, use_bias=False)),
        ((5, 6), layers.EinsumDense("abc,cde->abde", (None, 2, 3))),
        ((5, 6), layers.EinsumDense("abc,bcd->ad", (3,))),
        ((5, 6), layers.EinsumDense("abc,cd->ad", (3,))),
        ((5, 6), layers.EinsumDense("abc,bcd->abd", (5, 3))),
        ((4, 5, 6), layers.EinsumDense("...x,xy->...y", (3,))),
        ((11, 6), layers.Conv1D(4, 3, strides=2, use_bias=False)),
        ((11, 6), layers.Conv1D(4, 3, groups=2, dilation_rate=3, use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, (3, 2), strides=(2, 3), use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, 3, groups=2, use_bias=False)),
        ((9, 8, 6), layers.Conv2D(4, 3, dilation_rate=2, use_bias=False)),
        ((5, 6, 7, 2), layers.Conv3D(3, 2, use_bias=False)),
        ((11, 6), layers.DepthwiseConv1D(3, strides=2, use_bias=False)),
        ((9, 8, 6), layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)),
        ((9, 6), layers.Conv1DTranspose(4, 3, use_bias=False)),
        ((9, 8, 6), layers.Conv2DTranspose(4, (3, 2), strides=2, use_bias=False)),
        ((4, 5, 3, 2), layers.Conv3DTranspose(3, 2, use_bias=False)),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value.name,
)
def test_macs_are_the_products_that_the_layer_does(shape, layer):
    model = sequential(shape, layer)
    assert cost.macs(model) == counted_by_ones(model)


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        # Products with the zeros of the padding count: output pixels × kernel × input channels × filters.
        ((9, 8, 6), layers.Conv2D(4, 3, strides=2, padding="same"), 5 * 4 * 9 * 6 * 4),
        ((9, 6), layers.Conv1D(4, 3, strides=2, padding="causal"), 5 * 3 * 6 * 4),
        ((9, 8, 6), layers.DepthwiseConv2D(3, padding="same"), 9 * 8 * 9 * 6),
        # Each depthwise product once, then a 1 × 1 convolution of 6 · 2 channels to 4.
        (
            (9, 8, 6),
            layers.SeparableConv2D(4, 3, strides=2, depth_multiplier=2),
            4 * 3 * (9 * 6 * 2 + 6 * 2 * 4),
        ),
        ((9, 6), layers.SeparableConv1D(4, 3), 7 * (3 * 6 + 6 * 4)),
        ((9, 8, 6), layers.Conv2DTranspose(4, 3, strides=2, padding="same"), 9 * 8 * 9 * 6 * 4),
        ((6, 9, 8), layers.Conv2D(4, 3, data_format="channels_first"), 7 * 6 * 9 * 6 * 4),
        ((6, 9, 8), layers.Conv2DTranspose(4, 3, data_format="channels_first"), 9 * 8 * 9 * 6 * 4),
    ],
)
def test_macs_by_hand(shape, layer, expected):
    assert cost.macs(sequential(shape, layer)) == expected


def test_layers_without_kernels_are_free():
    model = sequential(
        (8, 8, 4),
        layers.Rescaling(1 / 255),
        layers.BatchNormalization(),
        layers.GroupNormalization(2),
        layers.LayerNormalization(),
        layers.RMSNormalization(),
        layers.PReLU(),
        layers.MaxPooling2D(),
        layers.Dropout(0.5),
        layers.Flatten(),
        layers.Softmax(),
    )
    assert cost.macs(model) == 0
    tokens = sequential((7,), layers.Embedding(10, 3), layers.GlobalAveragePooling1D(), layers.Dense(2))
    assert cost.macs(tokens) == 3 * 2


def test_nested_and_shared_parts_count_once_per_call_at_the_size_of_that_call():
    head = sequential((None, None, 4), layers.Conv2D(2, 1))
    backbone_input = keras.Input((None, None, 3))
    backbone = keras.Model(backbone_input, layers.Conv2D(4, 3, padding="same")(backbone_input))
    inputs = keras.Input((8, 6, 3))
    large = backbone(inputs)
    small = layers.MaxPooling2D()(large)
    model = keras.Model(inputs, [head(large), head(inputs=small)])
    assert cost.macs(model) == 48 * 9 * 3 * 4 + (48 + 12) * 4 * 2


def test_dict_inputs_and_raw_operations():
    inputs = {key: keras.Input((4,), name=key) for key in "ab"}
    model = keras.Model(inputs, {"sum": layers.Dense(2)(inputs["a"] + keras.ops.relu(inputs["b"]))})
    assert cost.macs(model) == 4 * 2
    outer = {key: keras.Input((4,), name=key) for key in "ab"}
    assert cost.macs(keras.Model(outer, layers.Dense(3)(model(outer)["sum"]))) == 4 * 2 + 2 * 3


def test_layers_of_several_outputs_are_free_unless_they_have_weights():
    class Halves(layers.Layer):
        def call(self, inputs):
            return inputs[:, :2], inputs[:, 2:]

    inputs = keras.Input((4,))
    first, _ = Halves()(inputs)
    assert cost.macs(keras.Model(inputs, layers.Dense(3)(first))) == 2 * 3


def test_rows_folded_into_the_batch_are_counted():
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.Dense(7)(keras.ops.reshape(inputs, (-1, 6))))
    assert cost.macs(model) == 5 * 6 * 7


# Network -> arguments, what was published, in millions, and where. All count a multiply-add once, of convolutions and
# dense layers alone. [K] is the documentation of keras.applications (of MobileNetV2 that of tf.keras), [S] that of the
# TensorFlow models it was ported from, [T] torchvision's, whose networks are the same but for what is left out here:
# its ResNets have their strides elsewhere, and its EfficientNetB2 is fed other images.
PUBLISHED = {
    "MobileNet": ({"alpha": 0.75}, 325, "Howard et al. 2017, arXiv:1704.04861, table 6"),
    "MobileNetV2": ({}, 300, "[K], and Sandler et al. 2018, arXiv:1801.04381, table 4"),
    "EfficientNetB0": ({}, 386, "[T]; Tan and Le 2019, arXiv:1905.11946, table 2 rounds to 390"),
}
PUBLISHED_LARGE = {
    "ConvNeXtBase": ({}, 15_355, "[T]; Liu et al. 2022, arXiv:2201.03545, table 1 rounds to 15,400"),
    "ConvNeXtSmall": ({}, 8_684, "[T]; there 8,700"),
    "ConvNeXtTiny": ({}, 4_456, "[T]; there 4,500"),
    "DenseNet121": ({}, 2_834, "[T]"),
    "DenseNet169": ({}, 3_360, "[T]"),
    "DenseNet201": ({}, 4_291, "[T]"),
    "EfficientNetB1": ({}, 687, "[T]; table 2 of Tan and Le 700"),
    "EfficientNetB2": ({}, 1_000, "table 2 of Tan and Le"),
    "InceptionResNetV2": ({}, 13_200, "Zoph et al. 2018, arXiv:1707.07012, table 2"),
    "InceptionV3": ({}, 5_720, "Zoph et al., table 2"),
    "MobileNetV3Large": ({"input_shape": (224, 224, 3)}, 217, "[K]"),
    "NASNetMobile": ({}, 564, "[S], and Zoph et al., table 3"),
    "Xception": ({}, 8_380, "Zoph et al., table 2"),
    # Table 1 of He et al. 2015, arXiv:1512.03385, has 3,800 for ResNet50, of which 3,858 are counted here.
    "ResNet101": ({}, 7_600, "He et al., table 1"),
    "ResNet152": ({}, 11_300, "He et al., table 1"),
    "VGG16": ({}, 15_470, "[T]"),
    "VGG19": ({}, 19_632, "[T]; He et al., section 3.3: 19,600"),
}


def millions_of(name, arguments):
    return cost.macs(getattr(keras.applications, name)(weights=None, **arguments)) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_are_those_published(name):
    arguments, millions, _ = PUBLISHED[name]
    assert millions_of(name, arguments) == pytest.approx(millions, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED_LARGE)
def test_macs_of_large_networks_are_those_published(name):
    arguments, millions, _ = PUBLISHED_LARGE[name]
    assert millions_of(name, arguments) == pytest.approx(millions, rel=0.01)


class Unbranched(keras.Model):
    def __init__(self):
        super().__init__(name="unbranched")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


class Hidden(layers.Layer):
    """Multiplies where nobody sees it."""

    def call(self, inputs):
        return tf.matmul(inputs, tf.ones((3, 2)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Unbranched(), r"need a model's graph.*Received: unbranched of type Unbranched.*keras\.Input"),
        (keras.Sequential([layers.Dense(2)]), r"need a model's graph.*of type Sequential"),
        (
            sequential((None, 8, 1), layers.Conv2D(2, 3), layers.GlobalMaxPooling2D()),
            r"sizes must be known\. Received: sequential\w* with shape \(None, 8, 1\)\. Rebuild",
        ),
        (
            sequential((3,), Hidden(name="hidden")),
            r"never guessed\. Received: hidden of type Hidden, whose call cannot be followed",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        cost.macs(model)


def test_a_size_lost_inside_the_graph_is_refused():
    class Ragged(layers.Layer):
        def compute_output_shape(self, input_shape):
            return (input_shape[0], None, input_shape[-1])

        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match=r"Received: late with shape \(1, None, 3\)"):
        cost.macs(sequential((4, 3), Ragged(), layers.Dense(2, name="late")))


def test_counting_leaves_the_model_alone():
    model = sequential((8, 8, 1), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3))
    before = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]
    cost.macs(model)
    assert (model.get_config(), [len(layer._inbound_nodes) for layer in model.layers]) == before
