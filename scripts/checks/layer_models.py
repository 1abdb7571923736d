"""A tiny model for every layer and operation of Keras that can be part of a model, for checks that go through all.

`MODELS` has about 300 of them by name: `MODELS["Conv2D"]()` builds one with random weights. Most begin with a layer
that has channels of its own and end in a dense layer, so that a check can cut channels around the layer between them as
well as write it to a file. A model with one input takes images (8, 8, 4), sequences (6, 4) or vectors (8,) unless its
name says more.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

Build = Callable[[Any], Any]

IMAGE, SEQUENCE, VECTOR, VOLUME = (8, 8, 4), (6, 4), (8,), (4, 4, 4, 2)
_SEED = 7


def _settled(model: keras.Model) -> keras.Model:
    """Random weights everywhere, as after some training: biases and statistics that are zero or one hide mistakes."""
    rng = np.random.default_rng(_SEED)
    for weight in model.weights:
        if not weight.dtype.startswith("float"):
            continue
        if "variance" in weight.name or weight.name == "gamma":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name in ("bias", "beta", "moving_mean") or len(weight.shape) < 2:
            weight.assign(0.2 * rng.normal(size=weight.shape))
    return model


def _model(shape: Any, body: Build, dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(_SEED)
    inputs = keras.Input(shape, dtype=dtype, name="x")
    return _settled(keras.Model(inputs, body(inputs), name="tiny"))


def _conv_before(shape: Any, x: Any) -> Any:
    kinds = {4: layers.Conv3D, 3: layers.Conv2D, 2: layers.Conv1D}
    if len(shape) in kinds:
        return kinds[len(shape)](4, 3, padding="same", activation="relu", name="before")(x)
    return layers.Dense(8, activation="relu", name="before")(x)


def _after(x: Any) -> Any:
    if len(x.shape) > 2:
        x = layers.Flatten(name="flat")(x) if None not in x.shape[1:] else x
    return layers.Dense(3, name="after")(x) if "float" in x.dtype and len(x.shape) > 1 else x


def _between(body: Build, shape: Any = IMAGE) -> Callable[[], keras.Model]:
    """Trained layers, what the model is about, trained layers."""
    return lambda: _model(shape, lambda x: _after(body(_conv_before(shape, x))))


def _alone(body: Build, shape: Any = VECTOR, dtype: str = "float32") -> Callable[[], keras.Model]:
    return lambda: _model(shape, body, dtype)


def _two(merge: Build) -> Build:
    """Merges two branches."""
    return lambda x: merge(
        [layers.Conv2D(4, 1, name="left")(x), layers.Conv2D(4, 3, padding="same", name="right")(x)]
    )


def _recurrent(layer: Callable[[], Any], batch: int | None = None) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        keras.utils.set_random_seed(_SEED)
        x = keras.Input(SEQUENCE, batch_size=batch, name="x")
        return _settled(keras.Model(x, layers.Dense(3, name="after")(layer()(x)), name="tiny"))

    return build


def _attend(x: Any) -> Any:
    return layers.MultiHeadAttention(2, 4)(x, x)


def _queries(layer: Any) -> Build:
    return lambda x: layer([layers.Dense(4, name="query")(x), layers.Dense(4, name="value")(x)])


@keras.saving.register_keras_serializable(package="checks")
class Doubled(keras.layers.Layer):
    """A layer of one's own."""

    def call(self, x: Any) -> Any:
        """Doubles."""
        return 2 * x


