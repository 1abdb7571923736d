"""Rules of operations that pick, repeat or rearrange channels, each proved against the original."""

import keras
import numpy as np
import pytest
from backend import since_keras
from channel_cases import cut_at_random
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import cost, pruning


def reads(pick, width=8):
    """A layer whose channels are picked from before another reads them."""

    def build(x):
        return Dense(3)(layers.Flatten()(pick(Dense(width, name="made")(x))))

    model = net(build, (3, 4))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def image(pick):
    def build(x):
        return layers.Conv2D(2, 3, name="out")(pick(layers.Conv2D(16, 3, padding="same", name="made")(x)))

    return net(build, (8, 8, 2))


def channels_first(pick):
    return lambda x: ops.transpose(pick(ops.transpose(x, (0, 3, 1, 2))), (0, 2, 3, 1))


CUT = {
    "halves": lambda x: x[..., :4] * ops.sigmoid(x[..., 4:]),
    "overlapping": lambda x: ops.concatenate([x[..., 1:6], x[..., 3:]], -1),
    "from the end": lambda x: x[..., -5:],
    "every second": lambda x: x[..., ::2] - x[..., 1::2],
    "reversed": lambda x: x[..., ::-1],
    "part of it reversed": lambda x: x[..., 6:2:-1],
    "one": lambda x: x[..., 3],
    "the last but one": lambda x: ops.expand_dims(x[..., -2], -1) * x[..., :4],
    "steps": lambda x: x[:, 1:3],
    "a new axis": lambda x: x[:, None, :, 2:7],
    "slice": lambda x: ops.slice(x, (0, 0, 2), (1, 3, 5)),
    "glu": ops.glu,
    "repeated steps": lambda x: ops.repeat(x, 2, axis=1),
    "repeated": lambda x: ops.repeat(x, 3, axis=-1),
    "tiled": lambda x: ops.tile(x, (1, 2, 2)),
    "rolled": lambda x: ops.roll(x, 3, axis=-1),
    "rolled steps": lambda x: ops.roll(x, 1, axis=1),
    "taken": lambda x: ops.take(x, [5, 0, 2, 7, 5, -3], axis=-1),
    "permuted": lambda x: ops.take(x, np.random.default_rng(0).permutation(8), axis=-1),
    "taken steps": lambda x: ops.take(x, [0, 2], axis=1),
    "one taken": lambda x: ops.take(x, 3, axis=-1),
    "steps apart": lambda x: ops.stack(ops.unstack(x, axis=1)[:2], 1),
    "stacked": lambda x: ops.hstack([x, x]),
    "split": lambda x: ops.add(*ops.array_split(x, 2, axis=-1)),
    "copies": lambda x: x * ops.repeat(Dense(1)(x), 8, axis=-1),
    "copies by tile": lambda x: x * ops.tile(Dense(1)(x), (1, 1, 8)),
    "copies of a vector": lambda x: (
        x * layers.Permute((2, 1))(layers.RepeatVector(8)(layers.Softmax()(layers.Flatten()(Dense(1)(x)))))
    ),
    "a vector, copied and flattened": lambda x: layers.RepeatVector(3)(x[:, 0]),
    "a step, repeated and flattened": lambda x: ops.repeat(x[:, :1], 4, axis=1),
    "a step, tiled and flattened": lambda x: ops.tile(x[:, :1], (1, 4, 1)),
}
SHUFFLES = since_keras("3.14", reason="depth_to_space and space_to_depth")
IMAGES = {
    "depth to space": lambda x: ops.depth_to_space(x, 2),
    "space to depth": lambda x: ops.space_to_depth(x, 2),
    "depth to space, channels first": channels_first(
        lambda x: ops.depth_to_space(x, 2, data_format="channels_first")
    ),
    "space to depth, channels first": channels_first(
        lambda x: ops.space_to_depth(x, 2, data_format="channels_first")
    ),
    "patches": lambda x: ops.image.extract_patches(x, (2, 2)),
}
WHOLE = {
    "every third of some": (lambda x: x[..., 1:6:3], "it picks every 3th of some of the channels"),
    "unknown indices": (
        lambda x: ops.take(x, ops.cast(ops.argmax(x[0], 0), "int32"), axis=-1),
        "what it picks is not known before it runs",
    ),
    "channels apart": (lambda x: ops.unstack(x, axis=-1)[0], "it takes the channels apart"),
    "uneven parts": (lambda x: ops.array_split(x, 3, axis=-1)[0], "ties it to a size that stays"),
    "unevenly repeated": (
        lambda x: ops.repeat(x, [1, 2, 1, 1, 1, 1, 1, 1], axis=-1),
        "it repeats some channels more often than others",
    ),
}


