"""Models that leave sizes open: a number or examples tell them, to count and to time."""

import keras
import numpy as np
import pytest
from keras import layers

from distill import cost, pruning


def text(width=8):
    """Tokens of any number, their mean beside three features."""
    tokens, features = keras.Input((None,), dtype="int32", name="tokens"), keras.Input((3,), name="features")
    x = layers.Conv1D(6, 3, strides=2, name="conv")(layers.Embedding(9, width)(tokens))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.Concatenate()([layers.LSTM(8, name="lstm")(x), layers.Dense(4)(features)])
    return keras.Model({"tokens": tokens, "features": features}, layers.Dense(2)(x))


def by_hand(length, width=8):
    steps = (length - 3) // 2 + 1
    attention = steps * (4 * 6 * 8) + 2 * steps * steps * 8
    return steps * 3 * width * 6 + attention + steps * (6 * 32 + 8 * 32) + 3 * 4 + 12 * 2


EXAMPLES = {"tokens": np.zeros((2, 21), "int32"), "features": np.zeros((2, 3))}


@pytest.mark.parametrize(("lengths", "length"), [(21, 21), (9, 9), (EXAMPLES, 21)])
def test_multiply_adds_are_those_of_a_length(lengths, length):
    model = text()
    assert cost.macs(model, lengths=lengths) == by_hand(length)
    profile = cost.profile(model, lengths=lengths)
    assert profile.macs == by_hand(length)
    assert profile.activations is not None
    assert cost.profile(model).macs is None


def test_a_model_of_open_length_is_timed_at_a_length():
    model = text()
    nodes = [len(layer._inbound_nodes) for layer in [model, *model.layers]]
    assert cost.latency(model, cost.TFFunction(), runs=2, lengths=12).median_ms > 0
    found = cost.profile(model, latency=[cost.TFFunction()], runs=2, lengths=12)
    assert next(iter(found.latencies.values())) is not None
    assert [len(layer._inbound_nodes) for layer in [model, *model.layers]] == nodes
    with pytest.raises(ValueError, match="Give them with lengths="):
        cost.latency(model, cost.TFFunction(), runs=2)


def test_a_target_is_that_of_a_length():
    model = text()
    small = pruning.prune_channels(model, macs=0.5, round_to=1, lengths=EXAMPLES, verify=EXAMPLES)
    kernels = [cost.calls_of(one, lengths=21).products.weights for one in (small, model)]
    assert abs(kernels[0] / kernels[1] - 0.5) <= 0.02 * 0.5
    assert small.input_shape == model.input_shape  # any length still
    rounds = pruning.prune_channels(model, macs=0.5, round_to=1, lengths=21, rounds=2)
    assert abs(cost.calls_of(rounds, lengths=21).products.weights / kernels[1] - 0.5) <= 0.02 * 0.5
    with pytest.raises(ValueError, match="Give them with lengths="):
        pruning.prune_channels(model, macs=0.5)


def test_what_is_open_at_several_axes_follows_the_examples():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs)))
    assert cost.macs(model, lengths=np.zeros((1, 8, 10, 3))) == 6 * 8 * 27 * 4
    assert cost.macs(model, lengths=8) == 6 * 6 * 27 * 4


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (0, ValueError, "lengths must be at least 1. Received: lengths=0"),
        (True, TypeError, "a number for every size that the model leaves open"),
        ("long", TypeError, "a number for every size that the model leaves open"),
        ({"tokens": np.zeros((2, 21))}, ValueError, "must fit the inputs of the model"),
        ({"tokens": np.zeros((2, 21)), "features": np.zeros((2, 4))}, ValueError, "must fit the inputs"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, error, message):
    with pytest.raises(error, match=message):
        cost.macs(text(), lengths=lengths)