_KERNELS: dict[str, Callable[[], keras.Model]] = {
    "Dense": _between(lambda x: layers.Dense(6)(x), VECTOR),
    "Dense on sequences": _between(lambda x: layers.Dense(6)(x), SEQUENCE),
    "EinsumDense": _between(
        lambda x: layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d")(x), SEQUENCE
    ),
    "Conv1D": _between(lambda x: layers.Conv1D(6, 3)(x), SEQUENCE),
    "Conv1D, causal": _between(lambda x: layers.Conv1D(6, 3, padding="causal")(x), SEQUENCE),
    "Conv1D, dilated": _between(lambda x: layers.Conv1D(6, 2, dilation_rate=2)(x), SEQUENCE),
    "Conv2D": _between(lambda x: layers.Conv2D(6, 3)(x)),
    "Conv2D, strides, same": _between(lambda x: layers.Conv2D(6, 3, strides=2, padding="same")(x)),
    "Conv2D, dilated": _between(lambda x: layers.Conv2D(6, 3, dilation_rate=2)(x)),
    "Conv2D, 2 groups": _between(lambda x: layers.Conv2D(6, 3, groups=2)(x)),
    "Conv2D, groups = channels": _between(lambda x: layers.Conv2D(4, 3, groups=4)(x)),
    "Conv3D": _between(lambda x: layers.Conv3D(4, 3)(x), VOLUME),
    "Conv1DTranspose": _between(lambda x: layers.Conv1DTranspose(6, 3, strides=2)(x), SEQUENCE),
    "Conv2DTranspose": _between(lambda x: layers.Conv2DTranspose(6, 3, strides=2, padding="same")(x)),
    "Conv3DTranspose": _between(lambda x: layers.Conv3DTranspose(4, 2, strides=2)(x), VOLUME),
    "DepthwiseConv1D": _between(lambda x: layers.DepthwiseConv1D(3)(x), SEQUENCE),
    "DepthwiseConv2D": _between(lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(x)),
    "SeparableConv1D": _between(lambda x: layers.SeparableConv1D(6, 3)(x), SEQUENCE),
    "SeparableConv2D": _between(lambda x: layers.SeparableConv2D(6, 3)(x)),
    "Embedding": _alone(lambda x: _after(layers.Embedding(10, 4)(x)), (6,), "int32"),
    "Embedding, mask_zero": _alone(
        lambda x: _after(layers.GlobalAveragePooling1D()(layers.Embedding(10, 4, mask_zero=True)(x))),
        (6,),
        "int32",
    ),
    "SpectralNormalization": _between(
        lambda x: layers.SpectralNormalization(layers.Conv2D(6, 3))(x),
    ),
    "TimeDistributed": _between(lambda x: layers.TimeDistributed(layers.Dense(5))(x), SEQUENCE),
    "layer of one's own": _between(lambda x: Doubled()(x)),
}

_ACTIVATION_NAMES = (
    "celu",
    "elu",
    "exponential",
    "gelu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "tanh",
    "tanh_shrink",
)
_ACTIVATIONS: dict[str, Callable[[], keras.Model]] = {
    f"activation {name}": _between(lambda x, name=name: layers.Activation(name)(x))
    for name in _ACTIVATION_NAMES
} | {
    "ReLU": _between(lambda x: layers.ReLU()(x)),
    "ReLU, up to 3": _between(lambda x: layers.ReLU(3.0)(x)),
    "LeakyReLU": _between(lambda x: layers.LeakyReLU(0.1)(x)),
    "ELU": _between(lambda x: layers.ELU()(x)),
    "PReLU": _between(lambda x: layers.PReLU(shared_axes=[1, 2])(x)),
    "Softmax": _between(lambda x: layers.Softmax()(x)),
    "gelu, approximate": _between(lambda x: ops.gelu(x, approximate=True)),
    "gelu, exact": _between(lambda x: ops.gelu(x, approximate=False)),
    "glu": _between(lambda x: ops.glu(x)),
}

_NORMALIZATIONS: dict[str, Callable[[], keras.Model]] = {
    "BatchNormalization": _between(lambda x: layers.BatchNormalization()(x)),
    "LayerNormalization": _between(lambda x: layers.LayerNormalization()(x)),
    "GroupNormalization": _between(lambda x: layers.GroupNormalization(2)(x)),
    "RMSNormalization": _between(lambda x: layers.RMSNormalization()(x)),
    "UnitNormalization": _between(lambda x: layers.UnitNormalization()(x)),
    "Normalization": _alone(
        lambda x: _after(layers.Normalization(mean=np.arange(8.0), variance=np.arange(1.0, 9.0))(x))
    ),
    "Rescaling": _alone(lambda x: _after(layers.Rescaling(1 / 255, offset=-0.5)(x)), IMAGE),
}

