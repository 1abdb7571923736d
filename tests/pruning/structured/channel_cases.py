"""Networks in which every rule of structured pruning is at work, and a random choice of what stays of them."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.applications import convnext, inception_resnet_v2
from small_nets import kernel_macs

from distill.pruning.structured._costs import macs_of, parameters_of
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read
from distill.pruning.structured._verification import largest_error

RULES = rules_with()


def dense_head(x):
    return layers.Dense(3, name="head")(x)


def image_head(x):
    return dense_head(layers.GlobalAveragePooling2D()(x))


def plain(build, shape=(8, 8, 3), dtype="float32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, build(inputs))


def residual(x):
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    y = layers.Conv2D(6, 1, name="narrow")(layers.ReLU()(layers.BatchNormalization()(x)))
    y = layers.Conv2D(8, 3, padding="same", name="wide")(y)
    return image_head(layers.Add()([x, y]))


def concatenated(x):
    one, other = layers.Conv2D(4, 1, name="one")(x), layers.Conv2D(6, 1, name="other")(x)
    x = layers.Concatenate()([one, x, other])
    return image_head(layers.Conv2D(5, 1, name="last")(layers.BatchNormalization()(x)))


def flattened(x):
    x = layers.Conv2D(6, 3, strides=2, name="conv")(x)
    return dense_head(layers.Flatten()(layers.MaxPooling2D()(x)))


def depthwise(x):
    x = layers.Conv2D(6, 1, name="conv")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, name="separable")(x)
    return image_head(x)


def grouped(x):
    x = layers.Conv2D(8, 1, name="conv")(x)
    x = layers.Conv2D(12, 3, groups=4, name="grouped")(x)
    return image_head(layers.GroupNormalization(4)(x))


def depthwise_by_groups(x):
    x = layers.Conv2D(8, 1, name="conv")(x)
    return image_head(layers.Conv2D(8, 3, groups=8, name="grouped")(x))


def squeezed(x):
    x = layers.Conv2D(8, 1, name="conv")(x)
    y = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    y = layers.Conv2D(4, 1, activation="relu", name="squeeze")(y)
    y = layers.Conv2D(8, 1, activation="sigmoid", name="excite")(y)
    return image_head(layers.Multiply()([x, y]))


def transposed(x):
    x = layers.Conv2DTranspose(6, 3, strides=2, name="up")(x)
    x = layers.PReLU(shared_axes=[1, 2])(layers.UpSampling2D()(layers.Cropping2D(1)(x)))
    return image_head(layers.Conv2D(4, 3, name="conv")(layers.ZeroPadding2D(1)(x)))


def generator(x):
    x = layers.Dense(4 * 4 * 6, name="dense")(layers.Flatten()(x))
    return image_head(layers.Conv2D(5, 3, name="conv")(layers.Reshape((4, 4, 6))(x)))


def sequence(x):
    x = layers.Conv1D(6, 3, name="conv")(x)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="both")(x)
    x = layers.LSTM(6, return_sequences=True, name="lstm")(x)
    x = layers.TimeDistributed(layers.Dense(4, name="inner"), name="each")(x)
    return dense_head(layers.SimpleRNN(5, name="simple")(x))


def recurrent_modes(x):
    summed = layers.Bidirectional(layers.LSTM(4), merge_mode="sum", name="summed")(x)
    old = layers.GRU(5, reset_after=False, name="old")(x)
    out, state = layers.GRU(6, return_state=True, name="state")(x)
    again = layers.GRU(6, name="again")(x, initial_state=state)
    return dense_head(layers.Concatenate()([summed, old, layers.Multiply()([out, again])]))


def embedded(x):
    x = layers.Embedding(2, 6, name="embedding")(x)
    return dense_head(layers.Conv1D(4, 3, name="conv")(x)[:, 0])


def attending(x):
    x = layers.Dense(6, name="into")(x)
    y = layers.MultiHeadAttention(4, 3, value_dim=5, name="attention")(x, x)
    x = layers.Add()([x, y])
    z = layers.GroupQueryAttention(4, 4, 2, name="grouped_attention")(x, x)
    return dense_head(layers.GlobalAveragePooling1D()(layers.Add()([x, z])))


def cross_attending(x):
    query, value = layers.Dense(6, name="query_in")(x), layers.Dense(4, name="value_in")(x)
    y = layers.MultiHeadAttention(2, 3, output_shape=7, name="attention")(query, value)
    return dense_head(layers.GlobalMaxPooling1D()(y))


def einsums(x):
    x = layers.EinsumDense("abc,cde->abde", (8, 4, 3), bias_axes="de", name="split")(x)
    x = layers.EinsumDense("abde,dec->abc", (8, 6), bias_axes="c", name="joined")(x)
    x = layers.EinsumDense("...x,xy->...y", 5, name="dots")(x)
    return dense_head(layers.GlobalAveragePooling1D()(x))


def raw_operations(x):
    x = layers.Conv2D(8, 1, name="conv")(x)
    x = ops.relu(x * np.linspace(1, 2, 8, dtype="float32")) + 1.0
    one, other = ops.split(x, [3], axis=-1)
    x = ops.concatenate([other, ops.flip(one, 1)], axis=-1)
    x = ops.transpose(ops.moveaxis(ops.swapaxes(x, 1, 2), 3, 1), (0, 2, 3, 1))
    x = ops.squeeze(ops.expand_dims(x, 1), 1)
    x = ops.square(x - ops.mean(x, axis=(1, 2), keepdims=True))  # else the pooling makes zeros of it
    return image_head(x)


def raw_products(x):
    x = layers.Dense(6, name="dense")(x)
    query, key = layers.Dense(4, name="query")(x), layers.Dense(4, name="key")(x)
    weights = ops.softmax(ops.matmul(query, ops.swapaxes(key, 1, 2)))
    x = ops.einsum("bts,bsd->btd", weights, layers.Dense(5, name="value")(x))
    return dense_head(ops.mean(x, axis=1))


def heads_by_reshape(x):
    x = layers.Dense(6, name="dense")(x)
    parts = [ops.reshape(layers.Dense(12, name=name)(x), (-1, 8, 3, 4)) for name in ("q", "k", "v")]
    query, key, value = (ops.transpose(part, (0, 2, 1, 3)) for part in parts)
    weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))))
    x = ops.reshape(ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3)), (-1, 8, 12))
    return dense_head(layers.GlobalAveragePooling1D()(layers.Dense(5, name="out")(x)))


def padded(x):
    x = layers.Conv2D(4, 1, name="conv")(x)
    y = layers.Conv2D(6, 1, name="wider")(x)
    return image_head(y + ops.pad(x, [[0, 0], [0, 0], [0, 0], [1, 1]]))


def shuffled(x):
    x = layers.Conv2D(8, 1, name="conv")(x)
    x = ops.transpose(ops.reshape(x, (-1, 8, 8, 2, 4)), (0, 1, 2, 4, 3))
    return image_head(layers.Conv2D(4, 1, name="last")(ops.reshape(x, (-1, 8, 8, 8))))


def channels_first(x):
    x = layers.Permute((3, 1, 2))(layers.Conv2D(6, 1, name="conv")(x))
    x = layers.BatchNormalization(axis=1)(x)
    x = layers.AveragePooling2D(2, data_format="channels_first")(x)
    return dense_head(layers.Flatten(data_format="channels_first")(x))


def shared(x):
    conv, relu = layers.Conv2D(3, 1, name="conv"), layers.ReLU()
    x = relu(layers.Conv2D(3, 1, name="first")(x))
    x = relu(conv(relu(conv(x))))
    return image_head(relu(layers.Conv2D(7, 1, name="last")(x)))


def nested(x):
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 6)),
            layers.Conv2D(5, 1, name="conv"),
            layers.BatchNormalization(),
            layers.Conv2D(6, 1, name="back"),
        ],
        name="inner",
    )
    x = layers.Conv2D(6, 1, name="conv")(x)
    middle = plain(lambda y: layers.Add()([inner(y), y]), (8, 8, 6))
    middle.name = "middle"
    return image_head(middle(middle(x)))


def normalized(x):
    x = layers.Dense(6, name="into")(x)
    y = layers.Dense(9, activation="gelu", name="hidden")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(6, name="out")(y)])
    return dense_head(layers.GlobalAveragePooling1D()(layers.RMSNormalization()(x)))


def volumes(x):
    x = layers.ZeroPadding3D(1)(layers.Conv3D(4, 2, name="conv")(x))
    x = layers.MaxPooling3D(2, strides=1)(layers.UpSampling3D(2)(layers.Cropping3D(1)(x)))
    x = layers.Conv3DTranspose(5, 2, strides=2, name="up")(x)
    x = layers.SpatialDropout3D(0.5)(layers.AveragePooling3D(2)(x))
    return dense_head(layers.Flatten()(layers.GlobalAveragePooling3D(keepdims=True)(x)))


def lines(x):
    x = layers.Conv1DTranspose(6, 3, name="up")(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.SeparableConv1D(5, 3, depth_multiplier=2, name="separable")(x)
    x = layers.MaxPooling1D(2)(layers.UpSampling1D(2)(layers.Cropping1D(1)(layers.ZeroPadding1D(2)(x))))
    x = layers.GaussianNoise(1.0)(layers.SpatialDropout1D(0.5)(layers.AveragePooling1D(2)(x)))
    return dense_head(layers.Flatten()(layers.GlobalMaxPooling1D(keepdims=True)(x)))


def repeated(x):
    x = layers.RepeatVector(3)(layers.AlphaDropout(0.5)(layers.Dense(6, name="dense")(x)))
    one, other = layers.Bidirectional(layers.GRU(4), merge_mode=None, name="both")(x)
    return dense_head(layers.Concatenate()([other, one]))


def merged(x):
    one, other = layers.Dense(6, name="one")(x), layers.Dense(6, name="other")(x)
    x = layers.Average()([layers.Maximum()([one, other]), layers.Minimum()([one, other]), one])
    x = layers.Rescaling(2.0, 0.5)(layers.Subtract()([x, other]))
    x = convnext.StochasticDepth(0.5)(convnext.LayerScale(1.0, 6, name="scale")(x))
    return dense_head(layers.GlobalMaxPooling1D()(inception_resnet_v2.CustomScaleLayer(0.5)([x, one])))


def each_normalized(x):
    x = layers.GroupNormalization(-1)(layers.Conv2D(6, 1, name="conv")(x))
    return image_head(layers.UnitNormalization()(layers.Conv2D(5, 1, name="unit")(x)))


def more_operations(x):
    x = ops.clip(layers.Conv2D(6, 1, name="conv")(x), -0.5, 2.0)
    x = ops.average_pool(ops.max_pool(ops.image.resize(x, (12, 12)), 2), 2)
    x = ops.maximum(ops.minimum(x, 1.5), layers.Conv2D(6, 1, name="other")(x))
    return dense_head(ops.sum(x, axis=(1, 2)))


# Name of the builder -> the input's shape and type, layers that lose channels.
CASES = {
    residual: ((8, 8, 3), "stem narrow"),
    concatenated: ((8, 8, 3), "one other last"),
    flattened: ((8, 8, 3), "conv"),
    depthwise: ((8, 8, 3), "conv separable"),
    grouped: ((8, 8, 3), "conv"),
    depthwise_by_groups: ((8, 8, 3), "conv"),
    squeezed: ((8, 8, 3), "conv squeeze"),
    transposed: ((8, 8, 3), "up conv"),
    generator: ((8, 8, 3), "dense conv"),
    sequence: ((8, 4), "conv both lstm each simple"),
    recurrent_modes: ((8, 4), "summed old state"),
    embedded: ((8,), "embedding conv"),
    attending: ((8, 5), "into attention grouped_attention"),
    cross_attending: ((8, 5), "query_in value_in attention"),
    einsums: ((8, 5), "split joined dots"),
    raw_operations: ((8, 8, 3), "conv"),
    raw_products: ((8, 5), "dense key value"),
    heads_by_reshape: ((8, 5), "dense k v out"),
    padded: ((8, 8, 3), "conv"),
    shuffled: ((8, 8, 3), "conv last"),
    channels_first: ((8, 8, 3), "conv"),
    shared: ((8, 8, 3), "first last"),
    nested: ((8, 8, 3), "conv middle"),
    normalized: ((8, 5), "hidden"),
    volumes: ((4, 4, 4, 2), "conv up"),
    lines: ((8, 4), "up separable"),
    repeated: ((5,), "dense both"),
    merged: ((4, 5), "one"),
    each_normalized: ((8, 8, 3), "conv unit"),
    more_operations: ((8, 8, 3), "conv"),
}


cases = pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)


def model_of(build):
    shape, _ = CASES[build]
    model = plain(build, shape, "int32" if build is embedded else "float32")
    rng = np.random.default_rng(0)
    for variable in model.weights:  # zeros would hide what is added
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) * rng.choice([-1, 1], variable.shape))
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_variance.assign(np.abs(layer.moving_variance))
    return model


def some_of(structure, seed):
    """Cuts about half of what can go, and leaves something of every axis."""
    rng = np.random.default_rng(seed)
    keep = structure.atoms.locked | (rng.random(structure.atoms.count) < 0.5)
    for axes in structure.tensors.values():
        for axis in axes:
            if axis is not None and not keep[of := structure.atoms.of[axis]].any():
                keep[of[0]] = True
    for slot in structure.slots:
        if not keep[of := structure.atoms.of[slot.labels]].any():
            keep[of[0]] = True
    return keep


def cut_at_random(model, seed=0):
    """The model without about half of what can go: proved, and its costs those that were foretold."""
    structure = read(model, RULES)
    keep = some_of(structure, seed)
    assert not keep.all()
    small = rebuild(structure, keep)
    error, where = largest_error(structure, keep, small, RULES, seed=seed)
    assert error < 1e-6, where
    assert small.count_params() == parameters_of(structure)(keep) < model.count_params()
    assert kernel_macs(small) == macs_of(structure)(keep)
    return small
