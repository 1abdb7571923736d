"""What explain says of a model."""

import keras
import pytest
from keras import layers, ops

from distill import pruning


def test_explain_says_what_can_go_and_why_the_rest_stays():
    class Own(layers.Layer):
        def call(self, x):
            return x * 2

    inputs = keras.Input((6,))
    x = layers.Dense(8, name="free")(inputs)
    x = Own(name="own")(layers.Dense(8, name="tied")(x))
    model = keras.Model(inputs, layers.Dense(3, name="head")(x), name="mine")
    found = pruning.explain(model)
    assert [(group.name, group.width, group.atoms.size) for group in found.groups] == [
        ("free", 8, 8),
        ("tied", 8, 0),
        ("head", 3, 0),
    ]
    assert found.groups[1].locked == "own: no rule is known for Own"
    assert found.groups[2].locked == "it is an output of the model"
    assert found.unknown == {"own": "Own"}
    (axes,) = found.plot().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["free", "tied", "head"]
    assert [bar.get_width() for bar in axes.patches] == [8, 0, 0, 0, 8, 3]
    assert str(found).splitlines() == [
        "Channels of 'mine'",
        "made by  channels  removable  why the others stay",
        "free            8          8",
        "tied            8          0  own: no rule is known for Own",
        "head            3          0  it is an output of the model",
        "No rule is known for Own (own), so all channels that reach it stay. "
        "Add a rule with rules={type: function of the call}.",
    ]
    taught = pruning.explain(model, rules={Own: lambda call: call.inputs[0]})
    assert [group.atoms.size for group in taught.groups] == [8, 8, 0]
    assert not taught.unknown
    nothing = pruning.explain(keras.Sequential([keras.Input((4,)), layers.ReLU()]))
    assert not nothing.groups
    assert not nothing.plot().axes[0].patches


def test_a_refusal_names_every_layer_that_holds_channels_back():
    class Own(layers.Layer):
        def call(self, x):
            return x * 2

    stack = []
    for number in range(10):
        stack += [layers.Dense(4, name=f"dense_{number}"), Own(name=f"own_{number}")]
    model = keras.Sequential([keras.Input((6,)), *stack, layers.Softmax(name="last")])
    with pytest.raises(ValueError, match="Nothing in .* can be removed") as refusal:
        pruning.prune_channels(model, 0.5)
    said = str(refusal.value)
    assert all(f"dense_{number}: own_{number}: no rule is known for Own" in said for number in range(10))
    assert f"No rule is known for Own ({', '.join(f'own_{number}' for number in range(10))})" in said
    tied = keras.Sequential([keras.Input((6,)), layers.Dense(4, name="made"), layers.Dense(3, name="head")])
    with pytest.raises(ValueError, match="made: excluded; head: it is an output of the model"):
        pruning.prune_channels(tied, 0.5, exclude="made")


def test_channels_that_only_go_together_are_said_to():
    inputs = keras.Input((6,))
    made = layers.Dense(8, name="made")(inputs)
    turned = ops.roll(made, 3, axis=-1)  # 3 and 8 have no common divisor: each channel is tied to all
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(1, name="one")(made + turned)))
    locked = {group.name: group.locked for group in pruning.explain(model).groups}
    assert locked["made"] == "all its channels go together"
    assert locked["one"] == "it makes a single channel"