_SHAPES: dict[str, Callable[[], keras.Model]] = {
    "Flatten": _between(lambda x: layers.Flatten()(x)),
    "Reshape": _between(lambda x: layers.Reshape((16, 16))(x)),
    "Permute": _between(lambda x: layers.Permute((2, 1, 3))(x)),
    "RepeatVector": _between(lambda x: layers.RepeatVector(3)(x), VECTOR),
    "Identity": _between(lambda x: layers.Identity()(x)),
    "Cropping1D": _between(lambda x: layers.Cropping1D(1)(x), SEQUENCE),
    "Cropping2D": _between(lambda x: layers.Cropping2D(1)(x)),
    "Cropping3D": _between(lambda x: layers.Cropping3D(1)(x), VOLUME),
    "ZeroPadding1D": _between(lambda x: layers.ZeroPadding1D(1)(x), SEQUENCE),
    "ZeroPadding2D": _between(lambda x: layers.ZeroPadding2D(1)(x)),
    "ZeroPadding3D": _between(lambda x: layers.ZeroPadding3D(1)(x), VOLUME),
    "UpSampling1D": _between(lambda x: layers.UpSampling1D(2)(x), SEQUENCE),
    "UpSampling2D, nearest": _between(lambda x: layers.UpSampling2D(2)(x)),
    "UpSampling2D, bilinear": _between(lambda x: layers.UpSampling2D(2, interpolation="bilinear")(x)),
    "UpSampling3D": _between(lambda x: layers.UpSampling3D(2)(x), VOLUME),
    "Resizing, even": _between(lambda x: layers.Resizing(16, 16)(x)),
    "Resizing, uneven": _between(lambda x: layers.Resizing(11, 13)(x)),
    "Resizing, smaller": _between(lambda x: layers.Resizing(5, 3)(x)),
    "Resizing, nearest": _between(lambda x: layers.Resizing(11, 13, interpolation="nearest")(x)),
    "Resizing, bicubic": _between(lambda x: layers.Resizing(11, 13, interpolation="bicubic")(x)),
    "CenterCrop": _between(lambda x: layers.CenterCrop(4, 5)(x)),
    "MaxPooling1D": _between(lambda x: layers.MaxPooling1D(2)(x), SEQUENCE),
    "MaxPooling2D": _between(lambda x: layers.MaxPooling2D(2)(x)),
    "MaxPooling2D, same": _between(lambda x: layers.MaxPooling2D(3, 2, padding="same")(x)),
    "MaxPooling3D": _between(lambda x: layers.MaxPooling3D(2)(x), VOLUME),
    "AveragePooling1D": _between(lambda x: layers.AveragePooling1D(2)(x), SEQUENCE),
    "AveragePooling2D": _between(lambda x: layers.AveragePooling2D(2)(x)),
    "AveragePooling2D, same": _between(lambda x: layers.AveragePooling2D(3, 2, padding="same")(x)),
    "AveragePooling3D": _between(lambda x: layers.AveragePooling3D(2)(x), VOLUME),
    "GlobalMaxPooling1D": _between(lambda x: layers.GlobalMaxPooling1D()(x), SEQUENCE),
    "GlobalMaxPooling2D": _between(lambda x: layers.GlobalMaxPooling2D()(x)),
    "GlobalMaxPooling3D": _between(lambda x: layers.GlobalMaxPooling3D()(x), VOLUME),
    "GlobalAveragePooling1D": _between(lambda x: layers.GlobalAveragePooling1D()(x), SEQUENCE),
    "GlobalAveragePooling2D": _between(lambda x: layers.GlobalAveragePooling2D()(x)),
    "GlobalAveragePooling2D, keepdims": _between(lambda x: layers.GlobalAveragePooling2D(keepdims=True)(x)),
    "GlobalAveragePooling3D": _between(lambda x: layers.GlobalAveragePooling3D()(x), VOLUME),
}
if hasattr(layers, "AdaptiveAveragePooling2D"):
    _SHAPES |= {
        "AdaptiveAveragePooling2D": _between(lambda x: layers.AdaptiveAveragePooling2D(3)(x)),
        "AdaptiveMaxPooling2D": _between(lambda x: layers.AdaptiveMaxPooling2D(4)(x)),
    }

