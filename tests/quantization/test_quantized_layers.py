"""What the layers of quantize_aware round, and where gradients pass."""

import keras
import numpy as np
from keras import layers

from distill import export, quantization
from distill.quantization import FakeQuantize
from distill.quantization._layers import round_kernel


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
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise", use_bias=False)
    model = keras.Sequential([keras.Input((8, 8, 4)), depthwise])
    kernel = model.get_layer("depthwise").kernel
    size = np.array([[1, 100], [0.01, 1], [10, 1], [1, 1]])
    kernel.assign(kernel * size)
    aware = quantization.quantize_aware(model, x)
    expected = round_kernel(keras.ops.reshape(kernel, (3, 3, 8)))
    reference = keras.models.clone_model(model)
    reference.set_weights([keras.ops.reshape(expected, kernel.shape)])
    rounded_input = aware.layers[1](x)
    inner = keras.Model(aware.inputs, aware.layers[2].output)
    np.testing.assert_allclose(inner.predict(x, verbose=0), reference(rounded_input), atol=1e-5)


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


def test_layers_compute_in_float32_whatever_the_policy_of_the_process(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        dense = [layers.Dense(8, "relu", dtype="float32"), layers.Dense(3, "softmax", dtype="float32")]
        student = keras.Sequential([keras.Input((4,)), *dense])
        x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
        aware = quantization.quantize_aware(student, x)
        for model in (aware, quantization.strip(aware)):
            assert {layer.compute_dtype for layer in model.layers} == {"float32"}
        export(aware, tmp_path / "m.tflite", precision="int8")
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.abs(aware(x) - student(x)).max() < 0.02
