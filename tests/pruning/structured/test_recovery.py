"""shrink and slim: channels go, and a model learns to do without them."""

import keras
import numpy as np
import pytest
from keras import layers

import distill
from distill import cost, pruning
from distill.pruning.structured._recovery_losses import losses_for

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(32, use_bias=False, name="first"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.Dense(24, use_bias=False, name="second"),
            layers.BatchNormalization(name="norm_2"),
            layers.Dense(3, name="head"),
        ]
    )


@pytest.mark.slow
def test_each_round_leaves_the_same_share_and_learns_from_the_original(batch):
    x, y = batch
    model = net()
    before = model.get_weights()
    seen = []

    def train(distiller, callbacks):
        assert callbacks == []
        assert isinstance(distiller, distill.Distiller)
        assert distiller.teacher.model is model
        seen.append(cost.macs(distiller.student) / cost.macs(model))
        distiller.compile(keras.optimizers.SGD(0.1), LOSS)
        logs = distiller.fit(x, y, verbose=0).history
        assert set(logs) == {"loss", "student_loss", "soft_targets"}

    small = pruning.shrink(model, train, macs=0.25, round_to=1)
    np.testing.assert_allclose(seen, [0.25 ** (1 / 3), 0.25 ** (2 / 3), 0.25], rtol=0.02)
    assert cost.macs(small) / cost.macs(model) == seen[-1]
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    widths = []
    pruning.shrink(
        model, lambda one, _: widths.append(one.student.layers[0].units), 0.75, rounds=2, round_to=1
    )
    assert widths == [16, 8]


def test_a_latency_is_reached_in_rounds(monkeypatch):
    def latency(model, lengths=None):
        return cost.Latency(cost.macs(model) / 1e3, 0, 0, runs=1)

    monkeypatch.setattr("distill.pruning.structured._costs.latency", latency)
    model, seen = net(), []
    target = 0.422
    small = pruning.shrink(
        model, lambda one, _: seen.append(cost.macs(one.student)), latency_ms=target, rounds=2, round_to=1
    )
    assert seen[1] == cost.macs(small) < seen[0] < cost.macs(model)
    assert seen[1] / 1e3 == pytest.approx(target, rel=0.02)


def ending(*heads):
    """A model of these heads: each a number of columns and an activation."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(16, "relu")(inputs)
    return keras.Model(inputs, [layers.Dense(columns, kind)(hidden) for columns, kind in heads])


def named_against_the_alphabet():
    """Keras sorts the outputs of a dictionary."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(16, "relu")(inputs)
    return keras.Model(inputs, {"label": layers.Dense(3, "softmax")(hidden), "box": layers.Dense(2)(hidden)})


def test_outputs_by_name_get_the_loss_of_their_own_head():
    model = named_against_the_alphabet()
    model.compile("sgd", {"label": "sparse_categorical_crossentropy", "box": "mse"})
    found = losses_for(model)
    assert {key: type(loss).__name__ for key, loss in found.items()} == {
        "label": "SoftTargets",
        "box": "OutputMSE",
    }


LOSSES_OF_HEADS = {
    "one number": (ending((1, None)), "mse", ["output_mse"]),
    "numbers": (ending((3, None)), keras.losses.Huber(), ["output_mse"]),
    "positive numbers": (ending((1, "softplus")), keras.losses.mean_absolute_error, ["output_mse"]),
    "bounded numbers": (ending((2, "tanh")), "mean_squared_error", ["output_mse"]),
    "labels": (ending((3, "sigmoid")), "binary_crossentropy", ["bernoulli_soft_targets"]),
    "a logit": (
        ending((1, None)),
        keras.losses.BinaryCrossentropy(from_logits=True),
        ["bernoulli_soft_targets"],
    ),
    "classes": (ending((3, "softmax")), "sparse_categorical_crossentropy", ["soft_targets"]),
    "several": (
        ending((3, "softmax"), (2, None)),
        ["sparse_categorical_crossentropy", "mse"],
        ["output_mse", "soft_targets"],
    ),
}


@pytest.mark.parametrize("case", LOSSES_OF_HEADS)
@pytest.mark.sweep(1)
def test_the_original_is_followed_by_the_loss_of_its_kind(batch, case):
    x, labels = batch
    model, loss, expected = LOSSES_OF_HEADS[case]
    model.compile("sgd", loss)
    numbers = np.random.default_rng(0).uniform(size=(len(x), 3)).round()
    y = [numbers[:, : output.shape[-1]] for output in model.outputs]
    if "soft_targets" in expected:
        y[0] = labels % 3
    seen = []

    def train(distiller, callbacks):
        distiller.compile("sgd", loss)
        seen.append(distiller.fit(x, y if len(y) > 1 else y[0], verbose=0, callbacks=callbacks).history)

    small = pruning.shrink(model, train, 0.5, rounds=1, round_to=1)
    assert small.count_params() < model.count_params()
    names = ("bernoulli_soft_targets", "output_mse", "soft_targets")
    terms = [next(name for name in names if name in key) for key in seen[0] if key.endswith(names)]
    assert sorted(terms) == expected