_MERGES: dict[str, Callable[[], keras.Model]] = {
    name: _between(_two(lambda pair, name=name: getattr(layers, name)()(pair)))
    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
} | {
    "Dot": _between(lambda x: layers.Dot(1)([layers.Dense(5)(x), layers.Dense(5)(x)]), VECTOR),
    "squeeze and excitation": _between(
        lambda x: x * layers.Dense(4, "sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
}

_ATTENTION: dict[str, Callable[[], keras.Model]] = {
    "Attention": _between(_queries(layers.Attention()), SEQUENCE),
    "AdditiveAttention": _between(_queries(layers.AdditiveAttention()), SEQUENCE),
    "MultiHeadAttention": _between(_attend, SEQUENCE),
    "MultiHeadAttention, causal": _between(
        lambda x: layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True), SEQUENCE
    ),
    "GroupQueryAttention": _between(lambda x: layers.GroupQueryAttention(4, 4, 2)(x, x), SEQUENCE),
    "attention under a mask of −1e9": _between(
        lambda x: ops.matmul(
            ops.softmax(
                ops.matmul(x, ops.transpose(x, (0, 2, 1))) + np.triu(np.full((6, 6), -1e9, "float32"), 1)
            ),
            x,
        ),
        SEQUENCE,
    ),
}

_RECURRENT: dict[str, Callable[[], keras.Model]] = {
    f"{kind}{words}": _recurrent(
        lambda kind=kind, options=options: getattr(layers, kind)(5, **options), batch
    )
    for kind in ("SimpleRNN", "GRU", "LSTM")
    for words, options, batch in (
        ("", {}, None),
        (", unroll", {"unroll": True}, None),
        (", batch of 1", {}, 1),
        (", stateful, batch of 1", {"stateful": True}, 1),
    )
} | {
    "Bidirectional LSTM": _recurrent(lambda: layers.Bidirectional(layers.LSTM(4))),
    "Bidirectional LSTM, unroll": _recurrent(lambda: layers.Bidirectional(layers.LSTM(4, unroll=True))),
    "Bidirectional LSTM, batch of 1": _recurrent(lambda: layers.Bidirectional(layers.LSTM(4)), 1),
    "RNN of cells": _recurrent(lambda: layers.RNN([layers.GRUCell(4), layers.LSTMCell(5)])),
    "RNN of cells, unroll": _recurrent(
        lambda: layers.RNN([layers.GRUCell(4), layers.LSTMCell(5)], unroll=True)
    ),
    "ConvLSTM1D": _alone(lambda x: _after(layers.ConvLSTM1D(3, 3)(x)), (3, 8, 2)),
    "ConvLSTM2D": _alone(lambda x: _after(layers.ConvLSTM2D(3, 3)(x)), (3, 6, 6, 2)),
    "ConvLSTM2D, unroll": _alone(lambda x: _after(layers.ConvLSTM2D(3, 3, unroll=True)(x)), (3, 6, 6, 2)),
    "Masking and LSTM, unroll": _recurrent(
        lambda: keras.Sequential([layers.Masking(), layers.LSTM(5, unroll=True)])
    ),
}

_TRAINING_ONLY: dict[str, Callable[[], keras.Model]] = {
    "Dropout": _between(lambda x: layers.Dropout(0.5)(x)),
    "SpatialDropout2D": _between(lambda x: layers.SpatialDropout2D(0.5)(x)),
    "AlphaDropout": _between(lambda x: layers.AlphaDropout(0.5)(x)),
    "GaussianDropout": _between(lambda x: layers.GaussianDropout(0.5)(x)),
    "GaussianNoise": _between(lambda x: layers.GaussianNoise(0.5)(x)),
    "ActivityRegularization": _between(lambda x: layers.ActivityRegularization(l2=0.1)(x)),
} | {
    name: _alone(lambda x, name=name, options=options: _after(getattr(layers, name)(**options)(x)), (8, 8, 3))
    for name, options in {
        "AugMix": {},
        "AutoContrast": {},
        "CutMix": {},
        "Equalization": {},
        "MixUp": {},
        "RandAugment": {},
        "RandomBrightness": {"factor": 0.2},
        "RandomColorDegeneration": {"factor": 0.2},
        "RandomColorJitter": {"brightness_factor": 0.2},
        "RandomContrast": {"factor": 0.2},
        "RandomElasticTransform": {},
        "RandomErasing": {},
        "RandomFlip": {},
        "RandomGaussianBlur": {},
        "RandomGrayscale": {},
        "RandomHue": {"factor": 0.2},
        "RandomInvert": {},
        "RandomPerspective": {},
        "RandomPosterization": {"factor": 4},
        "RandomRotation": {"factor": 0.2},
        "RandomSaturation": {"factor": 0.2},
        "RandomSharpness": {"factor": 0.2},
        "RandomShear": {"x_factor": 0.2},
        "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
        "RandomZoom": {"height_factor": 0.2},
        "Solarization": {},
    }.items()
    if hasattr(layers, name)
}

_PREPROCESSING: dict[str, Callable[[], keras.Model]] = {
    "CategoryEncoding": _alone(
        lambda x: _after(layers.CategoryEncoding(5, output_mode="multi_hot")(x)), (3,), "int32"
    ),
    "Discretization": _alone(
        lambda x: _after(layers.Embedding(4, 3)(layers.Discretization([-1.0, 0.0, 1.0])(x)))
    ),
    "HashedCrossing": lambda: _crossed(),
    "Hashing": _alone(lambda x: _after(layers.Embedding(7, 3)(layers.Hashing(7)(x))), (3,), "int32"),
    "IntegerLookup": _alone(
        lambda x: _after(layers.Embedding(6, 3)(layers.IntegerLookup(vocabulary=[3, 5, 8])(x))), (3,), "int32"
    ),
    "StringLookup": _alone(
        lambda x: _after(layers.Embedding(6, 3)(layers.StringLookup(vocabulary=["a", "b"])(x))),
        (3,),
        "string",
    ),
    "TextVectorization": _alone(
        lambda x: _after(
            layers.Embedding(6, 3)(
                layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)(x)
            )
        ),
        (),
        "string",
    ),
    "MelSpectrogram": _alone(lambda x: layers.MelSpectrogram(32, 16, num_mel_bins=8)(x), (128,)),
    "STFTSpectrogram": _alone(lambda x: _after(layers.STFTSpectrogram(frame_length=32)(x)), (128, 1)),
}


