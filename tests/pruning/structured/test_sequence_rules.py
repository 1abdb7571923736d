"""Rules of recurrent layers and attention."""

import keras
import numpy as np
import pytest
from backend import since_keras
from keras import layers
from keras.layers import Dense
from small_nets import half, net

from distill import pruning


@pytest.mark.parametrize(
    "name",
    [
        "MultiHeadAttention",
        pytest.param("GroupQueryAttention", marks=since_keras("3.15", reason="its scores are inferred")),
    ],
)
@pytest.mark.sweep(1)
def test_scores_of_attention_keep_the_heads_that_are_put_out(name):
    attention = layers.MultiHeadAttention(16, 4) if name[0] == "M" else layers.GroupQueryAttention(4, 16, 8)
    model = net(lambda x: list(attention(x, x, return_attention_scores=True)), (5, 6))
    assert half(model).output_shape == [(None, 5, 6), (None, 16, 5, 5)]
    attention = layers.MultiHeadAttention(4, 4)
    model = net(lambda x, mask: attention(x, x, attention_mask=mask), (5, 6), (4, 5, 5))
    assert half(model)([np.ones((2, 5, 6)), np.ones((2, 4, 5, 5))]).shape == (2, 5, 6)
    model = net(
        lambda x: Dense(3)(layers.MultiHeadAttention(4, 4)(x, x, return_attention_scores=True)[1]), (5, 6)
    )
    half(model)


def test_attention_puts_out_what_it_did_where_its_query_is_cut():
    def build(x):
        stream = Dense(8, name="stream")(x)
        return Dense(3)(layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(stream, stream)))

    small = half(net(build, (5, 6)))
    assert small.get_layer("stream").units == 4


def test_implicit_masks_are_no_states():
    model = net(
        lambda x: Dense(3)(
            layers.LSTM(8, name="lstm")(
                layers.Bidirectional(layers.GRU(4, return_sequences=True))(
                    layers.Embedding(5, 8, mask_zero=True)(x)
                )
            )
        ),
        (7,),
        dtype="int32",
    )
    small = half(model)
    assert small.get_layer("lstm").units == 4
    assert small.get_layer("bidirectional").forward_layer.units == 2


@pytest.mark.parametrize(
    "body",
    [
        lambda: [layers.LSTM(16, name="made")],
        lambda: [layers.Bidirectional(layers.GRU(8), name="made")],
        lambda: [layers.GlobalAveragePooling1D(), Dense(16, "relu", name="made")],
    ],
    ids=["lstm", "both", "pooled"],
)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.sweep(1)
def test_implicit_masks_of_sequential_models(body, nested):
    stack = [layers.Embedding(9, 8, mask_zero=True, name="table"), *body(), Dense(3, name="head")]
    model = keras.Sequential([keras.Input((7,), dtype="int32"), *stack])
    whole = net(model, (7,), dtype="int32") if nested else model
    small = half(whole)
    inner = small.layers[-1] if nested else small
    assert type(inner) is keras.Sequential
    assert [layer.name for layer in inner.layers] == [layer.name for layer in model.layers]
    assert inner.get_layer("head").kernel.shape == (8, 3)
    # Zeros at the end are hidden by the mask, so a longer row of them changes nothing.
    tokens = np.array([[1, 2, 3, 0, 0, 0, 0], [4, 5, 6, 7, 8, 1, 2]], "int32")
    for one in (model, inner):
        np.testing.assert_allclose(one(tokens)[:1], one(tokens[:1, :4])[:1], rtol=1e-4, atol=1e-5)
    pruning.prune_channels(small, 0.5, round_to=1, verify=True)


def test_recurrent_units_count_once_for_all_gates():
    model = net(lambda x: Dense(3)(layers.LSTM(32, name="lstm")(x)), (5, 4))
    (group, _) = pruning.explain(model).groups
    assert (group.width, group.multiple) == (32, 1)
    assert pruning.prune_channels(model, 0.3).get_layer("lstm").units == 24


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.Softmax(axis=1)(Dense(6)(x), Dense(6)(x) > 0),
        lambda x: layers.MultiHeadAttention(4, 4)(x, x, attention_mask=Dense(5)(x) > 0),
        lambda x: layers.LSTM(4)(x, mask=layers.Flatten()(layers.Dense(1)(Dense(4)(x))) > 0),
        lambda x: layers.GRU(8)(x, initial_state=np.zeros((2, 8), "float32")),
        lambda x: layers.MultiHeadAttention(4, 4)(x, x, attention_mask=np.ones((1, 4, 5, 5), bool)),
    ],
    ids=["softmax", "attention", "lstm", "state", "heads"],
)
@pytest.mark.sweep(2)
def test_masks_and_arrays_of_a_call_are_cut_with_what_they_meet(build):
    model = net(lambda x: Dense(3)(Dense(8)(layers.Flatten()(build(Dense(8, name="first")(x))))), (5, 6))
    half(model)(np.ones((2, 5, 6)))
