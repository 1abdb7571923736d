"""Models from quantize_aware compute what their int8 files compute, and train like any other student."""

import keras
import numpy as np
import pytest
from keras import layers

import distill
from distill import export, pruning, quantization
from distill.exports import Exported
from distill.quantization import FakeQuantize, QuantizedConv2D, QuantizedDense
from distill.training._heads import activation_of

SHAPE = (8, 8, 4)


def of(body, shape=SHAPE, name="student"):
    inputs = keras.Input(shape, name="image")
    return keras.Model(inputs, body(inputs), name=name)


def images(count=64, shape=SHAPE):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def unsettled(model):
    """Biases, normalizations' weights and statistics as after some training."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.name in ("bias", "beta", "moving_mean"):
            weight.assign(rng.normal(size=weight.shape) * 0.2)
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 2, size=weight.shape))
    return model


def ranges(model):
    return {
        layer.name: (float(layer.low), float(layer.high))
        for layer in model.layers
        if type(layer) is FakeQuantize
    }


def predicted(model, x):
    return model.predict(x, verbose=0)


def two(inputs):
    return layers.Conv2D(6, 3, padding="same")(inputs), layers.Conv2D(6, 1, activation="relu")(inputs)


def joined(inputs):
    """A branch that is read twice, a concatenation inside another, one with a pooled branch."""
    first, second = two(inputs)
    inner = layers.Concatenate()([second, layers.Conv2D(3, 1)(second)])
    outer = layers.Concatenate()([layers.Conv2D(3, 1)(first), first, inner])
    return layers.Concatenate()([outer, layers.MaxPooling2D(3, 1, padding="same")(first)])


def residual(inputs):
    total = layers.Add()(list(two(inputs)))
    return layers.Add()([total, layers.Conv2D(6, 1)(layers.ReLU()(total))])


def tokens(inputs):
    x = layers.Reshape((8, 32))(layers.Permute((2, 1, 3))(layers.Cropping2D(0)(inputs)))
    x = layers.Conv1D(8, 3, padding="causal", activation="relu")(layers.ZeroPadding1D(1)(x))
    return layers.Conv1D(4, 1)(layers.MaxPooling1D(2)(layers.Cropping1D(1)(x)))


# Each kind of layer that is known to be rounded as LiteRT does it, with what becomes part of its kernel; shallow, so
# that no error can hide behind others.
BRANCHES = {
    "strides": lambda x: layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x),
    "clamped_twice": lambda x: layers.ReLU(6.0)(layers.Conv2D(8, 3, activation="relu")(x)),
    "norm": lambda x: layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(x))),
    "depthwise": lambda x: layers.ReLU(6.0)(
        layers.BatchNormalization()(layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2)(x))
    ),
    "padded": lambda x: layers.DepthwiseConv2D(3, 2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x)),
    "grouped": lambda x: layers.Conv2D(8, 3, groups=2, activation="relu6")(x),
    "dense": lambda x: layers.Dense(10)(layers.Dropout(0.5)(layers.Flatten()(x))),
    "dense_norm": lambda x: layers.ReLU()(layers.BatchNormalization()(layers.Dense(8)(layers.Flatten()(x)))),
    "sum": lambda x: layers.Activation("relu")(layers.Add()(list(two(x)))),
    "product": lambda x: layers.Multiply()(list(two(x))),
    "difference": lambda x: layers.Activation("relu6")(layers.Subtract()(list(two(x)))),
    "residual": residual,
    "joined": joined,
    "average": lambda x: layers.AveragePooling2D(2)(layers.Conv2D(8, 3)(x)),
    "average_1d": lambda x: layers.AveragePooling1D(2)(layers.Conv1D(8, 3)(layers.Reshape((16, 16))(x))),
    "global_average": lambda x: layers.ReLU()(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(x))),
    "global_average_1d": lambda x: layers.GlobalAveragePooling1D()(layers.Reshape((16, 16))(x)),
    "global_max": lambda x: layers.Dense(4)(layers.GlobalMaxPooling2D()(x)),
    "global_max_1d": lambda x: layers.Dense(4)(layers.GlobalMaxPooling1D()(layers.Reshape((16, 16))(x))),
    "repeated": lambda x: layers.Conv1D(3, 2)(layers.RepeatVector(3)(layers.Identity()(layers.Flatten()(x)))),
    "tokens": tokens,
    "dead": lambda x: layers.Conv2D(3, 1, activation="relu", kernel_initializer="zeros")(x),
}


def everything(inputs):
    return {name: branch(inputs) for name, branch in BRANCHES.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The float network, the one that rounds, and its file."""
    keras.utils.set_random_seed(7)
    model = unsettled(of(everything))
    aware = quantization.quantize_aware(model, images())
    path = tmp_path_factory.mktemp("int8") / "everything.tflite"
    return model, aware, Exported(export(aware, path, precision="int8"))