def _crossed() -> keras.Model:
    a, b = (keras.Input((1,), dtype="int32", name=name) for name in ("a", "b"))
    crossed = layers.HashedCrossing(7, output_mode="one_hot")([a, b])
    return _settled(keras.Model([a, b], layers.Dense(3, name="after")(crossed), name="tiny"))


# Operations on images (8, 8, 4) between two layers with weights.
_OPERATIONS: dict[str, Build] = {
    "abs": ops.abs,
    "x + 1": lambda x: x + 1.0,
    "x * x": lambda x: x * x,
    "x / 2": lambda x: x / 2.0,
    "x - constant": lambda x: x - np.arange(4, dtype="float32"),
    "x[..., 1:3]": lambda x: x[..., 1:3],
    "x[:, ::2]": lambda x: x[:, ::2],
    "all": lambda x: ops.cast(ops.all(x > 0, axis=1), "float32"),
    "any": lambda x: ops.cast(ops.any(x > 0, axis=1), "float32"),
    "arctan": ops.arctan,
    "arctan2": lambda x: ops.arctan2(x, x + 1.0),
    "argmax": lambda x: ops.cast(ops.argmax(x, axis=-1), "float32"),
    "argsort": lambda x: ops.cast(ops.argsort(x, axis=-1), "float32"),
    "average_pool": lambda x: ops.average_pool(x, 2, 2),
    "broadcast_to": lambda x: x * ops.broadcast_to(np.arange(4, dtype="float32"), (8, 8, 4)),
    "cast to int": lambda x: ops.cast(ops.cast(4 * x, "int32"), "float32"),
    "ceil": ops.ceil,
    "clip": lambda x: ops.clip(x, 0.1, 0.8),
    "concatenate": lambda x: ops.concatenate([x, x * 2.0], axis=-1),
    "cos": ops.cos,
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "cumprod": lambda x: ops.cumprod(x + 0.5, axis=1),
    "diff": lambda x: ops.diff(x, axis=1),
    "dot": lambda x: ops.dot(x, np.ones((4, 5), "float32")),
    "einsum": lambda x: ops.einsum("bhwc,bhwd->bcd", x, x),
    "equal": lambda x: ops.cast(ops.equal(x, ops.flip(x, axis=1)), "float32"),
    "erf": ops.erf,
    "exp": ops.exp,
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "expm1": ops.expm1,
    "extract_patches": lambda x: ops.image.extract_patches(x, 2),
    "fft": lambda x: ops.fft((x, ops.zeros_like(x)))[0],
    "flip": lambda x: ops.flip(x, axis=1),
    "floor": ops.floor,
    "floor_divide": lambda x: ops.floor_divide(x, 0.3),
    "full_like": lambda x: x + ops.full_like(x, 2.0),
    "image.resize": lambda x: ops.image.resize(x, (5, 9)),
    "image.affine_transform": lambda x: ops.image.affine_transform(
        x, np.array([1.0, 0.1, 0.5, 0.0, 1.0, 0.2, 0.0, 0.0], "float32")
    ),
    "isfinite": lambda x: ops.cast(ops.isfinite(x), "float32"),
    "log": lambda x: ops.log(x + 1.5),
    "log1p": ops.log1p,
    "logaddexp": lambda x: ops.logaddexp(x, 1.0),
    "logical_and": lambda x: ops.cast(ops.logical_and(x > 0.1, x < 1), "float32"),
    "logsumexp": lambda x: ops.logsumexp(x, axis=-1),
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 1, 3, 2))),
    "max": lambda x: ops.max(x, axis=(1, 2)),
    "max_pool": lambda x: ops.max_pool(x, 2, 2),
    "maximum": lambda x: ops.maximum(x, 0.3),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "median": lambda x: ops.median(x, axis=1),
    "min": lambda x: ops.min(x, axis=(1, 2)),
    "mod": lambda x: ops.mod(x, 0.3),
    "moments": lambda x: ops.concatenate(ops.moments(x, axes=(1, 2)), axis=-1),
    "moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "negative": ops.negative,
    "norm": lambda x: ops.norm(x, axis=-1),
    "normalize": lambda x: ops.normalize(x, axis=-1),
    "one_hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 4),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))),
    "pad with 5": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=5.0),
    "pad, reflect": lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect"),
    "power": lambda x: ops.power(x + 0.5, 1.5),
    "prod": lambda x: ops.prod(x + 0.5, axis=-1),
    "quantile": lambda x: ops.quantile(x, 0.5, axis=1),
    "reciprocal": lambda x: ops.reciprocal(x + 1.0),
    "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "reshape": lambda x: ops.reshape(x, (-1, 16, 16)),
    "roll": lambda x: ops.roll(x, 1, axis=-1),
    "rot90": lambda x: ops.rot90(x, axes=(1, 2)),
    "round": ops.round,
    "rsqrt": lambda x: ops.rsqrt(x + 1.0),
    "scan": lambda x: ops.scan(lambda c, e: (c + e, c), ops.zeros_like(x[:, 0]), ops.moveaxis(x, 1, 0))[0],
    "segment_sum": lambda x: ops.segment_sum(x[0], np.array([0, 0, 1, 1, 2, 2, 3, 3]), 4),
    "sign": ops.sign,
    "sin": ops.sin,
    "slice": lambda x: ops.slice(x, (0, 1, 1, 0), (1, 4, 4, 4)),
    "sort": lambda x: ops.sort(x, axis=-1),
    "split": lambda x: ops.split(x, 2, axis=-1)[1],
    "sqrt": lambda x: ops.sqrt(x + 0.1),
    "square": ops.square,
    "squeeze": lambda x: ops.squeeze(ops.mean(x, axis=1, keepdims=True), axis=1),
    "stack": lambda x: ops.stack([x, 2.0 * x], axis=-1),
    "std": lambda x: ops.std(x, axis=(1, 2)),
    "sum": lambda x: ops.sum(x, axis=(1, 2)),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 3),
    "take": lambda x: ops.take(x, np.array([2, 0]), axis=-1),
    "take_along_axis": lambda x: ops.take_along_axis(x, ops.argsort(x, axis=-1), axis=-1),
    "tan": ops.tan,
    "tensordot": lambda x: ops.tensordot(x, np.ones((4, 5), "float32"), axes=1),
    "tile": lambda x: ops.tile(x, (1, 1, 1, 2)),
    "top_k": lambda x: ops.top_k(x, 2)[0],
    "transpose": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "tril": lambda x: ops.tril(x),
    "unstack": lambda x: ops.unstack(x, axis=1)[2],
    "var": lambda x: ops.var(x, axis=(1, 2)),
    "vectorized_map": lambda x: ops.vectorized_map(lambda one: one * 2.0, x),
    "where": lambda x: ops.where(x > 0.2, x, -x),
    "while_loop": lambda x: ops.while_loop(
        lambda i, v: i < 3, lambda i, v: (i + 1, v * 0.5), (ops.zeros((), "int32"), x)
    )[1],
}
# Since Keras 3.14 or 3.15.
_LATER: dict[str, Build] = {
    "depth_to_space": lambda x: ops.depth_to_space(x, 2),
    "erfc": lambda x: ops.erfc(x),
    "space_to_depth": lambda x: ops.space_to_depth(x, 2),
}
_OPERATIONS |= {name: body for name, body in _LATER.items() if hasattr(ops, name)}


