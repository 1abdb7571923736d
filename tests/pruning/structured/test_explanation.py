"""What explain says of a model."""

import keras
from keras import layers

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
        "No rule is known for Own (once), so all channels that reach it stay. "
        "Add a rule with rules={type: function of the call}.",
    ]
    taught = pruning.explain(model, rules={Own: lambda call: call.inputs[0]})
    assert [group.atoms.size for group in taught.groups] == [8, 8, 0]
    assert not taught.unknown