def test_the_file_computes_what_was_promised(exported):
    _, aware, file = exported
    x = 1.5 * images(128)[::-1]  # beyond the examples too, where values are clipped
    promised, found = predicted(aware, x), file.predict(x)
    assert set(found) == set(BRANCHES)
    for name, tensor in aware.output.items():
        layer = tensor._keras_history.operation
        step = float(layer.high - layer.low) / 255 or 1.0  # nothing ever comes out of the dead one
        steps = np.abs(found[name] - promised[name]) / step
        assert steps.max() < 3.01, name  # one step of an input whose range is wider
        assert np.mean(steps > 1.01) < 0.005, name
        # LiteRT rounds halves away from zero, as averages of four often are; elsewhere they are rare.
        assert np.mean(steps > 0.01) < (0.3 if name.startswith("average") else 0.05), name
        assert np.unique(np.round(promised[name] / step)).size <= 256


def test_stripped_it_is_the_float_network_without_normalizations(exported):
    model, aware, _ = exported
    plain = quantization.strip(aware)
    assert not quantization.is_quantized(plain)
    assert quantization.is_quantized(aware)
    kinds = {type(layer).__module__.split(".")[0] for layer in plain.layers}
    assert kinds == {"keras"}
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in plain.layers)
    found, expected, rounded = (predicted(each, images()) for each in (plain, model, aware))
    for name in set(BRANCHES) - {"dead"}:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
        assert 0 < np.abs(rounded[name] - expected[name]).mean() < 0.05, name


def test_ranges_start_at_the_examples_and_follow_training():
    model = of(layers.Dense(2, name="head"), (3,))
    x = np.array([[1, 2, 3], [-4, 0, 1], [2, 2, 8]], "float32")
    aware = quantization.quantize_aware(model, x, batch_size=2)
    # Activations are not rounded yet, kernels are.
    answers = keras.ops.convert_to_numpy(aware.get_layer("head")(x))
    found = ranges(aware)
    assert found["image_int8"] == (-4, 8)
    np.testing.assert_allclose(found["head_int8"], (min(answers.min(), 0), max(answers.max(), 0)), rtol=1e-6)
    aware(x[:1], training=False)
    assert ranges(aware) == found
    aware(x[:1], training=True)
    np.testing.assert_allclose(ranges(aware)["image_int8"], (0.99 * -4, 0.99 * 8 + 0.01 * 3), rtol=1e-6)


def test_an_average_keeps_its_inputs_range_and_does_not_move_it():
    aware = quantization.quantize_aware(of(layers.AveragePooling2D(2)), images())
    (before,) = ranges(aware).values()
    np.testing.assert_allclose(before, (images().min(), images().max()))
    assert np.unique(np.round(predicted(aware, images()), 5)).size <= 256
    aware(images(), training=True)
    (after,) = ranges(aware).values()
    np.testing.assert_allclose(after, before, rtol=1e-6)  # the average itself would make it smaller


def classifier(head="softmax"):
    stack = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(3, head, name="head")]
    return keras.Sequential([keras.Input(SHAPE), *stack], name="student")


@pytest.mark.parametrize(
    ("head", "found"), [("softmax", "softmax"), ("sigmoid", "sigmoid"), (None, "linear")]
)
def test_heads_stay_what_they_are(head, found):
    aware = quantization.quantize_aware(classifier(head), images())
    assert activation_of(aware) == found
    if head is not None:
        assert aware.output_names == ["head"]