def _inputs(*shapes: Any, names: str = "abc") -> list[Any]:
    return [keras.Input(shape, name=name) for shape, name in zip(shapes, names, strict=False)]


def _several(structure: str) -> keras.Model:
    """Models whose inputs or outputs are in a structure."""
    keras.utils.set_random_seed(_SEED)
    a, b = _inputs((4,), (5,))
    mixed = layers.Concatenate()([layers.Dense(3)(a), layers.Dense(3)(b)])
    u, v, w = layers.Dense(2, name="u")(mixed), layers.Dense(3, name="v")(mixed), layers.Dense(1, name="w")(a)
    made = {
        "list to list": ([a, b], [u, v]),
        "dict to dict": ({"a": a, "b": b}, {"u": u, "v": v}),
        "to a nested dict": ([a, b], {"heads": {"u": u, "v": v}, "w": w}),
        "to nested lists": ([a, b], [u, [v, w]]),
        "dict of lists": ({"a": a, "b": b}, {"both": [u, v], "w": w}),
        "one output twice": ([a, b], {"u": u, "again": u}),
    }[structure]
    return _settled(keras.Model(*made, name="tiny"))


def _free_length(body: Build) -> Callable[[], keras.Model]:
    return lambda: _model((None, 4), body)


def _free_size(body: Build) -> Callable[[], keras.Model]:
    return lambda: _model((None, None, 3), body)


