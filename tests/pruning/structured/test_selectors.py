"""Layers that are left alone, and shares of single layers."""

import keras
import pytest
from keras import layers
from small_nets import backbone, convolutional, half, widths

from distill import cost, pruning


@pytest.mark.parametrize("exclude", ["dw", "bn", layers.DepthwiseConv2D, lambda layer: layer.name == "bn"])
@pytest.mark.sweep(1)
def test_layers_that_scale_channels_can_be_excluded(exclude):
    small = half(backbone(), exclude=exclude)
    assert small.get_layer("conv").filters == 6
    assert small.get_layer("inner").get_layer("in_conv").filters == 4


@pytest.mark.parametrize("exclude", ["inner", keras.Sequential, "inner/*"])
@pytest.mark.sweep(1)
def test_what_holds_for_a_model_holds_for_its_layers(exclude):
    small = half(backbone(), exclude=exclude)
    assert small.get_layer("conv").filters == 3
    assert small.get_layer("inner").get_layer("in_conv").filters == 8


@pytest.mark.parametrize("exclude", [{"conv"}, layers.Conv2D(3, 1), 3])
def test_a_selector_is_a_name_a_type_or_a_function(exclude):
    with pytest.raises(TypeError, match="exclude must be layer names"):
        half(backbone(), exclude=exclude)


def test_what_is_excluded_stays_and_ratios_go_before():
    small = pruning.prune_channels(convolutional(), 0.5, exclude="first", ratios={layers.Dense: 0.25})
    assert widths(small) == [32, 24, 48, 5]
    small = pruning.prune_channels(
        convolutional(), 0.5, exclude=["first", lambda layer: layer.name == "hidden"]
    )
    assert widths(small) == [32, 24, 64, 5]


def test_shares_of_single_layers_are_a_target():
    small = pruning.prune_channels(convolutional(), ratios={"*st": 0.5, "hidden": 0.25}, verify=True)
    assert widths(small) == [16, 48, 48, 5]
    small = pruning.prune_channels(convolutional(), ratios={"[sh]*": 0.5}, scope="global", round_to=1)
    assert widths(small) == [32, 24, 32, 5]
    small = pruning.prune_channels(convolutional(), macs=0.4, ratios={"se*": 0.5})
    assert widths(small)[1] == 24
    assert abs(cost.macs(small) / cost.macs(convolutional()) - 0.4) <= 0.02 * 0.4
    with pytest.raises(ValueError, match="Received: none of them"):
        pruning.prune_channels(convolutional(), ratios={})
