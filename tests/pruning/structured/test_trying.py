"""Activations are tried: what treats positions alike, each by itself, may lose some."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import pruning
from distill.pruning.structured._trying import tried


@keras.saving.register_keras_serializable("test_trying")
class OwnSwish(layers.Layer):
    def call(self, x):
        return x * ops.sigmoid(x)


@keras.saving.register_keras_serializable("test_trying")
class Learned(layers.Layer):
    def build(self, shape):
        self.slope = self.add_weight(shape=(), name="slope")

    def call(self, x):
        return x * ops.sigmoid(self.slope * x)


def own_mish(x):
    return x * ops.tanh(ops.softplus(x))


def gained(x):
    return x * np.linspace(1, 2, 16, dtype="float32")


def high_only(x):
    return ops.where(x > 5.0, x, 0.0)


def by_largest(x):
    return x / (1 + ops.max(ops.abs(x), axis=-1, keepdims=True))


def along_positions(x):
    return ops.softmax(x, axis=1)


def shifted(x):
    return ops.roll(x, 1, axis=-1)


def ordered(x):
    return x * ops.arange(1, x.shape[-1] + 1, dtype=x.dtype)


APART = [
    *(own_mish, high_only, ops.leaky_relu, ops.sin, "exponential", "hard_swish", None, along_positions),
    *(layers.ReLU(6.0), layers.LeakyReLU(), OwnSwish()),
]
TOGETHER = {
    "softmax": "softmax reaches across this axis",
    by_largest: "by_largest reaches across this axis",
    shifted: "shifted does not treat all positions|shifted reaches",
    ordered: "ordered does not treat all positions of this axis alike",
    gained: "gained cannot run on fewer positions",
    layers.Softmax(): "Softmax reaches across this axis",
    Learned(): "Learned cannot be tried: it has weights, and no rule is known for it",
}
PLACES = {
    "dense": lambda function: Dense(16, activation=function, name="made"),
    "conv": lambda function: layers.Conv1D(16, 2, activation=function, name="made"),
    "activation": lambda function: keras.Sequential(
        [keras.Input((6, 5)), Dense(16, name="made"), layers.Activation(function)]
    ),
}


def named(function):
    return getattr(function, "__name__", None) or (
        function if isinstance(function, str) else type(function).__name__
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("function", APART, ids=named)
@pytest.mark.sweep(3)
def test_channels_before_what_works_by_position_are_cut(function, place):
    model = net(lambda x: Dense(3)(PLACES[place](function)(x)), (6, 5))
    small = half(model)
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize("function", TOGETHER, ids=named)
def test_channels_before_anything_else_stay_and_the_reason_is_true(function):
    for place in PLACES.values():
        model = net(lambda x, place=place: Dense(3)(place(function)(x)), (6, 5))
        (group, _) = pruning.explain(model).groups
        assert group.atoms.size == 0
        assert any(reason in group.locked for reason in TOGETHER[function].split("|")), group.locked


@pytest.mark.parametrize("axes", [None, [1, 2]])
def test_layers_with_weights_are_activations_too(axes):
    def build(x):
        x = layers.Conv2D(8, 3, activation=layers.PReLU(shared_axes=axes, name="slope"), name="made")(x)
        return Dense(3)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(x)))

    model = net(build, (6, 6, 3))
    slope = model.get_layer("made").activation
    assert half(model).get_layer("made").filters == 4  # it has no weights yet
    model(np.ones((1, 6, 6, 3)))
    slope.alpha.assign(np.random.default_rng(0).normal(size=slope.alpha.shape))
    small = half(model).get_layer("made")
    assert small.activation.alpha.shape == (1, 1, 4) if axes else (4, 4, 4)
    assert np.isin(small.activation.alpha, slope.alpha).all()


def test_recurrent_layers_try_what_their_gates_apply():
    cut = net(lambda x: Dense(3)(layers.GRU(8, activation=own_mish, name="made")(x)), (6, 5))
    assert half(cut).get_layer("made").units == 4
    whole = net(lambda x: Dense(3)(layers.LSTM(8, recurrent_activation="softmax", name="made")(x)), (6, 5))
    assert pruning.explain(whole).groups[0].locked == "made: softmax reaches across this axis"


def test_every_axis_is_tried_apart():
    assert tried(along_positions, (None, 6, 5), with_weights=False).apart == (True, False, True)
    assert tried(by_largest, (None, 6, 5), with_weights=False).apart == (True, True, False)
    assert tried(own_mish, (None, 400, 400, 64), with_weights=False).apart == (True,) * 4
    assert tried(own_mish, (None, 5), with_weights=False).vanishes
    assert not tried(ops.exp, (None, 5), with_weights=False).vanishes
