"""Targets of parameters, multiply-adds and latency."""

import keras
import numpy as np
import pytest
from keras import layers
from keras.layers import Dense
from small_nets import convolutional, widths

from distill import cost, pruning
from distill.pruning.structured import importance

IMPORTANCES = [
    importance.l1,
    importance.l2,
    importance.fpgm,
    importance.lamp,
    importance.random(0),
]


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize(("what", "share"), [("macs", 0.5), ("parameters", 0.4), ("macs", 0.2)])
@pytest.mark.sweep(2)
def test_targets_are_met(what, share, importance, scope):
    model = convolutional()
    count = cost.macs if what == "macs" else cost.parameters
    small = pruning.prune_channels(
        model, importance=importance, scope=scope, round_to=1, verify=True, **{what: share}
    )
    assert abs(count(small) / count(model) - share) <= 0.02 * share
    absolute = pruning.prune_channels(
        model, importance=importance, scope=scope, round_to=1, **{what: share * count(model)}
    )
    assert abs(count(absolute) / count(model) - share) <= 0.02 * share


def test_numbers_are_rounded_as_far_as_a_target_allows():
    model = convolutional()
    with pytest.raises(ValueError, match="met within 2%, .* smaller round_to if you gave one"):
        pruning.prune_channels(model, macs=0.11, round_to=8)
    small = pruning.prune_channels(model, macs=0.11)
    assert abs(cost.macs(small) / cost.macs(model) - 0.11) <= 0.02 * 0.11
    assert all(width % 2 == 0 for width in widths(small)[:-1])


def test_a_target_that_can_be_reached_is():
    model = keras.Sequential([keras.Input((5,)), Dense(7), Dense(6), Dense(5), Dense(2)])
    assert cost.macs(pruning.prune_channels(model, macs=38)) == 38


def test_a_target_between_two_models_is_refused_with_both():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(4), layers.Dense(1)])
    with pytest.raises(ValueError, match="macs=10; the nearest are 9 and 12. Ask for one of them"):
        pruning.prune_channels(model, macs=10)
    assert pruning.prune_channels(model, macs=9).layers[0].units == 3


def test_neighbours_that_were_only_found_are_said_to_be_that():
    model = keras.Sequential([keras.Input((3,)), *(Dense(40) for _ in range(3)), Dense(1)])
    with pytest.raises(ValueError, match="the nearest found are 6 and 8"):
        pruning.prune_channels(model, macs=7, round_to=1)


@pytest.mark.slow
def test_a_latency_is_met_by_measuring(monkeypatch):
    times = []

    def latency(model, lengths=None):
        times.append(cost.macs(model) / 1e6)
        return cost.Latency(times[-1], times[-1], times[-1], runs=1)

    monkeypatch.setattr("distill.pruning.structured._costs.latency", latency)
    whole = cost.macs(convolutional()) / 1e6
    small = pruning.prune_channels(convolutional(), latency_ms=0.4 * whole)
    assert abs(cost.macs(small) / 1e6 - 0.4 * whole) <= 0.02 * 0.4 * whole
    assert cost.macs(small) / 1e6 == times[-1]
    assert len(times) < 30
    with pytest.raises(
        ValueError, match=r"Only latencies from [\d.]+ to [\d.]+ ms can be .*Received: latency_ms=9"
    ):
        pruning.prune_channels(convolutional(), latency_ms=9)
    with pytest.raises(
        ValueError, match=r"the nearest were [\d.]+ and [\d.]+ ms. .* again when the machine is idle"
    ):
        pruning.prune_channels(convolutional(), latency_ms=0.11 * whole, round_to=8)


def test_channels_of_a_slow_layer_go_first(monkeypatch):
    """Equal scores: what decides is what a channel of the group costs."""

    def latency(model, lengths=None):
        wide = model.get_layer("second").filters
        return cost.Latency(1 + 0.1 * wide, 0, 0, runs=1)

    def equal(structure):
        for slot in structure.slots:
            yield slot.labels, np.ones(slot.labels.size)

    monkeypatch.setattr("distill.pruning.structured._costs.latency", latency)
    options = {"importance": equal, "round_to": 1, "latency_ms": 1 + 0.1 * 12}
    small = pruning.prune_channels(convolutional(), scope="global", **options)
    assert widths(small) == [32, 12, 64, 5]
    assert widths(pruning.prune_channels(convolutional(), **options))[0] < 32
