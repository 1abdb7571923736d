"""Multiply-adds of Keras' own layers and operations: by hand, and by running kernels of ones."""

import keras
import numpy as np
import pytest
from backend import since_keras
from keras import layers, ops

from distill import cost
from distill._keras import LayerScale


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


PLAIN = [
    layers.Rescaling(1 / 255),
    layers.Normalization(mean=0.0, variance=1.0),
    layers.Resizing(8, 8),
    layers.RandomFlip(),
    layers.BatchNormalization(center=False, scale=False),
    layers.BatchNormalization(scale=False),  # its call is another
    layers.GroupNormalization(2, center=False, scale=False),
    layers.LayerNormalization(),
    layers.RMSNormalization(),
    layers.UnitNormalization(),
    layers.PReLU(),
    layers.Activation("hard_silu"),
    layers.Activation("mish"),
    layers.UpSampling2D(interpolation="bilinear"),
    layers.MaxPooling2D(),
    layers.ZeroPadding2D(1),
    layers.Cropping2D(1),
    layers.Dropout(0.5),
    layers.SpatialDropout2D(0.5),
    layers.GaussianNoise(0.1),
    layers.Permute((3, 1, 2)),
    layers.Flatten(),
    layers.Softmax(),
    layers.RepeatVector(2),
    LayerScale(1e-6, 256),
]


def test_layers_without_kernels_are_free():
    assert cost.macs(sequential((8, 8, 4), *PLAIN)) == 0
    tokens = sequential((7,), layers.Embedding(10, 3), layers.GlobalAveragePooling1D(), layers.Dense(2))
    assert cost.macs(tokens) == 3 * 2


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        # Five steps of three features; a kernel from the features and one from the four units, for each gate.
        (layers.SimpleRNN(4), 5 * (3 + 4) * 4),
        (layers.LSTM(4, return_sequences=True), 5 * (3 + 4) * 4 * 4),
        (layers.GRU(4), 5 * (3 + 4) * 4 * 3),
        (layers.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid"), 5 * (3 + 4) * 4 * 3),
        (layers.Bidirectional(layers.LSTM(4)), 2 * 5 * (3 + 4) * 4 * 4),
        (layers.TimeDistributed(layers.Dense(2)), 5 * 3 * 2),
        (
            layers.TimeDistributed(sequential((3,), layers.Dense(2), layers.Dense(7))),
            5 * (3 * 2 + 2 * 7),
        ),
    ],
)
def test_recurrent_layers_count_once_a_step(layer, expected, products):
    assert products(sequential((5, 3), layer)) == (expected, 0)


@pytest.mark.parametrize("dropout", [0.0, 0.5])  # they take different ways through Keras
@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_hand(dropout, masked, products):
    query, value = keras.Input((7, 6)), keras.Input((5, 4))
    mask = {"attention_mask": np.ones((1, 7, 5), bool)} if masked else {}
    attended = layers.MultiHeadAttention(2, 3, value_dim=8, output_shape=9, dropout=dropout)(
        query, value, **mask
    )
    projected = 7 * 6 * (2 * 3) + 5 * 4 * (2 * 3) + 5 * 4 * (2 * 8) + 7 * (2 * 8) * 9
    assert products(keras.Model([query, value], attended)) == (projected, 2 * 7 * 5 * 3 + 2 * 7 * 5 * 8)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_a_causal_mask_hides_is_computed_all_the_same(dropout, products):
    inputs = keras.Input((7, 6))
    attended = layers.MultiHeadAttention(2, 3, dropout=dropout)(inputs, inputs, use_causal_mask=True)
    assert products(keras.Model(inputs, attended)) == (4 * 7 * 6 * (2 * 3), 2 * 2 * 7 * 7 * 3)


def test_grouped_attention_by_hand(products):
    """Four heads of queries share two of keys and values, which are compared with each."""
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.GroupQueryAttention(3, 4, 2)(inputs, inputs))
    projected = 5 * 6 * (4 * 3) + 2 * (5 * 6 * (2 * 3)) + 5 * (4 * 3) * 6
    assert products(model) == (projected, 2 * (4 * 5 * 5 * 3))


def test_a_mask_is_no_input_of_a_layer_over_time():
    inputs = keras.Input((5, 4))
    model = keras.Model(inputs, layers.TimeDistributed(layers.Dense(3))(layers.Masking()(inputs)))
    assert cost.macs(model) == 5 * 4 * 3


