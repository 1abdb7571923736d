"""Rounds: a target is reached little by little."""

import keras
import pytest
from keras import layers
from keras.layers import Dense
from small_nets import convolutional, widths

from distill import cost, pruning
from distill.pruning.structured import importance


def test_a_target_is_reached_in_rounds_and_importance_found_anew():
    asked = []

    def counting(structure):
        asked.append(structure.model.get_layer("first").filters)
        return importance.l2(structure)

    model = convolutional()
    small = pruning.prune_channels(model, 0.75, rounds=2, importance=counting, round_to=1, verify=True)
    assert asked == [32, 16]
    assert widths(small) == [8, 12, 16, 5]
    asked.clear()
    small = pruning.prune_channels(model, macs=0.25, rounds=3, importance=counting, verify=True)
    assert len(asked) == 3
    assert abs(cost.macs(small) / cost.macs(model) - 0.25) <= 0.02 * 0.25
    assert widths(model) == [32, 48, 64, 5]


def test_rounds_do_not_round_small_groups_back_to_where_they_were():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(16), layers.Dense(1)])
    assert pruning.prune_channels(model, 0.5, rounds=3).layers[0].units == 8


@pytest.mark.slow
def test_a_latency_is_reached_in_several_rounds(monkeypatch):
    def latency(model, lengths=None):
        return cost.Latency(cost.macs(model) / 1e6, 0, 0, runs=1)

    monkeypatch.setattr("distill.pruning.structured._costs.latency", latency)
    model = convolutional()
    target = 0.4 * cost.macs(model) / 1e6
    small = pruning.prune_channels(model, latency_ms=target, rounds=2)
    assert abs(cost.macs(small) / 1e6 - target) <= 0.02 * target


def test_rounds_before_the_last_come_as_near_as_they_can():
    model = keras.Sequential([keras.Input((16,)), Dense(32), Dense(1)])
    widths = []
    small = pruning.prune_channels(
        model, macs=0.25, round_to=8, rounds=3, train=lambda one, _: widths.append(one.layers[0].units)
    )
    assert small.layers[0].units == 8
    assert widths == sorted(widths, reverse=True)
    assert len(widths) == 3


@pytest.mark.parametrize(
    ("inputs", "widths", "options", "expected"),
    [
        (16, (32,), {"macs": 0.25, "round_to": 8, "rounds": 3}, [[24], [16], [8]]),
        (16, (40,), {"macs": 0.6, "round_to": 8, "rounds": 3}, [[32], [32], [24]]),
        # Half way between the whole and the target lies nearer to [6, 5], which has fewer than the target.
        (3, (6, 6), {"macs": 0.886, "round_to": 1, "rounds": 2}, [[6, 6], [6, 5]]),
    ],
)
def test_a_round_takes_the_nearest_that_leaves_the_target_in_reach(inputs, widths, options, expected):
    stack = [Dense(width) for width in widths]
    model = keras.Sequential([keras.Input((inputs,)), *stack, Dense(1)])
    seen = []

    def train(small, callbacks):
        assert callbacks == []
        seen.append([layer.units for layer in small.layers[:-1]])

    pruning.prune_channels(model, **options, train=train)
    assert seen == expected
