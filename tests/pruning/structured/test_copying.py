"""State that goes with the layers of the smaller model: vocabularies, statistics, flags, quantized weights."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import Dense
from small_nets import half, net

from distill import pruning


def test_what_a_layer_has_adapted_to_is_kept():
    x = np.random.default_rng(0).normal(5, 3, (100, 6)).astype("float32")
    adapted = layers.Normalization()
    adapted.adapt(x)
    model = keras.Sequential([keras.Input((6,)), adapted, Dense(16), Dense(3)])
    np.testing.assert_array_equal(half(model).layers[0](x), adapted(x))
    words = layers.StringLookup(name="words")
    words.set_vocabulary(["c", "d", "e"])
    inputs = keras.Input((2,), dtype="string")
    model = keras.Model(inputs, Dense(3)(layers.Flatten()(layers.Embedding(5, 8)(words(inputs)))))
    small = pruning.prune_channels(model, 0.5)
    assert small.get_layer("words").get_vocabulary() == words.get_vocabulary()
    with pytest.raises(ValueError, match="Random examples can only be numbers"):
        half(model)


def test_flags_of_single_weights_are_kept():
    model = keras.Sequential([keras.Input((4,)), Dense(8, name="one"), Dense(3)])
    model.get_layer("one").kernel.trainable = False
    assert len(half(model).trainable_variables) == len(model.trainable_variables) == 3
    attention = layers.MultiHeadAttention(4, 4, name="attention")
    model = net(lambda x: Dense(3)(attention(x, x)), (5, 6))
    attention._query_dense.trainable = False
    assert len(half(model).trainable_variables) == len(model.trainable_variables)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.sweep(1)
def test_beside_quantized_layers_others_are_cut(mode, bias):
    model = net(
        lambda x: Dense(3)(Dense(12, name="free")(Dense(8, use_bias=bias, name="q")(Dense(16)(x)))), (6,)
    )
    model.get_layer("q").quantize(mode)
    small = half(model)
    assert small.get_layer("free").units == 6
    assert small.get_layer("q").quantization_mode == mode
    there, here = ({w.path: w.numpy() for w in one.get_layer("q").variables} for one in (model, small))
    assert there.keys() == here.keys()
    assert all(np.array_equal(value, here[path]) for path, value in there.items())


def test_the_scale_of_lora_stays():
    stack = [Dense(16, "relu"), Dense(8, "relu"), Dense(3, name="adapted")]
    model = keras.Sequential([keras.Input((6,)), *stack])
    adapted = model.get_layer("adapted")
    adapted.enable_lora(2, lora_alpha=16)
    adapted.lora_kernel_b.assign(np.ones(adapted.lora_kernel_b.shape))
    small = pruning.prune_channels(model, 0.5, verify=True)
    assert small.get_layer("adapted").lora_alpha == 16
