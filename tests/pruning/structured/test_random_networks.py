"""Structured pruning of networks that hypothesis grows at random."""

import hypothesis
import keras
import pytest
from channel_cases import RULES, dense_head, some_of
from hypothesis import strategies
from keras import layers, ops

from distill import cost
from distill.pruning.structured._costs import macs_of, parameters_of
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._tracing import read
from distill.pruning.structured._verification import largest_error


def grown_sequence(choices):
    """As `grown`, a network of 6 steps of 4 numbers."""
    inputs = keras.Input((6, 4))
    tensors = [layers.Dense(4)(inputs)]
    for what, one, other, width in choices:
        a, b = tensors[one % len(tensors)], tensors[other % len(tensors)]
        if what == "dense":
            made = layers.Dense(2 * width, activation="tanh")(a)
        elif what == "recurrent":
            made = (layers.LSTM, layers.GRU, layers.SimpleRNN)[width % 3](width + 1, return_sequences=True)(a)
        elif what == "both ways":
            made = layers.Bidirectional(layers.GRU(width, return_sequences=True))(a)
        elif what == "attention":
            made = layers.MultiHeadAttention(1 + width % 3, 2)(a, b)
        elif what == "norm":
            made = layers.LayerNormalization()(a)
        elif what == "heads":
            wide = layers.Dense(2 * width)(a)
            made = ops.reshape(
                ops.transpose(ops.reshape(wide, (-1, 6, 2, width)), (0, 1, 3, 2)), (-1, 6, 2 * width)
            )
        elif what == "each":
            made = layers.TimeDistributed(layers.Dense(width + 1))(a)
        elif what == "inside":
            part = keras.Input((6, a.shape[-1]))
            nested = keras.Model(part, layers.Dense(a.shape[-1])(layers.Dense(width + 2)(part)))
            made = layers.Add()([nested(a), a])
        else:
            made = layers.Concatenate()([a, b])
        tensors.append(made)
    outputs = dense_head(layers.GlobalAveragePooling1D()(layers.Concatenate()(tensors[-2:])))
    return keras.Model(inputs, {"head": outputs, "steps": [layers.Dense(2)(tensors[-1])]})


def grown(choices):
    """A network of 6 × 6 images that random numbers describe: (what is added, two earlier tensors, a width)."""
    inputs = keras.Input((6, 6, 4))
    tensors = [layers.Conv2D(4, 1)(inputs)]
    for what, one, other, width in choices:
        a, b = tensors[one % len(tensors)], tensors[other % len(tensors)]
        if what == "conv":
            made = layers.Conv2D(width, 3, padding="same", activation="relu")(a)
        elif what == "norm":
            made = layers.BatchNormalization()(a)
        elif what == "concatenate":
            made = layers.Concatenate()([a, b])
        elif what == "depthwise":
            made = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1 + width % 2)(a)
        elif what == "groups":
            made = layers.Conv2D(2 * width, 1, groups=2)(
                a if a.shape[-1] % 2 == 0 else layers.Conv2D(4, 1)(a)
            )
        elif what == "split":
            made = ops.split(a, [a.shape[-1] // 2], axis=-1)[width % 2] if a.shape[-1] > 1 else a
        elif what == "squeeze":
            made = a * layers.Dense(a.shape[-1], activation="sigmoid")(
                ops.mean(a, axis=(1, 2), keepdims=True)
            )
        else:
            made = a + (b if a.shape[-1] == b.shape[-1] else layers.Conv2D(a.shape[-1], 1)(b))
        tensors.append(made)
    outputs = dense_head(layers.Flatten()(layers.AveragePooling2D(3)(layers.Concatenate()(tensors[-2:]))))
    return keras.Model(inputs, outputs)


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from(
                ["conv", "norm", "concatenate", "depthwise", "groups", "split", "squeeze", "add"]
            ),
            strategies.integers(0, 9),
            strategies.integers(0, 9),
            strategies.integers(1, 5),
        ),
        min_size=2,
        max_size=8,
    ),
    strategies.integers(0, 3),
)
@hypothesis.settings(max_examples=8, deadline=None, derandomize=True)
def test_random_networks(choices, seed):
    model = grown(choices)
    structure = read(model, RULES)
    keep = some_of(structure, seed)
    small = rebuild(structure, keep)
    error, where = largest_error(structure, keep, small, RULES, seed=seed)
    assert error < 1e-12, where
    assert cost.macs(small) == macs_of(structure)(keep)


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from(
                [
                    "dense",
                    "recurrent",
                    "both ways",
                    "attention",
                    "norm",
                    "heads",
                    "each",
                    "inside",
                    "concatenate",
                ]
            ),
            strategies.integers(0, 9),
            strategies.integers(0, 9),
            strategies.integers(1, 4),
        ),
        min_size=2,
        max_size=5,
    ),
    strategies.integers(0, 3),
)
@hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
@pytest.mark.slow
def test_random_sequences(choices, seed):
    structure = read(grown_sequence(choices), RULES)
    keep = some_of(structure, seed)
    small = rebuild(structure, keep)
    error, where = largest_error(structure, keep, small, RULES, seed=seed)
    assert error < 1e-6, where  # attention's weights are rescaled
    assert small.count_params() == parameters_of(structure)(keep)
    shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape[1:]), small.output)
    assert {key: keras.tree.flatten(shape) for key, shape in shapes.items()} == {"head": [3], "steps": [6, 2]}
