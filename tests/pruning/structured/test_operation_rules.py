"""Rules of raw operations that compute: what may be summed over, and what is locked."""

import numpy as np
import pytest
from keras import layers, ops
from keras.layers import Dense
from keras.src.ops import numpy as numpy_ops
from small_nets import free, half, net


def by_sum(h):
    return ops.sum(h, axis=-1, keepdims=True)


def by_product(h):
    return ops.sum(ops.matmul(h, ops.swapaxes(h, 1, 2)), axis=-1, keepdims=True)


def by_einsum(h):
    return ops.einsum("btc,btc->bt", h, h)[..., None]


@pytest.mark.parametrize(
    ("function", "vanishes"),
    [
        (ops.exp, False),
        (ops.sigmoid, False),
        (layers.Activation("softplus"), False),
        (layers.Rescaling(2.0, 1.0), False),
        (lambda h: h + 1.0, False),
        (lambda h: ops.transpose(ops.exp(ops.transpose(h, (0, 2, 1))), (0, 2, 1)), False),
        (lambda h: ops.exp(h) * ops.exp(-h), False),
        (layers.Softmax(axis=1), False),
        (lambda h: ops.pad(h, [[0, 0], [1, 0], [0, 0]], constant_values=1.0)[:, :5], False),
        (lambda h: ops.pad(h, [[0, 0], [1, 0], [0, 0]])[:, :5], True),
        (lambda h: Dense(5)(h + 1.0), True),
        (ops.square, True),
        (ops.relu, True),
        (lambda h: ops.exp(h) * h, True),
        (lambda h: ops.tanh(h) * np.linspace(1, 2, 8, dtype="float32"), True),
        (layers.BatchNormalization(), True),
    ],
)
def test_what_sums_channels_loses_those_that_are_zero(function, vanishes):
    def build(x, summing):
        h = function(Dense(8, bias_initializer="ones", name="made")(x))
        return Dense(3)(ops.concatenate([Dense(8)(x), summing(h)], axis=-1))

    for summing in (by_sum, by_product, by_einsum):
        model = net(lambda x, summing=summing: build(x, summing), (5, 6))
        assert (free(model, "made") > 0) == vanishes
    half(model)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda x: layers.Bidirectional(layers.RNN(layers.LSTMCell(4)))(Dense(8)(x)), (5, 3)),
        (lambda x: ops.cast(ops.count_nonzero(Dense(8)(x), axis=1), "float32"), (5, 3)),
        (lambda x: ops.softmax(Dense(8)(x), axis=None), (5, 3)),
    ],
)
def test_what_is_not_followed_is_locked(build, shape):
    half(net(lambda x: [build(x), Dense(3)(Dense(8)(x))], shape))


def test_what_is_wrongly_summed_is_found():
    model = net(lambda x: Dense(3)(Dense(8)(x) / by_sum(ops.exp(Dense(8)(x)))), (5, 6))
    rules = {numpy_ops.Sum: lambda call: (*call.inputs[0][:-1], None)}
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        half(model, rules=rules)