def test_a_rounding_student_is_distilled_from_its_rounded_logits(tmp_path):
    x, y = images(), np.arange(64) % 3
    aware = quantization.quantize_aware(classifier(), x)
    teacher = classifier()
    distiller = distill.Distiller(teacher, aware, distill.SoftTargets(2.0), student_loss_weight=0.5)
    distiller.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=["accuracy"])
    tapped = distiller(x[:4], training=True)
    logits = tapped.values[0]
    scale = np.subtract(*ranges(aware)["head_int8"][::-1]) / 255
    np.testing.assert_allclose(np.round(logits / scale), logits / scale, atol=1e-2)
    before = [np.array(weight) for weight in aware.trainable_weights]
    history = distiller.fit(x, y, epochs=6, batch_size=16, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert all((np.array(w) != b).any() for w, b in zip(aware.trainable_weights, before, strict=True))
    distiller.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(predicted(loaded, x), predicted(aware, x))
    assert ranges(loaded) == ranges(aware)


def test_zeros_of_a_pruned_student_stay_in_training():
    model = classifier()
    pruning.prune(model, 0.5)
    aware = quantization.quantize_aware(model, images())
    pruning.keep_zeros(aware)
    aware.compile("adam", "sparse_categorical_crossentropy")
    aware.fit(images(), np.arange(64) % 3, epochs=2, verbose=0)
    for layer in aware.layers:
        if type(layer) in (QuantizedConv2D, QuantizedDense):
            kernel, rounded = np.array(layer._kernel), np.array(layer.kernel)
            assert np.mean(kernel == 0) == 0.5
            assert (rounded[kernel == 0] == 0).all()
            assert np.abs(rounded - kernel).max() > 0


def test_nested_models_become_part_of_it():
    backbone = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(), layers.ReLU()],
        name="backbone",
    )
    model = unsettled(
        keras.Sequential(
            [keras.Input(SHAPE), backbone, layers.Flatten(), layers.Dense(3, name="conv")], name="student"
        )
    )
    aware = quantization.quantize_aware(model, images())
    assert {"backbone_conv", "conv"} <= {layer.name for layer in aware.layers}
    np.testing.assert_allclose(
        predicted(quantization.strip(aware), images()), predicted(model, images()), atol=1e-5
    )


def test_shared_layers_stay_shared():
    def body(inputs):
        conv = layers.Conv2D(4, 3, padding="same", name="shared")
        return layers.Add()([conv(inputs), conv(layers.ReLU()(inputs))])

    aware = quantization.quantize_aware(of(body), images())
    assert len(aware.trainable_weights) == 2


def test_several_inputs_and_outputs_keep_their_names():
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((5,), name="a")}
    joined = layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {"digit": layers.Dense(3)(joined), "even": layers.Dense(1, "sigmoid")(joined)}
    model = keras.Model(inputs, outputs)
    x = {"a": images(8, (5,)), "b": images(8, (3,))}
    aware = quantization.quantize_aware(model, x)
    found, expected = aware.predict(x, verbose=0), model.predict(x, verbose=0)
    assert list(found) == list(expected)
    np.testing.assert_allclose(found["digit"], expected["digit"], atol=0.2)


def test_the_model_is_left_alone():
    model = unsettled(of(everything))
    before = model.get_config(), [len(layer._inbound_nodes) for layer in model.layers], model.get_weights()
    quantization.quantize_aware(model, images(4))
    assert model.get_config() == before[0]
    assert [len(layer._inbound_nodes) for layer in model.layers] == before[1]
    for weight, old in zip(model.get_weights(), before[2], strict=True):
        np.testing.assert_array_equal(weight, old)


@pytest.mark.slow
def test_a_concatenation_that_integers_cannot_hold_is_named(tmp_path):
    inputs = keras.Input((4, 4, 4))
    shared = layers.Conv2D(4, 3, padding="same", activation="relu")
    joined = layers.Concatenate()([shared(inputs), layers.MaxPooling2D(1)(shared(inputs)), inputs])
    x = 3 * np.random.default_rng(0).normal(size=(8, 4, 4, 4)).astype("float32")
    aware = quantization.quantize_aware(keras.Model(inputs, joined), x)
    with pytest.raises(ValueError, match="the inputs of a concatenation share one scale"):
        export(aware, tmp_path / "m.tflite", precision="int8")


def test_names_that_would_meet_are_numbered():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, "relu", name="conv")], name="a")
    inputs = keras.Input((8,), name="in")
    x = layers.Dense(8, name="out_logits")(layers.Dense(8, name="a_conv_int8")(inner(inputs)))
    x = layers.Dense(8, "relu", name="a_conv")(x)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="out")(x))
    aware = quantization.quantize_aware(model, np.ones((4, 8), "float32"))
    names = [layer.name for layer in aware.layers]
    assert {"a_conv", "a_conv_2", "a_conv_int8", "out", "out_logits", "out_logits_2"} <= set(names)
    x = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    np.testing.assert_allclose(predicted(quantization.strip(aware), x), predicted(model, x), atol=1e-6)


def test_a_head_that_two_outputs_share():
    head = keras.Sequential([keras.Input((6,)), layers.Dense(8), layers.ReLU(), layers.Dense(3, "softmax")])
    one, other = keras.Input((6,)), keras.Input((6,))
    model = keras.Model([one, other], [head(one), head(other)])
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    aware = quantization.quantize_aware(model, [x, x[::-1]])
    for found, expected in zip(
        aware.predict([x, x[::-1]], verbose=0), model.predict([x, x[::-1]], verbose=0), strict=True
    ):
        assert 0 < np.abs(found - expected).max() < 0.05
