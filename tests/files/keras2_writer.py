"""Write models of Keras 2 (tf_keras) in every format that it has; run as `python keras2_writer.py FOLDER`.

For each model NAME: NAME.h5, .keras, .json, .weights.h5, NAME_weights.h5, the TensorFlow checkpoint NAME.ckpt, and
NAME.npz with inputs (in_0, …)
and outputs (out_0, …, and those of the model that distill made of it in memory, live_0, …).
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

import distill


def sequential():
    stack = [layers.Dense(8, "relu", input_shape=(6,)), layers.BatchNormalization(), layers.Dropout(0.5)]
    return tf_keras.Sequential([*stack, layers.Dense(3, "softmax")])


def deferred():
    model = tf_keras.Sequential([layers.Dense(5, "tanh"), layers.Dense(3)])
    model(np.zeros((2, 6), "float32"))
    return model


def convolutional():
    inputs = tf_keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem/conv")(inputs)
    x = shortcut = layers.ReLU(6.0)(layers.BatchNormalization(name="stem/norm")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.LeakyReLU(alpha=0.2)(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(6, 3, padding="same", activation="swish")(x)
    x = layers.Add()([x, shortcut])
    x = layers.Conv2DTranspose(4, 2, strides=2)(layers.MaxPooling2D()(x))
    x = layers.GlobalAveragePooling2D()(layers.ZeroPadding2D()(x))
    return tf_keras.Model(inputs, layers.Dense(3, "softmax", name="predictions")(x))


def recurrent():
    inputs = tf_keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 4, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = layers.GRU(5, return_sequences=True)(x)
    x = layers.TimeDistributed(layers.Dense(4, "tanh"))(x)
    x, *state = layers.LSTM(4, recurrent_activation="hard_sigmoid", return_sequences=True, return_state=True)(
        x
    )
    x = layers.LSTM(4, return_sequences=True)(x, initial_state=state)
    x = layers.GRU(4, return_sequences=True, reset_after=False)(x)
    return tf_keras.Model(inputs, layers.Dense(2, "sigmoid")(layers.SimpleRNN(3)(x)))


def nested():
    part = tf_keras.Input((6,))
    hidden = layers.BatchNormalization()(layers.Dense(6, "relu")(part))
    base = tf_keras.Model(part, layers.BatchNormalization()(layers.Dense(6)(hidden)), name="base")
    base.trainable = False
    inner = tf_keras.Sequential([layers.Dense(4, "relu", input_shape=(6,)), layers.BatchNormalization()])
    inputs = tf_keras.Input((6,))
    model = tf_keras.Sequential([inner, layers.Dense(4, name="wide")], name="outer")
    return tf_keras.Model(inputs, layers.Dense(3)(model(base(inputs))))


def shared():
    """A layer called twice, two inputs and outputs, and two layers of one shape, called in another order than made."""
    left, right = tf_keras.Input((6,), name="left"), tf_keras.Input((6,), name="right")
    both = layers.Dense(6, "relu", name="both")
    late, early = layers.Dense(6, name="zulu"), layers.Dense(6, name="alpha")
    a, b = early(both(left)), late(both(right))
    difference = layers.Subtract()([a, b])
    return tf_keras.Model(
        [left, right], [layers.Dense(3, name="first")(difference), layers.Dense(3, name="second")(b)]
    )


def attention():
    inputs = tf_keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, inputs]))
    return tf_keras.Model(inputs, layers.Dense(3, "softmax")(layers.Flatten()(layers.PReLU()(x))))


def filmed():
    """Layers with settings that Keras 3 no longer has."""
    inputs = tf_keras.Input((3, 8, 8, 2))
    x = layers.ConvLSTM2D(3, 2)(inputs)
    for random in (layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.1)):
        x = random(x)
    x = layers.RandomTranslation(0.1, 0.1)(layers.RandomContrast(0.1)(x))
    state = [layers.Dense(4)(layers.Flatten()(x)) for _ in range(4)]
    x = layers.Bidirectional(layers.LSTM(4))(layers.Reshape((7, 21))(x), initial_state=state)
    levels = layers.Discretization(bin_boundaries=[-0.1, 0.1])(x)
    return tf_keras.Model(
        inputs, layers.Dense(3)(layers.Add()([x, layers.Flatten()(layers.Embedding(3, 1)(levels))]))
    )


def changed():
    """Layers that Keras 3 has under other names, with other settings, or with another behaviour."""
    inputs = tf_keras.Input((12, 10, 3))
    x = layers.RandomCrop(8, 8)(layers.RandomBrightness(0.2, value_range=(0, 1))(inputs))
    x = layers.ThresholdedReLU(theta=0.3)(layers.SpatialDropout2D(0.2, data_format="channels_last")(x))
    x = layers.Reshape((2, 4, 8, 3))(layers.BatchNormalization(axis=-1)(layers.Conv2D(3, 1, name="mixed")(x)))
    x = layers.SpatialDropout1D(0.2)(layers.Reshape((8, 24))(layers.SpatialDropout3D(0.2)(x)))
    return tf_keras.Model(inputs, layers.Dense(3)(layers.GlobalMaxPooling1D()(x)))


def named():
    """Models that are called on inputs by name."""
    two = {name: tf_keras.Input((6,), name=name) for name in "ab"}
    inner = tf_keras.Model(two, layers.Dense(4)(layers.Subtract()([two["a"], two["b"]])), name="inner")
    one = tf_keras.Input((6,), name="only")
    normalized = tf_keras.Model({"only": one}, layers.BatchNormalization()(layers.Dense(4)(one)), name="one")
    left, right = tf_keras.Input((6,), name="left"), tf_keras.Input((6,), name="right")
    x = layers.Add()(
        [inner({"a": left, "b": right}, training=False), normalized({"only": right}, training=False)]
    )
    return tf_keras.Model([left, right], layers.Dense(3)(x))


MODELS = (sequential, deferred, convolutional, recurrent, nested, shared, attention, filmed, changed, named)


def adapted():
    """Layers that have learned words or bounds: what makes each, and what its model gets."""
    texts = np.array(["b a b", "c b", "d"])
    words = np.array([["a", "b"], ["b", "c"]])
    yield layers.TextVectorization(output_sequence_length=4), texts, texts
    yield layers.TextVectorization(output_mode="tf_idf"), texts, texts
    yield layers.TextVectorization(output_mode="count", ngrams=2, split="character"), texts, texts
    yield layers.StringLookup(num_oov_indices=2), words, words
    yield layers.StringLookup(output_mode="tf_idf", max_tokens=8, pad_to_max_tokens=True), words, words
    yield layers.IntegerLookup(mask_token=0), np.array([[4, 7, 7]]), np.array([[7, 0, 9]])
    yield (
        layers.Discretization(num_bins=3),
        np.arange(30.0)[:, None],
        np.array([[3.0, 12.0, 29.0]], "float32"),
    )


def write_adapted(folder):
    """Outputs of models whose layers have learned, and those of what distill makes of them in memory."""
    for number, (layer, seen, inputs) in enumerate(adapted()):
        layer.adapt(seen)
        shape = (1,) if inputs.ndim == 1 else inputs.shape[1:]
        dtype = "string" if inputs.dtype.kind == "U" else inputs.dtype
        inside = tf_keras.Sequential([tf_keras.Input(shape, dtype=dtype), layer])
        model = tf_keras.Sequential([tf_keras.Input(shape, dtype=dtype), inside])
        x = tf.constant(inputs.reshape(-1, *shape))
        np.savez(folder / f"adapted_{number}.npz", out=model(x), live=distill.load_model(model)(x))


def main(folder):
    """Write all models, with weights that are all different."""
    rng = np.random.default_rng(0)
    for make in MODELS:
        name, model = make.__name__, make()
        for weight in model.weights:
            low = 0.5 if "variance" in weight.name else -0.5
            weight.assign(rng.uniform(low, low + 1.0, weight.shape))
        inputs = [
            rng.integers(1, 20, (4, *shape[1:])) if name == "recurrent" else rng.normal(size=(4, *shape[1:]))
            for shape in ([model.input_shape] if isinstance(model.input_shape, tuple) else model.input_shape)
        ]
        inputs = [x.astype("int32" if name == "recurrent" else "float32") for x in inputs]
        # Random layers of Keras 2 assume training unless they are told otherwise.
        outputs = model(inputs[0] if len(inputs) == 1 else inputs, training=False)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        live = distill.load_model(model)(inputs[0] if len(inputs) == 1 else inputs, training=False)
        live = live if isinstance(live, list) else [live]
        named = {"in": inputs, "out": outputs, "live": live}
        arrays = {f"{key}_{i}": array for key, listed in named.items() for i, array in enumerate(listed)}
        np.savez(folder / f"{name}.npz", **arrays)
        model.compile("adam", "mse")
        for ending in (".h5", ".keras"):
            model.save(folder / f"{name}{ending}")
        for ending in ("_weights.h5", ".weights.h5", ".ckpt"):
            model.save_weights(folder / f"{name}{ending}")
        (folder / f"{name}.json").write_text(model.to_json())
        if name in ("sequential", "shared"):
            model.save(folder / f"{name}_saved_model", save_format="tf")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    write_adapted(Path(sys.argv[1]))
