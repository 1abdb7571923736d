"""Rules of networks of cells, convolutional cells, states that are passed on, and models in wrappers."""

import keras
import numpy as np
import pytest
from channel_cases import cut_at_random
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import cost, pruning


def randomized(model):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def cells(x):
    return Dense(3)(
        layers.RNN([layers.LSTMCell(6), layers.GRUCell(5), layers.SimpleRNNCell(4)], name="made")(x)
    )


def states_of_cells(x):
    _, (hidden, carry), state = layers.RNN(
        [layers.LSTMCell(6), layers.GRUCell(5)], return_state=True, name="made"
    )(x)
    return Dense(3)(layers.Concatenate()([carry, state, hidden]))


def one_cell(x):
    state = Dense(6, name="state")(x[:, 0])
    return Dense(3)(
        layers.RNN(layers.GRUCell(6), return_sequences=True, name="made")(x, initial_state=[state])
    )


def states_of_both(x):
    out, hidden, _, _, carry = layers.Bidirectional(layers.LSTM(6, return_state=True), name="made")(x)
    return Dense(3)(layers.Concatenate()([hidden, carry, Dense(4)(out)]))


def passed_on(x):
    """An encoder and a decoder that starts from its states, in both directions."""
    out, *states = layers.Bidirectional(
        layers.GRU(6, return_sequences=True, return_state=True), merge_mode="sum", name="made"
    )(x)
    return Dense(3)(layers.Bidirectional(layers.GRU(6))(out, initial_state=states))


SEQUENCES = [cells, states_of_cells, one_cell, states_of_both, passed_on]


def convolved(x):
    x = layers.ConvLSTM2D(6, 2, padding="same", return_sequences=True, name="made")(x)
    out, hidden, carry = layers.ConvLSTM2D(5, 2, return_state=True)(layers.BatchNormalization()(x))
    return layers.Conv2D(2, 1)(layers.Concatenate()([out, hidden * carry]))


def convolved_both_ways(x):
    return layers.Conv2D(2, 1)(layers.Bidirectional(layers.ConvLSTM2D(6, 2), name="made")(x))


def frame_by_frame(x):
    inner = net(
        lambda y: layers.GlobalAveragePooling2D()(
            layers.Conv2D(6, 2, activation="relu", name="last")(layers.Conv2D(5, 2, name="first")(y))
        ),
        (4, 4, 2),
    )
    return Dense(3)(layers.GRU(5)(layers.TimeDistributed(inner, name="made")(x)))


def frame_by_frame_sequential(x):
    inner = keras.Sequential([keras.Input((4, 4, 2)), layers.Flatten(), Dense(8, "relu"), Dense(6)])
    return Dense(3)(layers.GRU(5)(layers.TimeDistributed(inner, name="made")(x)))


VIDEOS = [convolved, convolved_both_ways, frame_by_frame, frame_by_frame_sequential]


@pytest.mark.parametrize("build", [*SEQUENCES, *VIDEOS], ids=lambda build: build.__name__)
@pytest.mark.sweep(1)
def test_recurrent_networks_are_cut(build):
    model = randomized(net(build, (4, 4, 4, 2) if build in VIDEOS else (4, 3)))
    small = cut_at_random(model)
    made = small.get_layer("made")
    assert sum(int(np.prod(v.shape)) for v in made.weights) < model.get_layer("made").count_params()


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_loses_width_of_its_table(tied):
    table = layers.ReversibleEmbedding(9, 8, tie_weights=tied, logit_soft_cap=5.0, name="table")
    model = net(
        lambda x: table(layers.LSTM(8, return_sequences=True, name="made")(table(x)), reverse=True),
        (5,),
        dtype="int32",
    )
    small = cut_at_random(randomized(model))
    assert small.get_layer("table").output_dim == small.get_layer("made").units < 8
    assert small.output_shape == model.output_shape


@pytest.mark.parametrize(
    ("build", "shape", "expected"),
    [
        (cells, (4, 3), 4 * (3 * 24 + 6 * 24 + 6 * 15 + 5 * 15 + 5 * 4 + 4 * 4) + 4 * 3),
        (states_of_both, (4, 3), 2 * 4 * (3 * 24 + 6 * 24) + 12 * 4 + 16 * 3),
        (
            convolved,
            (4, 4, 4, 2),
            4 * 16 * 4 * (2 * 24 + 6 * 24) + 4 * 9 * 4 * (6 * 20 + 5 * 20) + 9 * 10 * 2,
        ),
        (
            frame_by_frame,
            (4, 4, 4, 2),
            4 * (9 * 4 * 2 * 5 + 4 * 4 * 5 * 6) + 4 * (6 * 15 + 5 * 15) + 5 * 3,
        ),
    ],
    ids=["cells", "both", "convolved", "frames"],
)
def test_multiply_adds_are_those_by_hand(build, shape, expected):
    """Of each step: a kernel for the input and one for the state, for every gate, at every pixel."""
    assert cost.macs(net(build, shape)) == expected


def test_cells_of_ones_own_are_followed_and_stay():
    @keras.saving.register_keras_serializable("test_recurrent_rules")
    class OwnCell(layers.Layer):
        state_size = 4

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

        def call(self, inputs, states):
            out = ops.tanh(ops.matmul(inputs, self.kernel) + states[0])
            return out, [out]

    model = net(lambda x: Dense(3)(layers.RNN(OwnCell(), name="made")(Dense(6, name="before")(x))), (5, 2))
    assert cost.macs(model) == 5 * 2 * 6 + 5 * 6 * 4 + 4 * 3
    locked = {group.name: group.locked for group in pruning.explain(model).groups}
    assert locked["before"] == "made: no rule is known for its OwnCell"


def test_masks_hide_steps_whatever_is_cut():
    model = net(lambda x: Dense(3)(layers.LSTM(6)(layers.Masking()(Dense(8, name="made")(x)))), (5, 4))
    assert half(model).get_layer("made").units == 4
    model = net(lambda x: Dense(3)(layers.LSTM(6)(layers.Masking(1.0)(Dense(8, name="made")(x)))), (5, 4))
    assert "all channels have one value" in pruning.explain(model).groups[0].locked
