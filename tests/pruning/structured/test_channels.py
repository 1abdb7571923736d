"""prune_channels: what it removes, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers
from small_nets import convolutional, widths

from distill import pruning
from distill.pruning.structured import importance


def test_the_smallest_go():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(4, name="hidden"), layers.Dense(1, name="head")]
    )
    model.layers[0].set_weights([np.array([[1.0, 9, 2, 8], [1, 9, 2, 8]]), np.array([1.0, 2, 3, 4])])
    model.layers[1].set_weights([np.array([[1.0], [7], [1], [6]]), np.array([5.0])])
    small = pruning.prune_channels(model, 0.5, verify=True)
    np.testing.assert_array_equal(small.layers[0].kernel, [[9, 8], [9, 8]])
    np.testing.assert_array_equal(small.layers[0].bias, [2, 4])
    np.testing.assert_array_equal(small.layers[1].kernel, [[7], [6]])
    np.testing.assert_array_equal(small.layers[1].bias, [5])


def test_the_new_model_is_of_the_same_kind():
    model = convolutional()
    model.get_layer("second").trainable = False
    model.compile("adam", "mse", metrics=["mae"])
    small = pruning.prune_channels(model, 0.5, verify=True)
    assert type(small) is keras.Sequential
    assert small.name == "convolutional"
    assert small.input_shape == model.input_shape
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert [layer.trainable for layer in small.layers] == [layer.trainable for layer in model.layers]
    assert widths(small) == [16, 24, 32, 5]
    assert widths(model) == [32, 48, 64, 5]
    assert small.compiled
    assert type(small.optimizer) is type(model.optimizer)
    x = np.zeros((2, 12, 12, 3), "float32")
    assert set(small.evaluate(x, np.zeros((2, 5)), verbose=0, return_dict=True)) == {"loss", "mae"}


def scoring(scores):
    """An importance that gives one axis these scores, or each of its positions this one."""

    def importance(structure):
        slot = next(slot for slot in structure.slots if slot.path == "first" and slot.role == "output")
        yield slot.labels, np.full(slot.labels.shape, scores) if np.ndim(scores) == 0 else scores

    return importance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of ratio, macs, parameters, latency_ms must be given. Received: none of them"),
        ({"ratio": 0.5, "macs": 0.5}, "Received: {'ratio': 0.5, 'macs': 0.5}"),
        ({"ratio": 1.0}, "must be between 0 and 1. Received: ratio=1.0"),
        ({"ratio": 0}, "must be between 0 and 1"),
        ({"macs": -1}, "must be more than 0. Received: macs=-1"),
        ({"macs": 10}, "Only macs from .* can be reached. Received: macs=10"),
        ({"macs": 0.001}, "Only macs from .* can be reached. Received: macs=0.001, which is 975"),
        (
            {"parameters": 1e-4},
            "Only parameters from .* can be reached. Received: parameters=0.0001, which is ",
        ),
        ({"parameters": 10**9}, "Only parameters from .* can be reached. Received: parameters=1,000,000,000"),
        ({"ratio": 0.5, "round_to": 0}, "round_to must be None or an integer >= 1"),
        ({"ratio": 0.5, "scope": "layer"}, "scope must be 'local' or 'global'"),
        ({"ratio": 0.5, "reduce": "min"}, "reduce must be 'mean', 'sum' or 'max'. Received: reduce='min'"),
        (
            {"ratio": 0.5, "normalize": "sum"},
            "normalize must be 'mean', 'max' or None. Received: normalize='sum'",
        ),
        ({"ratio": 0.5, "rounds": 0}, "rounds must be an integer >= 1. Received: rounds=0"),
        (
            {"ratio": 0.5, "rounds": 2, "ratios": {"first": 0.2}},
            "again in every round. Received: ratios and rounds=2",
        ),
        ({"ratio": 0.5, "exclude": "frist"}, "fits none of 'convolutional'. Its layers: first, "),
        ({"ratio": 0.5, "ratios": {"first": 1.0}}, "must be at least 0 and less than 1"),
        (
            {"ratio": 0.5, "exclude": layers.Layer},
            "Nothing in 'convolutional' can be removed: first: excluded",
        ),
        ({"ratio": 0.5, "importance": lambda structure: []}, "must score every channel that can be removed"),
        (
            {"ratio": 0.5, "importance": scoring(np.nan)},
            "scores that are not finite for 32 positions of first/kernel",
        ),
        (
            {"ratio": 0.5, "importance": scoring([1.0])},
            r"scores of shape \(1,\) for 32 positions of first/kernel",
        ),
        (
            {"ratio": 0.5, "importance": importance.batch_norm_scale},
            "Received: no score for channels of 'second'. Exclude this layer",
        ),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pruning.prune_channels(convolutional(), **arguments)


def test_a_name_is_no_importance():
    with pytest.raises(TypeError, match="must be a function .* such as importance.l2, .* importance='l2'"):
        pruning.prune_channels(convolutional(), 0.5, importance="l2")


def test_a_number_is_a_number():
    with pytest.raises(TypeError, match="ratio must be a number. Received: '0.5'"):
        pruning.prune_channels(convolutional(), "0.5")


def test_a_function_that_selects_gets_layers_alone():
    """An addition is an operation without the attributes of a layer."""
    inputs = keras.Input((6,))
    one = layers.Dense(8, "relu", name="one")(inputs)
    frozen = layers.Dense(8, "relu", name="frozen", trainable=False)(inputs)
    model = keras.Model(inputs, layers.Dense(3)(keras.ops.concatenate([one, frozen], axis=-1)))
    small = pruning.prune_channels(model, 0.5, exclude=lambda layer: not layer.trainable, round_to=1)
    assert (small.get_layer("one").units, small.get_layer("frozen").units) == (4, 8)