_STRUCTURES: dict[str, Callable[[], keras.Model]] = {
    f"inputs and outputs: {kind}": (lambda kind=kind: _several(kind))
    for kind in (
        "list to list",
        "dict to dict",
        "to a nested dict",
        "to nested lists",
        "dict of lists",
        "one output twice",
    )
} | {
    "free size, UpSampling2D, nearest": _free_size(
        lambda x: layers.Conv2D(2, 3)(layers.UpSampling2D()(layers.MaxPooling2D()(layers.Conv2D(4, 3)(x))))
    ),
    "free size, UpSampling2D, bilinear": _free_size(
        lambda x: layers.Conv2D(2, 3)(layers.UpSampling2D(interpolation="bilinear")(layers.Conv2D(4, 3)(x)))
    ),
    "free size, Conv2DTranspose": _free_size(lambda x: layers.Conv2DTranspose(2, 2, strides=2)(x)),
    "free size, GlobalAveragePooling2D": _free_size(
        lambda x: layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x)))
    ),
    "free length, Conv1D": _free_length(lambda x: layers.Conv1D(3, 3, padding="same")(x)),
    "free length, LSTM": _free_length(lambda x: layers.Dense(3)(layers.LSTM(4)(x))),
    "free length, MultiHeadAttention": _free_length(
        lambda x: layers.Dense(3)(layers.GlobalAveragePooling1D()(_attend(x)))
    ),
    "free length, UpSampling1D": _free_length(lambda x: layers.UpSampling1D(2)(x)),
    "nested models": _between(
        lambda x: keras.Sequential(
            [layers.Conv2D(4, 3), keras.Sequential([layers.ReLU(), layers.Conv2D(4, 3)])]
        )(x)
    ),
    "a layer called twice": _between(
        lambda x: (lambda conv: conv(conv(x)))(layers.Conv2D(4, 3, padding="same"))
    ),
    "units that never fire": _between(
        lambda x: layers.Dense(4)(x) + layers.Dense(4)(layers.ReLU()(layers.Dense(6)(x) - 100.0)), VECTOR
    ),
}

MODELS: dict[str, Callable[[], keras.Model]] = {
    **_KERNELS,
    **_ACTIVATIONS,
    **_NORMALIZATIONS,
    **_SHAPES,
    **_MERGES,
    **_ATTENTION,
    **_RECURRENT,
    **_TRAINING_ONLY,
    **_PREPROCESSING,
    **{f"ops.{name}" if name.isidentifier() else name: _between(body) for name, body in _OPERATIONS.items()},
    **_STRUCTURES,
}
