"""The smaller model: what is left is the original with zeros, and a plain model of the same kind."""

import keras
import numpy as np
import pytest
from backend import since_keras
from channel_cases import (
    CASES,
    RULES,
    attending,
    cases,
    concatenated,
    depthwise,
    embedded,
    grouped,
    model_of,
    nested,
    recurrent_modes,
    repeated,
    residual,
    sequence,
    some_of,
    volumes,
)
from keras import layers, ops
from keras.layers import Dense
from small_nets import across_positions, backbone, half, net

import distill
from distill import cost, pruning
from distill.exports import Exported
from distill.pruning.structured._configs import naming
from distill.pruning.structured._costs import parameters_of
from distill.pruning.structured._groups import find_groups
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read
from distill.pruning.structured._verification import largest_error


@cases
@pytest.mark.sweep(3)
def test_what_is_left_is_the_original_with_zeros(build):
    model = model_of(build)
    structure = read(model, RULES)
    groups = find_groups(structure)
    # Within nested models and wrappers, the outermost.
    assert {g.name.split("/")[0] for g in groups if g.atoms.size > 1} == set(CASES[build][1].split())
    for seed in range(2):
        keep = some_of(structure, seed)
        assert not keep.all()
        small = rebuild(structure, keep)
        error, where = largest_error(structure, keep, small, RULES, seed=seed)
        # Attention's weights are rescaled, and rounded to float32 then.
        assert error < (1e-6 if "attending" in build.__name__ else 1e-12), where
        assert small.count_params() == parameters_of(structure)(keep) < model.count_params()
        assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]


# Each trains, which is compiled: one of convolutions, of sequences, of attention, of what is nested or shared.
TRAINED = [residual, embedded, attending, nested]


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, marks=[] if build in TRAINED else pytest.mark.slow, id=build.__name__)
        for build in CASES
    ],
)
@pytest.mark.sweep(1)
def test_what_comes_out_is_a_plain_model(build, tmp_path):
    model = model_of(build)
    before = [variable.numpy().copy() for variable in model.variables]
    structure = read(model, RULES)
    small = rebuild(structure, some_of(structure, 1))
    x = np.random.default_rng(0).integers(0, 2, (4, *model.input_shape[1:])).astype(model.inputs[0].dtype)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(x), small(x))
    small.compile("sgd", "mse")
    loss = small.fit(x, np.zeros((4, 3)), verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


IN_LITERT = [residual, depthwise, grouped, concatenated, attending, nested]


NOT_IN_LITERT = [sequence, recurrent_modes, repeated, volumes]  # loops, and pooling of three dimensions


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(build, marks=[] if build in IN_LITERT else pytest.mark.slow, id=build.__name__)
        for build in CASES
    ],
)
@pytest.mark.sweep(2)
def test_what_comes_out_runs_in_litert(build, tmp_path):
    structure = read(model_of(build), RULES)
    small = rebuild(structure, some_of(structure, 3))
    if build in NOT_IN_LITERT:
        for model in (structure.model, small):
            with pytest.raises(ValueError, match="LiteRT has a kernel for every operation"):
                distill.export(model, tmp_path / "small.tflite")
        return
    rng = np.random.default_rng(0)
    shape = (1, *small.input_shape[1:])
    x = (
        rng.integers(0, 2, shape).astype("int32")
        if build is embedded
        else rng.normal(size=shape).astype("float32")
    )
    (found,) = keras.tree.flatten(Exported(distill.export(small, tmp_path / "small.tflite")).predict(x))
    np.testing.assert_allclose(found, small(x), rtol=1e-3, atol=1e-3 * np.abs(small(x)).max())


SIZES = {
    *("units", "filters", "groups", "output_dim", "num_heads", "key_dim", "value_dim"),
    *(
        "head_dim",
        "num_query_heads",
        "num_key_value_heads",
        "output_shape",
        "target_shape",
        "projection_dim",
        "noise_shape",
    ),
}


