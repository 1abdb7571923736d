"""How many channels of each group stay."""

import numpy as np
import pytest
from keras import ops
from keras.layers import Dense
from small_nets import convolutional, free, half, net, widths

from distill import pruning


def test_numbers_are_rounded_where_there_are_enough():
    small = pruning.prune_channels(convolutional(), 0.3)
    assert widths(small) == [24, 32, 48, 5]  # of 22.4, 33.6 and 44.8
    small = pruning.prune_channels(convolutional(), 0.3, round_to=1)
    assert widths(small) == [22, 34, 45, 5]
    small = pruning.prune_channels(convolutional(), 0.5, round_to=32)
    assert widths(small) == [16, 24, 32, 5]  # the first two have less than 64


def test_channels_that_stay_count_in_the_rounding():
    def build(x):
        stays, other = ops.split(Dense(24, name="made")(x), [8], -1)
        return [stays, Dense(3)(other)]

    model = net(build, (4,))
    assert free(model, "made") == 16
    assert pruning.prune_channels(model, 0.4).get_layer("made").units == 8 + 8


def test_each_part_of_a_split_keeps_a_channel():
    model = net(lambda x: [Dense(3)(part) for part in ops.split(Dense(16, name="made")(x), [2], -1)], (4,))

    def first_least(structure):
        slot = next(slot for slot in structure.slots if slot.path == "made" and slot.role == "output")
        yield slot.labels, np.arange(16) + 1.0

    assert half(model, importance=first_least).get_layer("made").units == 9


def test_channels_of_all_layers_compete():
    model = convolutional()
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(hidden.kernel * np.where(np.arange(64) < 48, 1e-3, 1))
    small = pruning.prune_channels(model, 48 / (32 + 48 + 64), scope="global", round_to=1, verify=True)
    assert widths(small) == [32, 48, 16, 5]


def test_equal_channels_go_from_the_end():
    model = convolutional()
    for variable in model.weights:
        variable.assign(np.ones(variable.shape))
    first = model.get_layer("first")
    first.bias.assign(np.arange(32.0))
    small = pruning.prune_channels(model, 0.5)
    np.testing.assert_array_equal(small.get_layer("first").bias, np.arange(16))


def test_a_ratio_by_which_nothing_goes_is_refused():
    model = net(lambda x: Dense(3)(Dense(16)(x)), (6,))
    trained = []

    def train(one, callbacks):
        trained.append(one)

    refused = r"ratio=0\.0?1 removes no channel of .*, because .* Use a larger ratio or round_to=1"
    for options in (
        {},
        {"train": train},
        {"rounds": 2, "round_to": 64, "train": train},
    ):
        with pytest.raises(
            ValueError,
            match=refused,
        ):
            pruning.prune_channels(model, 0.01 if options.get("rounds") else 0.1, **options)
    assert not trained
