"""Rules of raw operations that compute: what may be summed over, and what is locked."""

import numpy as np
import pytest
from backend import since_keras
from channel_cases import cut_at_random
from keras import layers, ops
from keras.layers import Dense
from keras.src.ops import numpy as numpy_ops
from small_nets import free, half, net

from distill import pruning


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
@pytest.mark.sweep(2)
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
@pytest.mark.sweep(1)
def test_what_is_not_followed_is_locked(build, shape):
    half(net(lambda x: [build(x), Dense(3)(Dense(8)(x))], shape))


# Operations number by number, some of which older versions lack, and what they take besides channels.
NUMBER_BY_NUMBER = {
    **dict.fromkeys(("deg2rad", "erfc", "fabs", "isneginf", "isposinf", "rad2deg", "signbit", "sinc"), ()),
    **dict.fromkeys(("fmax", "fmin", "fmod", "full_like", "isclose", "logaddexp2"), (0.5,)),
    "saturate_cast": ("float16",),
}


@pytest.mark.parametrize("name", [name for name in NUMBER_BY_NUMBER if hasattr(ops, name)])
@pytest.mark.sweep(6)
def test_channels_pass_what_computes_number_by_number(name):
    def build(x):
        y = getattr(ops, name)(Dense(8, name="made")(x), *NUMBER_BY_NUMBER[name])
        return Dense(3)(ops.cast(y, "float32"))

    assert half(net(build, (6,))).get_layer("made").units == 4


def test_channels_pass_the_inverse_of_the_error_function():
    model = net(lambda x: Dense(3)(ops.erfinv(Dense(8, "tanh", name="made")(x) / 2)), (6,))
    assert half(model).get_layer("made").units == 4


# After an even number of turns Keras expects the axes exchanged as well, which is wrong unless they are as long.
@pytest.mark.parametrize(
    ("k", "axes"),
    [(0, (1, 2)), (2, (2, 1)), *((k, axes) for k in (-1, 1, 3) for axes in ((1, 2), (2, 3), (3, 1)))],
)
@pytest.mark.sweep(3)
def test_channels_turn_with_the_axes(k, axes):
    def build(x):
        return Dense(3)(layers.Flatten()(ops.rot90(Dense(8, name="made")(x), k, axes)))

    assert cut_at_random(net(build, (2, 4, 3))).get_layer("made").units < 8


def test_what_a_triangle_keeps_depends_on_the_place_of_a_channel():
    model = net(lambda x: Dense(3)(ops.triu(Dense(8, name="made")(x))), (4, 3))
    (group,) = [one for one in pruning.explain(model).groups if "made" in str(one)]
    assert group.locked == "triu: Triu reaches across this axis"


def test_what_is_wrongly_summed_is_found():
    model = net(lambda x: Dense(3)(Dense(8)(x) / by_sum(ops.exp(Dense(8)(x)))), (5, 6))
    rules = {numpy_ops.Sum: lambda call: (*call.inputs[0][:-1], None)}
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        half(model, rules=rules)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: ops.normalize(x, axis=-1),
        lambda x: x * ops.norm(x, axis=-1, keepdims=True),
        lambda x: ops.cumsum(x, axis=-1),
        lambda x: ops.cumsum(x, axis=1) + ops.sort(x, axis=1),
        lambda x: ops.cast(ops.argmax(x, axis=1), "float32") + ops.logsumexp(x, axis=1),
        lambda x: ops.add(*ops.moments(x, 1)),
        lambda x: ops.average(x, axis=1),
        lambda x: ops.quantile(x, 0.3, axis=1),
        pytest.param(
            lambda x: ops.add(*ops.unstack(ops.quantile(x, [0.3, 0.6], axis=1))),
            marks=since_keras("3.14", reason="Keras forgets that a list of quantiles makes a new axis"),
        ),
        lambda x: ops.tril(ops.transpose(ops.stack([x, 2 * x], -1), (0, 2, 1, 3)), 1),
        lambda x: ops.top_k(ops.swapaxes(x, 1, 2), 2)[0],
        lambda x: x * ops.cast(ops.any(x > 0, axis=-1, keepdims=True), "float32"),
    ],
    ids=[
        "normalize",
        "norm",
        "cumsum",
        "along",
        "picked",
        "moments",
        "average",
        "quantile",
        "quantiles",
        "tril",
        "top_k",
        "any",
    ],
)
@pytest.mark.sweep(3)
def test_what_adds_up_or_goes_along_other_axes_lets_channels_go(reduce):
    model = net(lambda x: Dense(3)(layers.Flatten()(reduce(Dense(8, name="made")(x)))), (4, 3))
    assert cut_at_random(model).get_layer("made").units < 8


def spatial_attention(x):
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="made")(x)
    seen = layers.Concatenate()([ops.mean(x, -1, keepdims=True), ops.max(x, -1, keepdims=True)])
    gate = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="gate")(seen)
    return Dense(3)(layers.GlobalAveragePooling2D()(x * gate))


def test_statistics_of_channels_are_cut_when_told():
    model = net(spatial_attention, (6, 6, 3))
    (group, *_) = pruning.explain(model).groups
    assert group.locked == "mean: Mean reaches across this axis; cut it with exact=False"
    small = half(model, exact=False, verify=False)
    made, gate = small.get_layer("made"), small.get_layer("gate")
    assert (made.filters, gate.filters) == (4, 1)
    # By hand: the mean is over the four channels that are left.
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    found = ops.convert_to_numpy(made(x))
    seen = np.stack([found.mean(-1), found.max(-1)], -1)
    pooled = (found * ops.convert_to_numpy(gate(seen))).mean((1, 2))
    head = small.layers[-1]
    np.testing.assert_allclose(
        small(x), pooled @ head.kernel.numpy() + head.bias.numpy(), rtol=1e-4, atol=1e-5
    )