def test_attention_without_weights(products):
    inputs, other = keras.Input((5, 6)), keras.Input((7, 6))
    assert products(keras.Model([inputs, other], layers.Attention()([inputs, other]))) == (0, 2 * 5 * 7 * 6)
    assert products(keras.Model([inputs, other], layers.Dot(2)([inputs, other]))) == (0, 5 * 7 * 6)


@pytest.mark.parametrize(
    ("one", "other", "operation", "expected"),
    [
        ((3, 4), (4, 5), ops.matmul, 3 * 4 * 5),
        ((2, 3, 4), (4, 5), ops.matmul, 2 * 3 * 4 * 5),
        ((3, 4), (5, 4), lambda a, b: ops.einsum("bij,bkj->bik", a, b), 3 * 4 * 5),
        ((3, 4), (5, 4), lambda a, b: ops.einsum("bij,bkj->b", a, b), 3 * 4 * 5),
        ((2, 3, 4), (4, 5), lambda a, b: ops.einsum("...ij,...jk->...ik", a, b[:, None]), 2 * 3 * 4 * 5),
        ((3, 4), (3, 4), lambda a, b: ops.einsum("bij,bij", a, b), 3 * 4),
        ((3, 4), (3, 4), lambda a, b: ops.tensordot(a, b, axes=3), 3 * 4),
        ((3, 4), (4, 5), lambda a, b: ops.tensordot(a, b[0], axes=1), 3 * 4 * 5),
        ((3, 4), (5, 4), lambda a, b: ops.tensordot(a, b, axes=[[0, 2], [0, 2]]), 3 * 4 * 5),
        pytest.param(
            (3, 4),
            (5, 4),
            ops.inner,
            3 * 4 * 5,
            marks=since_keras("3.15", reason="the shape that Keras infers for inner is wrong"),
        ),
        ((4,), (4,), lambda a, b: ops.vdot(a[0], b[0]), 4),
        ((3, 4), (4,), lambda a, b: ops.dot(a, b[0]), 3 * 4),
        ((3, 4), (3, 4), lambda a, b: a * b + ops.sum(a), 0),
        ((5, 2, 4), (7, 2, 4), lambda a, b: ops.dot_product_attention(a, b, b), 2 * (2 * 5 * 7 * 4)),
    ],
)
def test_products_of_two_activations(one, other, operation, expected, products):
    inputs = [keras.Input(one), keras.Input(other)]
    assert products(keras.Model(inputs, operation(*inputs))) == (0, expected)


def test_a_constant_is_as_good_as_a_weight(products):
    inputs = keras.Input((3, 4))
    assert products(keras.Model(inputs, ops.matmul(inputs, np.ones((4, 5), "float32")))) == (3 * 4 * 5, 0)


AUGMENTATION = [
    *("RandomErasing", "RandomGaussianBlur", "RandomGrayscale", "RandomInvert", "RandomPerspective"),
    *("AutoContrast", "AugMix", "CutMix", "MixUp", "RandAugment", "RandomElasticTransform"),
]


@pytest.mark.parametrize("name", [name for name in AUGMENTATION if hasattr(layers, name)])
def test_augmentation_is_free(name):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 1)(getattr(layers, name)()(inputs)))
    assert cost.macs(model) == 4 * 4 * 3 * 2


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [
        (layers.StringLookup(vocabulary=["a", "b"]), "string"),
        (layers.Hashing(4), "string"),
        (layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3), "string"),
        (layers.IntegerLookup(vocabulary=[3, 5]), "int64"),
        (layers.Discretization([0.0, 1.0]), "float32"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_look_ups_are_free(layer, dtype):
    shape = () if isinstance(layer, layers.TextVectorization) else (3,)
    inputs = keras.Input(shape, dtype=dtype)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.Embedding(9, 4)(layer(inputs)))))
    assert cost.macs(model) == 3 * 4 * 2


def test_categories_are_encoded_for_free_and_text_is_timed():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(2)(layers.CategoryEncoding(num_tokens=5)(inputs)))
    assert cost.macs(model) == 5 * 2
    inputs = keras.Input((1,), dtype="string")
    table = layers.Embedding(3, 4)(layers.StringLookup(vocabulary=["a", "b"])(inputs))
    found = cost.profile(keras.Model(inputs, table), latency=[cost.TFFunction()], runs=2)
    assert next(iter(found.latencies.values())).median_ms > 0


def test_lengths_may_be_a_number_of_numpy():
    model = keras.Sequential([keras.Input((None, 8)), layers.Dense(3)])
    assert cost.macs(model, lengths=np.int64(5)) == 5 * 8 * 3
