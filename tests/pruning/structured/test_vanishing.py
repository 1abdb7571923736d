"""What adds something where channels are zero keeps them, though what it reads may be zero along another axis."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from distill import pruning

DECAY = np.tril(np.ones((5, 5), "float32"))


def mixed(after):
    """Tokens are mixed by a Dense over time, and what comes out along time is summed."""

    def build(x):
        x = layers.Permute((2, 1))(layers.Dense(8, name="mix")(layers.Permute((2, 1))(x)))
        return ops.sum(after(x), axis=1)

    return build


def scores(x):
    """Linear attention with a decay: the width is summed in the scores, of which none is an array's."""
    query, key = (layers.Dense(16, "sigmoid", name=name)(x) for name in ("query", "key"))
    return layers.Flatten()(ops.einsum("btd,bsd,ts->bts", query, key, DECAY))


CASES = {
    "batch normalization along another axis": (mixed(layers.BatchNormalization()), "mix"),
    "a layer at each time": (mixed(layers.TimeDistributed(layers.Dense(7))), "mix"),
    "an array in an einsum": (scores, "query"),
}


@pytest.mark.parametrize("name", CASES)
def test_they_are_locked(name):
    build, layer = CASES[name]
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.Dense(3)(build(inputs)))
    locked = [group for group in pruning.explain(model).groups if "not zero when" in group.locked]
    assert any(group.atoms.size == 0 for group in locked)
    assert layer in str(pruning.explain(model))


def test_an_einsum_that_sums_an_array_s_own_axis_is_cut():
    inputs = keras.Input((5, 6))
    table = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    x = ops.einsum("btd,dk->btk", layers.Dense(16, "sigmoid", name="wide")(inputs), table)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    small = pruning.prune_channels(model, 0.5, verify=True)
    assert small.get_layer("wide").units == 8


@pytest.mark.parametrize("shift", [-4, 3, 9, -13])
@pytest.mark.sweep(1)
def test_a_roll_goes_round_by_what_is_left(shift):
    inputs = keras.Input((6,))
    wide = layers.Dense(8, name="wide")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(ops.roll(wide, shift, axis=-1)))
    for removed in ([0, 1], [6, 7], [0, 4, 5]):
        kernel, bias = model.get_layer("wide").get_weights()
        size = np.full(8, 2.0)
        size[removed] = 0.1
        kernel = np.sign(np.random.default_rng(0).normal(size=(6, 8))).astype("float32") * size
        model.get_layer("wide").set_weights([kernel, bias])
        small = pruning.prune_channels(model, len(removed) / 8, verify=True)
        assert small.get_layer("wide").units == 8 - len(removed)


def test_a_reshape_keeps_the_channels_that_have_come_first():
    inputs = keras.Input((6, 4))
    first = ops.transpose(layers.Dense(8, name="wide")(inputs), (2, 0, 1))
    model = keras.Model(inputs, ops.reshape(first, (8, -1, 3, 2)))
    x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    assert model(x).shape == (8, 2, 3, 2)
    with pytest.raises(ValueError, match="it is an output"):
        pruning.prune_channels(model, 0.5)


def test_operations_on_arrays_are_locked_with_a_reason():
    ids, x = keras.Input((5,), dtype="int32"), keras.Input((5, 2, 8))
    table = np.random.default_rng(0).normal(size=(10, 4)).astype("float32")
    found = ops.take(table, ids, axis=0)
    key = np.random.default_rng(1).normal(size=(1, 5, 2, 8)).astype("float32")
    attended = ops.dot_product_attention(layers.Dense(8, name="query")(x), key, key)
    model = keras.Model([ids, x], [layers.Dense(3)(found), layers.Dense(3)(attended)])
    locked = " ".join(group.locked for group in pruning.explain(model).groups)
    assert "an array is not understood" in locked
