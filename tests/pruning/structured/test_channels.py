"""prune_channels: what it removes, how much, and what it refuses."""

import keras
import numpy as np
import pytest
from keras import layers

from distill import cost, pruning
from distill.pruning.structured import importance

IMPORTANCES = [
    importance.l1,
    importance.l2,
    importance.fpgm,
    importance.lamp,
    importance.random(0),
]


def convolutional():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(32, 3, activation="relu", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(48, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(5, name="head"),
        ],
        name="convolutional",
    )


def widths(model):
    return [layer.weights[0].shape[-1] for layer in model.layers if layer.weights and layer.name != "norm"]


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


def test_how_it_was_compiled_is_carried_over():
    inputs = {"image": keras.Input((6,), name="image")}
    x = layers.Dense(16, name="hidden")(inputs["image"])
    outputs = {name: layers.Dense(2, name=name)(x) for name in ("one", "other")}
    model = keras.Model(inputs, outputs)
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model.compile(
        keras.optimizers.Adam(schedule, clipnorm=0.5),
        {"one": "mse", "other": keras.losses.Huber(0.3)},
        loss_weights={"one": 2.0, "other": 0.5},
        weighted_metrics={"one": ["mae"]},
        steps_per_execution=3,
        jit_compile=False,
    )
    small = pruning.prune_channels(model, 0.5)
    assert (small.steps_per_execution, small.run_eagerly, small.jit_compile) == (3, False, False)
    assert small.optimizer.clipnorm == 0.5
    assert small.optimizer._learning_rate.get_config() == schedule.get_config()
    assert [tensor.name for tensor in small.inputs] == ["image"]
    assert small.output_names == model.output_names == ["one", "other"]
    assert [v.path for v in small.variables] == [v.path for v in model.variables]
    data = {"image": np.ones((4, 6), "float32")}
    y, found = {name: np.zeros((4, 2), "float32") for name in outputs}, small(data)
    weights = {"one": np.arange(4.0), "other": np.ones(4)}
    logs = small.evaluate(data, y, sample_weight=weights, verbose=0, return_dict=True)
    one = 1.5 * np.square(found["one"]).mean()  # the weights' mean
    other = keras.losses.Huber(0.3)(y["other"], found["other"])
    np.testing.assert_allclose(logs["loss"], 2 * one + 0.5 * other, rtol=1e-5)
    np.testing.assert_allclose(logs["one_mae"], np.abs(found["one"]).mean(), rtol=1e-5)
    model.compile("sgd", "mse", run_eagerly=True)
    assert pruning.prune_channels(model, 0.5).run_eagerly


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize(("what", "share"), [("macs", 0.5), ("params", 0.4), ("macs", 0.2)])
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


def test_numbers_are_rounded_where_there_are_enough():
    small = pruning.prune_channels(convolutional(), 0.3)
    assert widths(small) == [24, 32, 48, 5]  # of 22.4, 33.6 and 44.8
    small = pruning.prune_channels(convolutional(), 0.3, round_to=1)
    assert widths(small) == [22, 34, 45, 5]
    small = pruning.prune_channels(convolutional(), 0.5, round_to=32)
    assert widths(small) == [16, 24, 32, 5]  # the first two have less than 64


def test_a_latency_is_met_by_measuring(monkeypatch):
    times = []

    def latency(model):
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

    def latency(model):
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


def test_a_target_is_reached_in_steps_and_importance_found_anew():
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


def test_steps_do_not_round_small_groups_back_to_where_they_were():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(16), layers.Dense(1)])
    assert pruning.prune_channels(model, 0.5, rounds=3).layers[0].units == 8


def test_a_latency_is_reached_in_steps(monkeypatch):
    def latency(model):
        return cost.Latency(cost.macs(model) / 1e6, 0, 0, runs=1)

    monkeypatch.setattr("distill.pruning.structured._costs.latency", latency)
    model = convolutional()
    target = 0.4 * cost.macs(model) / 1e6
    small = pruning.prune_channels(model, latency_ms=target, rounds=2)
    assert abs(cost.macs(small) / 1e6 - target) <= 0.02 * target


def test_numbers_are_rounded_as_far_as_a_target_allows():
    model = convolutional()
    with pytest.raises(ValueError, match="met within 2%, .* smaller round_to if you gave one"):
        pruning.prune_channels(model, macs=0.11, round_to=8)
    small = pruning.prune_channels(model, macs=0.11)
    assert abs(cost.macs(small) / cost.macs(model) - 0.11) <= 0.02 * 0.11
    assert all(width % 2 == 0 for width in widths(small)[:-1])


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


def test_a_target_between_two_models_is_refused_with_both():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(4), layers.Dense(1)])
    with pytest.raises(ValueError, match="macs=10; the nearest are 9 and 12. Ask for one of them"):
        pruning.prune_channels(model, macs=10)
    assert pruning.prune_channels(model, macs=9).layers[0].units == 3


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


def test_a_taught_layer_with_weights_is_cut():
    @keras.saving.register_keras_serializable("test_channels")
    class Gain(layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=shape[-1:], initializer="random_normal", name="gain")

        def call(self, x):
            return x * self.gain

    def rule(call):
        (gain,) = call.weight(call.operation.gain, scales=[0])
        call.unite(gain, call.inputs[0][-1])
        return call.inputs[0]

    model = keras.Sequential([keras.Input((6,)), layers.Dense(16), Gain(), layers.Dense(3)])
    with pytest.raises(ValueError, match="Nothing in '.*' can be removed: dense"):
        pruning.prune_channels(model, 0.5)
    small = pruning.prune_channels(model, 0.5, rules={Gain: rule}, verify=True)
    assert small.layers[1].gain.shape == (8,)


def test_a_wrong_rule_is_found():
    class Turned(layers.Layer):
        def call(self, x):
            return x[:, ::-1]

    model = keras.Sequential([keras.Input((6,)), layers.Dense(16), Turned(), layers.Dense(3)])
    with pytest.raises(RuntimeError, match="Every tensor of the pruned model"):
        pruning.prune_channels(model, 0.5, rules={Turned: lambda call: call.inputs[0]}, verify=True)


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
    with pytest.raises(RuntimeError, match="exact=False explains a difference at a normalization"):
        pruning.prune_channels(model, 0.5, exact=False, verify=True)


def scoring(scores):
    """An importance that gives one axis these scores, or each of its positions this one."""

    def importance(structure):
        slot = next(slot for slot in structure.slots if slot.path == "first" and slot.role == "output")
        yield slot.labels, np.full(slot.labels.shape, scores) if np.ndim(scores) == 0 else scores

    return importance


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of ratio, macs, params, latency_ms must be given. Received: none of them"),
        ({"ratio": 0.5, "macs": 0.5}, "Received: {'ratio': 0.5, 'macs': 0.5}"),
        ({"ratio": 1.0}, "must be between 0 and 1. Received: ratio=1.0"),
        ({"ratio": 0}, "must be between 0 and 1"),
        ({"macs": -1}, "must be more than 0. Received: macs=-1"),
        ({"macs": 10}, "Only macs from .* can be reached. Received: macs=10"),
        ({"params": 10**9}, "Only params from .* can be reached. Received: params=1,000,000,000"),
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


def test_a_number_is_a_number():
    with pytest.raises(TypeError, match="ratio must be a number. Received: '0.5'"):
        pruning.prune_channels(convolutional(), "0.5")


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="only be found in the graph"):
        pruning.prune_channels(Own(), 0.5)
