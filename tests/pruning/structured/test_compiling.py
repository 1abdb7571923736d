"""The smaller model is compiled as the original."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.layers import Dense
from small_nets import half, net

from distill import pruning
from distill._keras import decays


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


def mean_error(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


@keras.saving.register_keras_serializable("test_compiling")
class Own(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return mean_error(y_true, y_pred)


@pytest.mark.parametrize("loss", [mean_error, lambda y, p: ops.mean((y - p) ** 2), Own(), "mse"])
@pytest.mark.sweep(1)
def test_losses_and_metrics_of_ones_own_are_carried_over(loss):
    model = keras.Sequential([keras.Input((4,)), Dense(8), Dense(2)])
    metric = keras.metrics.MeanSquaredError(name="m")
    model.compile(keras.optimizers.Adam(0.123), loss, metrics=[metric, mean_error])
    small = half(model)
    x, y = np.ones((4, 4)), np.zeros((4, 2))
    assert set(small.evaluate(x, y, verbose=0, return_dict=True)) == {"loss", "m", "mean_error"}
    assert float(small.optimizer.learning_rate) == pytest.approx(0.123)
    assert metric.total == 0  # the copy has its own


def test_a_model_without_an_optimizer_stays_so():
    model = keras.Sequential([keras.Input((4,)), Dense(8), Dense(2)])
    model.compile(optimizer=None, loss="mse")
    small = half(model)
    assert small.optimizer is None
    assert small.evaluate(np.ones((4, 4)), np.zeros((4, 2)), verbose=0) >= 0


def test_an_optimizers_own_schedule_and_what_does_not_decay_are_kept():
    class Slow(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5

        def get_config(self):
            return {}

    model = net(lambda x: Dense(3)(Dense(16)(x)), (6,))
    optimizer = keras.optimizers.AdamW(Slow(), weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    new = half(model).optimizer
    assert float(new.learning_rate) == 0.5
    small = half(model)
    assert [small.optimizer._use_weight_decay(one) for one in small.trainable_variables] == [True, False] * 2


def test_a_metric_without_a_config_is_refused_before_any_work():
    class Own(keras.metrics.Mean):
        def __init__(self):
            super().__init__(name="own")

    model = net(lambda x: Dense(3)(Dense(16)(x)), (6,))
    model.compile("sgd", "mse", metrics=[Own()])
    with pytest.raises(ValueError, match="Received: 'own', a Own, which cannot be made from its config"):
        pruning.prune_channels(model, macs=1e-9)


def test_weights_of_a_loaded_model_do_not_decay_either(tmp_path):
    """Its layers have other paths than those of a model that was just built."""
    keras.Sequential([keras.Input((6,)), Dense(16, "relu", name="hidden"), Dense(3, name="head")]).save(
        tmp_path / "m.keras"
    )
    model = keras.models.load_model(tmp_path / "m.keras", compile=False)
    optimizer = keras.optimizers.AdamW(weight_decay=0.05)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer, "mse")
    small = half(model)
    decaying = [variable.name for variable in small.trainable_variables if decays(small.optimizer, variable)]
    assert decaying == ["kernel", "kernel"]