@pytest.mark.parametrize(
    "name",
    [*CUT, *(pytest.param(name, marks=SHUFFLES) if "space" in name else name for name in IMAGES)],
)
@pytest.mark.sweep(3)
def test_channels_are_cut_before_what_picks_from_them(name):
    model = reads(CUT[name]) if name in CUT else image(IMAGES[name])
    made = cut_at_random(model).get_layer("made")
    assert made.kernel.shape[-1] < model.get_layer("made").kernel.shape[-1]


@pytest.mark.parametrize("name", WHOLE)
def test_channels_stay_before_what_is_not_understood(name):
    pick, reason = WHOLE[name]
    (group, *_) = pruning.explain(reads(pick)).groups
    assert group.atoms.size == 0
    assert reason in group.locked


def test_an_index_follows_its_channel():
    """By hand: the channels 0, 1, 4 and 6 go, so what was at 5 is at 2, and 2:7 is 0:3."""
    model = reads(lambda x: ops.concatenate([x[..., 5:6], ops.expand_dims(x[..., 3], -1), x[..., 2:7]], -1))
    scores = np.array([0, 0, 3, 4, 0, 5, 0, 6.0])

    def importance(structure):
        slot = next(slot for slot in structure.slots if slot.path == "made" and slot.role == "output")
        yield slot.labels, scores

    small = pruning.prune_channels(model, 4 / 7, round_to=1, verify=True, importance=importance)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    kernel, bias = model.get_layer("made").weights
    kernel.assign(kernel * (scores > 0))
    bias.assign(bias * (scores > 0))
    assert small.get_layer("made").units == 4
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)


def test_picks_in_a_nested_model_are_those_of_all_its_calls():
    inner = net(lambda x: ops.concatenate([x[..., 2:], x[..., :2]], -1), (3, 8))
    half(reads(lambda x: inner(inner(x))))


def test_multiply_adds_behind_picks_are_known():
    """By hand: 3 positions of 4 inputs and 8 channels; then 3 · 4 numbers of the half, times 3."""
    assert cost.macs(reads(CUT["halves"])) == 3 * 4 * 8 + 3 * 4 * 3


@SHUFFLES
def test_multiply_adds_behind_sub_pixels_are_known():
    # Sixteen channels make four of 2 × 2 as many places; 14 × 14 are left of a 3 × 3 kernel.
    assert cost.macs(image(IMAGES["depth to space"])) == 8 * 8 * 9 * 2 * 16 + 14 * 14 * 9 * 4 * 2


@SHUFFLES
def test_sub_pixel_convolutions_are_cut_as_when_written_by_reshape():
    def by_reshape(x):
        x = ops.transpose(ops.reshape(x, (-1, 8, 8, 2, 2, 4)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 16, 16, 4))

    one, other = image(IMAGES["depth to space"]), image(by_reshape)
    other.set_weights(one.get_weights())
    small, by_hand = half(one), half(other)
    for value, expected in zip(small.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.sweep(1)
def test_shuffled_groups_lose_channels_of_every_group(groups):
    """ShuffleNet: grouped convolutions with a shuffle between them and a shortcut around them."""

    def build(x):
        stem = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
        x = layers.Conv2D(16, 1, groups=groups, activation="relu", name="first")(stem)
        x = layers.Permute((1, 2, 4, 3))(layers.Reshape((4, 4, groups, 16 // groups))(x))
        x = layers.DepthwiseConv2D(3, padding="same")(layers.Reshape((4, 4, 16))(x))
        x = layers.Conv2D(16, 1, groups=groups, name="second")(x)
        return Dense(3, name="head")(layers.GlobalAveragePooling2D()(layers.Add()([stem, x])))

    model = net(build, (4, 4, 3))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    small = half(model)
    stem, second = small.get_layer("stem"), small.get_layer("second")
    assert (stem.filters, second.filters, second.groups) == (8, 8, groups)
    # By hand: what is left of the stem are the same places of every group.
    kept = [i for i, b in enumerate(model.get_layer("stem").bias.numpy()) if b in stem.bias.numpy()]
    places = {tuple(i % (16 // groups) for i in kept if i // (16 // groups) == g) for g in range(groups)}
    assert len(places) == 1


def test_grouped_convolutions_lose_whole_groups_where_they_can():
    model = net(
        lambda x: layers.Conv2D(2, 1)(layers.Conv2D(12, 3, groups=4, name="grouped")(layers.Conv2D(8, 1)(x))),
        (6, 6, 3),
    )
    small = half(model)
    assert small.get_layer("grouped").groups == 2
    assert isinstance(small, keras.Model)
