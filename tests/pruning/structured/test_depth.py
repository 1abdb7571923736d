"""prune_layers: whole layers and residual blocks go, those that are missed least."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import only_on
from keras import layers

from distill import pruning


def block(x, name, raw=False):
    y = layers.Dense(6, activation="relu", name=f"{name}_in")(x)
    y = layers.Dense(4, name=f"{name}_out")(y)
    return x + y if raw else layers.Add(name=f"{name}_add")([y, x])


def residual():
    inputs = keras.Input((4,))
    x = layers.Dense(4, activation="tanh", name="stem")(inputs)
    x = block(block(block(x, "a"), "b", raw=True), "c")
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="residual")


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


def test_what_can_go_is_what_keeps_its_shape():
    found = pruning.removable_layers(residual())
    assert [found[0], found[1], found[3]] == ["stem", "a_add", "c_add"]
    assert found[2].startswith("add")  # the name of a raw operation is Keras' own
    assert len(found) == 4


def test_a_block_that_adds_nothing_goes_first(x):
    model = residual()
    for name in ("a_out", "c_out"):
        model.get_layer(name).kernel.assign(np.zeros((6, 4)))
    before = model.predict(x, verbose=0)
    shorter = pruning.prune_layers(model, 2, pruning.output_change(model, x))
    assert {layer.name for layer in model.layers} - {layer.name for layer in shorter.layers} == {
        *("a_in", "a_out", "a_add"),
        *("c_in", "c_out", "c_add"),
    }
    np.testing.assert_array_equal(shorter.predict(x, verbose=0), before)
    assert shorter.name == "residual"
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


def test_the_order_is_that_of_the_harm(x):
    model = residual()
    gone = []

    def harm(shortened):
        names = {layer.name for layer in shortened.layers}
        gone.append(sorted({"stem", "a_add", "c_add"} - names))
        return {0: 5.0, 1: 3.0}.get(len(gone[-1]), 0.0) + ("stem" in gone[-1]) * 9

    shorter = pruning.prune_layers(model, 3, harm)
    names = {layer.name for layer in shorter.layers}
    assert "stem" in names
    assert names.isdisjoint({"a_add", "a_in", "b_in", "c_add", "c_out"})
    assert len(gone) == 4 + 3 + 2


def test_layers_of_a_sequential_model_go_too(x, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="first"),
            layers.ReLU(name="relu"),
            layers.Dense(4, name="identity"),
            layers.Dense(3, name="head"),
        ]
    )
    model.get_layer("identity").set_weights([np.eye(4), np.zeros(4)])
    model.compile("adam", "mse")
    assert pruning.removable_layers(model) == ["first", "identity"]
    shorter = pruning.prune_layers(model, 1, pruning.output_change(model, x))
    assert type(shorter) is keras.Sequential
    assert [layer.name for layer in shorter.layers] == ["first", "relu", "head"]
    np.testing.assert_array_equal(shorter.predict(x, verbose=0), model.predict(x, verbose=0))
    assert shorter.compiled
    shorter.save(tmp_path / "shorter.keras")
    again = keras.saving.load_model(tmp_path / "shorter.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), shorter.predict(x, verbose=0))


def test_layers_of_nested_models_go_too(x):
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="one"), layers.Dense(4, name="two")], name="inner"
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="head")(inner(inputs)))
    inner.get_layer("two").set_weights([np.eye(4), np.zeros(4)])
    assert pruning.removable_layers(model) == ["inner/one", "inner/two"]
    shorter = pruning.prune_layers(model, 1, pruning.output_change(model, x))
    assert [layer.name for layer in shorter.get_layer("inner").layers] == ["one"]
    np.testing.assert_array_equal(shorter(x), model(x))


def test_what_would_leave_all_weights_is_no_candidate(x):
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    y = shared(layers.Dense(4, name="single")(shared(inputs)))
    y = layers.Add(name="twice")([y, y])
    y = layers.Add(name="bare")([layers.ReLU(name="relu")(y), y])
    model = keras.Model(inputs, layers.Dense(3, name="head")(y), name="mine")
    assert pruning.removable_layers(model) == ["single"]
    shorter = pruning.prune_layers(model, 1, pruning.output_change(model, x))
    assert "single" not in [layer.name for layer in shorter.layers]
    with pytest.raises(ValueError, match="at most 1 for 'mine'.* Received: number=2. Candidates: single"):
        pruning.prune_layers(model, 2, lambda model: 0.0)


def test_a_block_of_attention_goes_with_all_that_only_it_needs():
    inputs = keras.Input((5, 4))
    y = layers.LayerNormalization(name="norm")(inputs)
    y = layers.MultiHeadAttention(2, 2, name="attention")(y, y)
    y = layers.Add(name="block")([inputs, y])
    model = keras.Model(inputs, layers.Dense(3, name="head")(y))
    # An attention of two inputs goes with its block, and a normalization saves next to nothing.
    assert pruning.removable_layers(model) == ["block"]
    model.get_layer("attention")._output_dense.kernel.assign(np.zeros((2, 2, 4)))
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    shorter = pruning.prune_layers(model, 1, lambda one: one.count_params())
    assert [layer.name for layer in shorter.layers][1:] == ["head"]
    np.testing.assert_allclose(shorter(x), model(x), rtol=1e-6)


def test_layers_that_only_scale_their_input_stay():
    model = keras.Sequential([keras.Input((4, 4, 2))])
    for kind in (layers.BatchNormalization, layers.PReLU, layers.LayerNormalization, layers.RMSNormalization):
        model.add(layers.Conv2D(2, 3, padding="same", name=f"before_{kind.__name__}"))
        model.add(kind())
    kept = [
        f"before_{name}" for name in ("BatchNormalization", "PReLU", "LayerNormalization", "RMSNormalization")
    ]
    assert pruning.removable_layers(model) == kept


def test_models_that_were_tried_are_not_kept():
    made, alive = [], []

    def harm(shortened):
        made.append(weakref.ref(shortened))
        gc.collect()
        alive.append(sum(one() is not None for one in made))
        return float(-len(made))  # each is better than the one before

    pruning.prune_layers(residual(), 2, harm)
    assert len(made) == 4 + 3
    assert (
        max(alive) <= 4
    )  # this, the best of the round, that of the round before, and what Python has not dropped yet


@only_on("tensorflow", reason="tf.distribute")
def test_smaller_models_stay_with_the_strategy_of_their_model(x):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = residual()
        normalized = keras.Sequential([keras.Input((4,)), layers.Dense(8)])
        normalized.add(layers.BatchNormalization())
        normalized.add(layers.Dense(3))
    for smaller in (
        pruning.prune_channels(model, 0.5, verify=True),
        pruning.prune_layers(model, 1, pruning.output_change(model, x)),
        pruning.slim(normalized, lambda one, callbacks: None, 0.5),
    ):
        assert smaller.distribute_strategy is strategy
    assert pruning.prune_channels(residual(), 0.5).distribute_strategy is not strategy


def test_output_change_is_relative_to_the_outputs(x):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False)])
    half = keras.models.clone_model(model)
    half.set_weights([weight / 2 for weight in model.get_weights()])
    change = pruning.output_change(model, x)
    assert change(model) == 0
    assert change(half) == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("number", [0, -1, 1.0, True])
def test_a_number_of_layers_is_an_integer(number):
    with pytest.raises(ValueError, match="number must be an integer >= 1"):
        pruning.prune_layers(residual(), number, lambda model: 0.0)


def test_no_more_go_than_can(x):
    with pytest.raises(
        ValueError,
        match="at most 4 for 'residual'.* Received: number=5. Candidates: stem, a_add",
    ):
        pruning.prune_layers(residual(), 5, lambda model: 0.0)


def test_a_harm_is_a_number():
    with pytest.raises(ValueError, match=r"harm\(\) returned NaN for the model without 'stem'"):
        pruning.prune_layers(residual(), 1, lambda model: np.nan)
