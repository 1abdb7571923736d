"""Rules of attention over the channels and steps of plain tensors."""

import numpy as np
import pytest
from channel_cases import cut_at_random
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import cost, pruning


def model_of(attend, activation=None):
    def build(x):
        return Dense(3)(layers.Flatten()(attend(Dense(16, activation=activation, name="made")(x))))

    model = net(build, (5, 4))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def split(x, width=16):
    """Heads of a projection."""
    return ops.reshape(Dense(width)(x), (-1, 5, 2, width // 2))


CUT = {
    "attention": lambda x: layers.Attention()([x, x]),
    "attention of three": lambda x: layers.Attention(use_scale=True)([x, Dense(12)(x), Dense(16)(x)]),
    "attention by sums": lambda x: layers.Attention(score_mode="concat")([x, x]),
    "scores": lambda x: layers.Attention()([x, x], return_attention_scores=True)[1],
    "additive": lambda x: layers.AdditiveAttention()([x, x]),
    "additive of three": lambda x: layers.AdditiveAttention()([x, Dense(12)(x), Dense(16)(x)]),
    "additive without a scale": lambda x: layers.AdditiveAttention(use_scale=False)([x, x]),
    "dot": lambda x: layers.Dot(axes=2)([x, x]),
    "cosine": lambda x: layers.Dot(axes=-1, normalize=True)([x, Dense(16)(x)]),
    "dot of vectors": lambda x: layers.Dot(axes=1)([x[:, 0], x[:, 1]]),
    "with a scale": lambda x: ops.dot_product_attention(split(x), split(x), split(x), scale=0.3),
    "tensordot": lambda x: ops.tensordot(x, np.ones((16, 7), "float32"), axes=1),
    "ops.dot": lambda x: ops.dot(x, np.ones((16, 7), "float32")),
    "dots in an equation": lambda x: ops.einsum("...a,ab->...b", x, np.ones((16, 7), "float32")),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.sweep(2)
def test_channels_that_attend_are_cut(name):
    model = model_of(CUT[name])
    assert cut_at_random(model).get_layer("made").units < 16


WHOLE = {
    "not zero": (lambda x: layers.Attention()([x, x]), "sum over channels that are not zero"),
    "additive": (
        lambda x: layers.AdditiveAttention(use_scale=False)([x, x]),
        "sum over channels that are not zero",
    ),
    "dot": (lambda x: layers.Dot(axes=2)([x, x]), "it sums over channels that are not zero"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_channels_that_are_not_zero_without_weights_stay(name):
    """A sigmoid of zero is a half, which adds to every score."""
    attend, reason = WHOLE[name]
    assert reason in pruning.explain(model_of(attend, "sigmoid")).groups[0].locked


def test_a_scale_that_follows_the_width_keeps_it():
    model = model_of(lambda x: ops.dot_product_attention(split(x), split(x), split(x)))
    small = half(model)
    assert small.get_layer("made").units == 8
    locked = [group.locked for group in pruning.explain(model).groups]
    assert "it divides by the root of the width" in " ".join(locked)


def test_multiply_adds_of_attention_are_known():
    """By hand: 5 × 4 × 16 for the layer, 5 × 5 × 16 for the scores and as many for the sum, 5 × 16 × 3 for the head."""
    assert cost.macs(model_of(CUT["attention"])) == 5 * 4 * 16 + 2 * 5 * 5 * 16 + 5 * 16 * 3
    assert cost.macs(model_of(CUT["dot"])) == 5 * 4 * 16 + 5 * 5 * 16 + 25 * 3
