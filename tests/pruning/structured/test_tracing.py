"""The walk over the graph: nested models, layers that are called again, layers without a rule."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import pruning


def test_a_nested_model_takes_its_inputs_by_name():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    inner = keras.Model([b, a], layers.Add()([Dense(3, name="ia")(a), Dense(3, name="ib")(b)]), name="inner")
    x, y = keras.Input((5,)), keras.Input((5,))
    made = Dense(8, name="da"), Dense(8, name="db")
    model = keras.Model([x, y], inner({"a": made[0](x), "b": made[1](y)}))
    for dense, reader, alive in zip(made, ("ia", "ib"), (np.arange(8) > 3, np.arange(8) < 4), strict=True):
        dense.kernel.assign(dense.kernel * alive)
        inner.get_layer(reader).kernel.assign(inner.get_layer(reader).kernel * alive[:, None])
    examples = [np.ones((1, 5), "float32")] * 2
    np.testing.assert_allclose(half(model)(examples), model(examples), rtol=1e-6)


def test_layers_that_are_called_at_two_widths_have_one_config():
    shape = layers.Reshape((2, 4))
    half(
        net(lambda x: Dense(3)(layers.Flatten()(shape(x) + shape(Dense(8)(x)))) + Dense(3)(Dense(6)(x)), (8,))
    )
    norm = layers.GroupNormalization(4, scale=False, center=False)
    half(net(lambda x: Dense(3)(norm(x) + norm(Dense(8)(x))) + Dense(3)(Dense(6)(x)), (8,)))
    slope = layers.PReLU()
    half(net(lambda x: Dense(3)(slope(x) + slope(Dense(8)(x))) + Dense(3)(Dense(6)(x)), (8,)))


def test_constants_of_nested_models_are_those_of_all_calls():
    inputs = keras.Input((8,))
    inner = keras.Model(inputs, ops.matmul(inputs, np.ones((8, 8), "float32")), name="inner")

    def build(x):
        return Dense(3)(inner(inner(Dense(8)(x))) + Dense(8)(x))

    half(net(build, (4,)))


def test_a_taught_layer_with_weights_is_cut():
    @keras.saving.register_keras_serializable("test_tracing")
    class Gain(layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=shape[-1:], initializer="random_normal", name="gain")

        def call(self, x):
            return x * self.gain

    def rule(call):
        (gain,) = call.weight(call.operation.gain, scales=[0])
        call.unite(gain, call.inputs[0][-1])
        return call.inputs[0]

    model = keras.Sequential([keras.Input((6,)), layers.Dense(16), Gain(), layers.Dense(3)])
    with pytest.raises(ValueError, match="Nothing in '.*' can be removed: dense"):
        pruning.prune_channels(model, 0.5)
    small = pruning.prune_channels(model, 0.5, rules={Gain: rule}, verify=True)
    assert small.layers[1].gain.shape == (8,)


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="only be found in the graph"):
        pruning.prune_channels(Own(), 0.5)