@pytest.mark.parametrize("compiled", [False, True])
def test_numbers_taken_for_classes_are_an_error_before_the_training(compiled):
    model = ending((3, None))
    if compiled:
        model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"compiled with 'mse'. Pass losses=distill.losses.OutputMSE\(\)"):
        pruning.shrink(model, lambda one, _: one.compile("sgd", "mse"), 0.5)


def test_a_wrong_option_names_the_function_that_was_called():
    for function in (pruning.shrink, pruning.slim):
        with pytest.raises(
            TypeError, match=rf"{function.__name__}\(\) got an unexpected keyword argument 'wide'"
        ):
            function(net(), print, 0.5, wide=True)


def test_losses_of_the_recovery_can_be_chosen(batch):
    x, _ = batch

    def train(distiller, callbacks):
        distiller.compile("sgd")
        assert set(distiller.fit(x, verbose=0).history) == {"loss", "logit_mse"}

    pruning.shrink(net(), train, 0.5, rounds=1, losses=distill.losses.LogitMSE(), student_loss_weight=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.5, "rounds": 0}, "rounds must be an integer >= 1. Received: rounds=0"),
        ({"ratio": 0.5, "ratios": {"first": 0.2}}, "again in every round. Received: ratios. Use exclude"),
        ({}, "Received: none of them"),
        ({"macs": 0.001}, "can be reached"),
    ],
)
def test_what_is_refused_is_refused_before_training(arguments, message):
    def train(distiller, callbacks):
        raise AssertionError("trained")

    with pytest.raises(ValueError, match=message):
        pruning.shrink(net(), train, **arguments)


def test_slimming_penalizes_scales_and_cuts_the_smallest(batch):
    x, y = batch
    model = net()
    before = model.get_weights()
    penalties, scales = [], []

    def train(one, callbacks):
        assert callbacks == []
        one.compile(keras.optimizers.SGD(0.1), LOSS)
        penalties.append(sum(float(loss) for loss in one.losses))
        one.fit(x, y, epochs=2, verbose=0)
        scales.append(np.abs(np.concatenate([one.get_layer(name).gamma for name in ("norm", "norm_2")])))

    small = pruning.slim(model, train, 0.5, penalty=0.02, round_to=1)
    assert penalties == [pytest.approx(0.02 * (32 + 24)), 0]  # the scales begin at 1
    kept = small.get_layer("first").units + small.get_layer("second").units
    assert kept == 28
    assert small.layers[0].units != 16  # by all layers together
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert [scale.size for scale in scales] == [56, 28]


def test_slimming_starts_the_second_training_from_the_largest_scales():
    model = net()
    values = iter(np.random.default_rng(0).permutation(56) + 1.0)

    def train(one, callbacks):
        if one.get_layer("first").units != 32:
            return
        for name in ("norm", "norm_2"):
            gamma = one.get_layer(name).gamma
            gamma.assign([next(values) for _ in range(gamma.shape[0])])

    small = pruning.slim(model, train, 0.5, round_to=1)
    found = np.concatenate([small.get_layer(name).gamma for name in ("norm", "norm_2")])
    np.testing.assert_array_equal(np.sort(found), np.arange(28) + 29.0)


@pytest.mark.parametrize("penalty", [0, -1, np.inf, "1"])
def test_a_penalty_is_positive(penalty):
    with pytest.raises(ValueError, match="penalty must be a finite number > 0"):
        pruning.slim(net(), lambda model, callbacks: None, 0.5, penalty=penalty)


def test_scales_have_one_penalty():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8),
            layers.BatchNormalization(gamma_regularizer="l1"),
            layers.Dense(3),
        ]
    )
    with pytest.raises(ValueError, match="already has a gamma_regularizer. Remove it"):
        pruning.slim(model, lambda model, callbacks: None, 0.5)


def test_channels_without_a_scale_are_to_be_kept():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="bare"), layers.Dense(3)])
    with pytest.raises(ValueError, match="no score for channels of 'bare'. Exclude this layer"):
        pruning.slim(model, lambda model, callbacks: None, 0.5)