def strange(config, other):
    """Keys whose values differ, but for sizes."""
    if isinstance(config, dict) and isinstance(other, dict):
        keys = config.keys() ^ other.keys()
        return keys | {
            key
            for name in config.keys() & other.keys()
            if name not in SIZES | {"build_config"}
            for key in ({name} if strange(config[name], other[name]) else set())
        }
    return set() if config == other else {"value"}


@cases
def test_settings_stay(build):
    structure = read(model_of(build), RULES)
    for number, layer in enumerate(structure.model.layers[1:]):
        layer.trainable = bool(number % 2)
        if isinstance(layer, layers.Dense):
            layer.kernel_regularizer = keras.regularizers.L1(number)
            layer.bias_constraint = keras.constraints.MaxNorm(number + 1)
    small = rebuild(structure, some_of(structure, 1))
    for one, other in zip(structure.model.layers, small.layers, strict=True):
        if not isinstance(one, (keras.Model, layers.InputLayer)):
            assert not strange(one.get_config(), other.get_config()), one.name
        assert one.trainable == other.trainable


def test_the_original_is_left_alone():
    model = backbone()
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    half(model)
    pruning.explain(model)
    rebuild(read(model, rules_with()), np.ones(read(model, rules_with()).atoms.count, bool))
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes
    assert cost.parameters(model) == sum(int(np.prod(weight.shape)) for weight in model.weights)


@since_keras("3.15", reason="a regularizer may be a function")
def test_functions_in_layers_are_passed_on():
    scale = 3.0

    def stretched(x):
        return x * scale

    def penalty(kernel):
        return 0.1 * ops.sum(kernel**2)

    model = keras.Sequential(
        [
            keras.Input((4,)),
            Dense(8, activation=stretched),
            layers.Activation(lambda x: ops.tanh(x) * scale),
            layers.Lambda(lambda x: x + scale),
            Dense(8, kernel_regularizer=penalty, name="cut"),
            Dense(3),
        ]
    )
    small = half(model)
    assert small.get_layer("cut").units == 4
    assert len(small.losses) == 1


def test_functions_in_wrapped_layers_are_passed_on():
    model = net(lambda x: Dense(3)(layers.TimeDistributed(Dense(8, activation=across_positions))(x)), (5, 4))
    small = pruning.prune_channels(
        keras.Sequential([model, layers.Flatten(), Dense(8), Dense(2)]), 0.5, round_to=1
    )
    assert small.layers[0].layers[1].layer.activation is across_positions


def test_a_layer_without_a_config_is_named():
    class Made(layers.Layer):
        def __init__(self, function):
            super().__init__(name="made")
            self.function = function

        def call(self, x):
            return self.function(x)

    model = keras.Sequential([keras.Input((4,)), Dense(8), Dense(8), Made(ops.tanh)])
    with pytest.raises(ValueError, match="'made', a Made, which cannot be. Implement its get_config"):
        half(model)


def test_a_layer_of_keras_without_a_config_is_named_too():
    """The config of RandomShear has a range from below zero, which it does not take."""
    image = [
        keras.Input((4, 4, 3)),
        layers.RandomShear(0.2, name="shear"),
        layers.Flatten(),
        Dense(8),
        Dense(3),
    ]
    with pytest.raises(
        ValueError, match=r"'shear', a RandomShear, which cannot be\. This is a fault of Keras.*-0\.2"
    ):
        half(keras.Sequential(image))


def test_what_is_the_users_own_in_a_layer_of_keras_is_no_fault_of_keras():
    class Cell(layers.SimpleRNNCell):
        pass

    own = {
        "Cell": layers.RNN(Cell(4), name="loop"),
        "across_positions": Dense(3, across_positions, name="loop"),
    }
    for name, layer in own.items():
        words = rf"'loop', a .* what is your own in it: {name}\. Keras says: no"
        with pytest.raises(ValueError, match=words), naming(layer):
            raise TypeError("no")


def test_weights_that_start_as_an_array_are_cut():
    start = keras.initializers.Constant(np.ones((50, 16)))
    stack = [layers.Embedding(50, 16, embeddings_initializer=start), layers.LSTM(16), Dense(3)]
    small = half(keras.Sequential([keras.Input((7,), dtype="int32"), *stack]))
    assert small.layers[0].output_dim == 8
