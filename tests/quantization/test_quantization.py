import keras
import numpy as np
import pytest
from keras import layers

import distill
from distill import export, pruning, quantization
from distill.exports import Exported
from distill.quantization._layers import FakeQuantize, QuantizedConv2D, QuantizedDense, round_kernel
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


def test_kernels_take_254_steps_a_channel_and_zeros_stay():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 4)).astype("float32") * [1, 10, 0.1, 0]
    kernel[0, 0] = 0
    found = keras.ops.convert_to_numpy(round_kernel(kernel.astype("float32")))
    scale = np.abs(kernel).max((0, 1, 2)) / 127
    expected = np.round(kernel / np.where(scale, scale, 1)) * scale
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(kernel).max())
    assert (found[0, 0] == 0).all()
    assert np.abs(np.round(found[..., :3] / scale[:3])).max() == 127


def test_filters_of_a_depthwise_kernel_have_a_scale_each():
    model = of(layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise", use_bias=False))
    kernel = model.get_layer("depthwise").kernel
    size = np.array([[1, 100], [0.01, 1], [10, 1], [1, 1]])
    kernel.assign(kernel * size)
    aware = quantization.quantize_aware(model, images())
    expected = round_kernel(keras.ops.reshape(kernel, (3, 3, 8)))
    reference = of(layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False))
    reference.set_weights([keras.ops.reshape(expected, kernel.shape)])
    rounded_input = aware.layers[1](images())
    inner = keras.Model(aware.inputs, aware.layers[2].output)
    np.testing.assert_allclose(predicted(inner, images()), reference(rounded_input), atol=1e-5)


def test_activations_take_256_steps_over_a_range_with_zero():
    layer = FakeQuantize()
    layer(np.zeros((1, 1), "float32"))
    layer.widen(np.array([[1.0, 3.0]], "float32"))
    assert (float(layer.low), float(layer.high)) == (0, 3)
    layer.widen(np.array([[-1.0, 2.0]], "float32"))
    x = np.linspace(-2, 4, 1001).astype("float32")
    found = keras.ops.convert_to_numpy(layer(x))
    scale = 4 / 255
    zero = round(1 / scale)
    expected = (np.clip(np.round(x / scale), -zero, 255 - zero)) * scale
    assert np.mean(np.abs(found - expected) < 1e-5) > 0.98  # the rest lies half-way
    np.testing.assert_allclose(found, expected, atol=1.01 * scale)
    assert np.unique(found).size == 256
    assert 0.0 in found


def test_gradients_pass_where_nothing_was_clipped():
    import tensorflow as tf

    layer = FakeQuantize()
    layer(np.zeros((1, 1), "float32"))
    layer.widen(np.array([-1.0, 1.0], "float32"))
    x = tf.constant([-1.5, -0.5, 0.3, 1.5])
    kernel = tf.constant([[0.3, -2.0], [-1.0, 0.5]])
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        total = tf.reduce_sum(layer(x) * [1.0, 2.0, 3.0, 4.0]) + tf.reduce_sum(
            round_kernel(kernel) * [[5.0, 6.0], [7.0, 8.0]]
        )
    of_x, of_kernel = tape.gradient(total, [x, kernel])
    np.testing.assert_array_equal(of_x, [0, 2, 3, 0])
    np.testing.assert_allclose(of_kernel, [[5, 6], [7, 8]])


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
            r"never guessed\. Received: 'ln', a LayerNormalization\. Known",
        ),
        (layers.ReLU(3.0, name="three"), r"Received: 'three', a ReLU"),
        (layers.ReLU(negative_slope=0.1, name="leaky"), r"Received: 'leaky', a ReLU"),
        (lambda x: keras.ops.add(x, x), "never guessed"),
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
        (layers.Dense(4, name="deep"), r"unless its inputs are .*'deep' on \(None, 8, 8, 4\)\. Use Conv1D"),
        (lambda x: layers.Add(name="sum")([x, x, x]), r"'sum', a Add of 3 inputs"),
        (layers.BatchNormalization(name="norm"), r"Received: 'norm' after 'image', a InputLayer"),
        (
            lambda x: layers.BatchNormalization(name="norm")(
                layers.Conv2D(4, 3, activation="relu", name="c")(x)
            ),
            r"Received: 'norm' after 'c', a Conv2D\. Move the activation",
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
