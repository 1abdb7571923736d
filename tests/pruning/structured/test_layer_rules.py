"""Rules of layers without kernels, and activations."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import Dense
from small_nets import across_positions, half, net, widths

from distill import pruning


@pytest.mark.parametrize("layer", [layers.Cropping1D(1), layers.UpSampling1D(), layers.ZeroPadding1D()])
def test_layers_that_know_channels_last_only(layer):
    half(net(lambda x: Dense(3)(layer(Dense(8)(x))), (6, 4)))


@pytest.mark.parametrize(
    "resize",
    [
        layers.Resizing(5, 9),
        layers.Resizing(12, 12, interpolation="bicubic"),
        layers.Resizing(6, 3, crop_to_aspect_ratio=True),
        layers.CenterCrop(5, 6),
        layers.CenterCrop(12, 9),
        lambda x: ops.image.resize(x, (4, 12), pad_to_aspect_ratio=True, fill_value=3.0),
    ],
)
def test_images_are_resized_channel_by_channel(resize):
    model = net(lambda x: layers.Conv2D(3, 3)(resize(layers.Conv2D(8, 1, name="made")(x))), (8, 8, 2))
    assert half(model).get_layer("made").filters == 4


@pytest.mark.parametrize("fill_value", [0.0, 3.0])
def test_channels_stay_if_what_fills_up_their_sides_is_summed(fill_value):
    def build(x):
        x = layers.Conv2D(8, 1, use_bias=False)(x)
        resize = layers.Resizing(4, 12, pad_to_aspect_ratio=True, fill_value=fill_value)
        return Dense(3)(ops.sum(resize(x), axis=-1))

    model = net(build, (8, 8, 2))
    if fill_value:
        assert "not zero when their weights are" in pruning.explain(model).groups[0].locked
    else:
        half(model)


def test_dropout_follows_the_channels_that_it_names():
    model = net(lambda x: Dense(3)(layers.Dropout(0.5, noise_shape=(None, 1, 8))(Dense(8)(x))), (5, 4))
    small = half(model)
    assert small(np.ones((2, 5, 4)), training=True).shape == (2, 5, 3)


def test_normalizations_keep_what_they_average_over_unless_told():
    inputs = keras.Input((8, 6))
    x = layers.Dense(16, name="stream")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(layers.Dense(16, name="hidden")(x)))
    assert widths(pruning.prune_channels(model, 0.5, verify=True))[:2] == [16, 8]
    locked = pruning.explain(model).groups[0].locked
    assert locked == "norm: LayerNormalization averages over channels; cut them with exact=False"
    small = pruning.prune_channels(model, 0.5, exact=False)
    assert small.get_layer("stream").units == small.get_layer("norm").gamma.shape[0] == 8
    with pytest.raises(RuntimeError, match="exact=False removes channels that a normalization averages over"):
        pruning.prune_channels(model, 0.5, exact=False, verify=True)


@pytest.mark.parametrize("norm", [layers.LayerNormalization, layers.RMSNormalization])
def test_scales_of_normalizations_follow_their_channels(norm):
    model = net(lambda x: Dense(3)(norm(name="norm")(Dense(6, name="made")(x))), (5, 4))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    small = half(model, exact=False, verify=False)
    old, new = (one.get_layer("made").bias.numpy() for one in (model, small))
    kept = np.isin(old, new)
    assert kept.sum() == 3
    for one, other in zip(model.get_layer("norm").weights, small.get_layer("norm").weights, strict=True):
        np.testing.assert_array_equal(other, one.numpy()[kept])


@pytest.mark.parametrize("axis", [-1, (1, 2)])
def test_norms_are_those_of_what_is_not_zero(axis):
    model = net(lambda x: Dense(3)(layers.UnitNormalization(axis)(Dense(8, name="made")(x))), (5, 6))
    assert half(model).get_layer("made").units == 4
    model = net(lambda x: Dense(3)(layers.UnitNormalization()(Dense(8, "sigmoid", name="made")(x))), (5, 6))
    (group, _) = pruning.explain(model).groups
    assert group.locked.endswith("it sums over channels that are not zero when their weights are")


def test_an_unknown_activation_may_look_along_any_axis():
    def build(x):
        return Dense(3)(
            layers.Flatten()(
                Dense(5, activation=across_positions)(layers.Permute((2, 1))(Dense(8, name="d")(x)))
            )
        )

    small = half(model := net(build, (4, 6)))
    assert small.get_layer("d").units == 8
    assert pruning.explain(model).groups[0].locked.endswith("across_positions reaches across this axis")
