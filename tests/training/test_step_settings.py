"""Steps in a call and XLA: what is tried and set, and that results stay. No test depends on times."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import FEATURES, dense_net
from keras import layers

import distill
from distill.training import _step_settings as tuning
from distill.training import fastest


def plain(seed=1):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dropout(0.3)(keras.layers.Dense(8, "relu")(inputs))
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))


def distilled(seed=1):
    student = plain(seed)
    return distill.Distiller(dense_net(16), student, distill.losses.CurriculumTemperature(100))


class Uncompilable(keras.layers.Layer):
    """Has an operation that XLA does not know."""

    def call(self, inputs):
        return tf.ensure_shape(tf.numpy_function(np.copy, [inputs], inputs.dtype), inputs.shape)


def compiled(make, **kwargs):
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **kwargs)
    return model


def bits(model):
    return bits_of([*model.variables, *model.metrics_variables, *model.optimizer.variables])


def bits_of(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)).tobytes() for variable in variables]


@pytest.fixture
def takes(monkeypatch):
    """Makes a call take so many seconds for its settings, without running it; returns the settings that were timed."""

    def make(seconds):
        ran = []

        def timed(model, batches):
            ran.append((model.steps_per_execution, model.jit_compile))
            return seconds(*ran[-1])

        monkeypatch.setattr(tuning, "seconds_of", timed)
        return ran

    return make


@pytest.mark.usefixtures("deterministic")
@pytest.mark.slow
def test_with_deterministic_operations_training_goes_the_same_way(batch, takes):
    takes(lambda steps, jit: {1: 2.0, 4: 1.0}[steps])
    models = compiled(distilled), compiled(distilled)
    found = fastest(models[0], batch, batch_size=8, steps=(1, 4), runs=2)
    assert [row.difference for row in found.rows] == [0.0, 0.0]
    assert models[0].steps_per_execution == 4
    for model in models:
        keras.utils.set_random_seed(5)
        model.fit(*batch, batch_size=8, epochs=2, verbose=0)
    assert bits(models[0]) == bits(models[1])


@pytest.mark.parametrize("make", [plain, distilled])
@pytest.mark.sweep(1)
def test_the_fastest_is_set_and_training_goes_the_same_way_as_without(make, batch, takes):
    takes(lambda steps, jit: {1: 2.0, 2: 1.0, 4: 4.0}[steps])
    models = compiled(make), compiled(make)
    before = bits_of(models[0].variables)
    drawn = random.getstate(), np.random.get_state()[1].copy()
    found = fastest(models[0], batch, batch_size=8, steps=(1, 2, 4), runs=2)
    assert [(row.steps_per_execution, row.jit_compile, row.step_ms) for row in found.rows] == [
        (1, False, 2000.0),
        (2, False, 500.0),
        (4, False, 1000.0),
    ]
    assert [row.difference for row in found.rows] == [0.0, 0.0, 0.0]
    assert found.chosen == found.rows[1]
    assert (models[0].steps_per_execution, models[0].jit_compile) == (2, False)
    assert (random.getstate(), list(np.random.get_state()[1])) == (drawn[0], list(drawn[1]))
    assert bits_of(models[0].variables) == before
    assert not any(np.any(variable) for variable in models[0].metrics_variables)
    histories = [model.fit(*batch, batch_size=8, epochs=2, verbose=0).history for model in models]
    assert histories[0] == histories[1]
    assert bits(models[0]) == bits(models[1])


def test_a_trained_model_keeps_its_state_and_takes_several_steps_in_a_call(batch, takes):
    model = compiled(plain)
    model.fit(*batch, batch_size=8, verbose=0)
    before, evaluated = bits(model), model.evaluate(*batch, verbose=0)
    model.reset_metrics()
    takes(lambda steps, jit: 1.0)
    fastest(model, batch, batch_size=8, steps=(5,), runs=1)
    model.reset_metrics()
    assert model.steps_per_execution == 5
    np.testing.assert_allclose(model.evaluate(*batch, verbose=0), evaluated, rtol=1e-6)
    calls = []
    model.fit(
        *batch,
        batch_size=8,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: calls.append(step))],
    )
    assert calls == [4]
    assert before != bits(model)


@pytest.mark.slow
def test_measured_times_are_of_a_step(batch):
    found = fastest(compiled(plain), batch, batch_size=8, steps=(1, 4), runs=2)
    assert all(0 < row.step_ms < 1000 for row in found.rows)


def test_settings_take_turns_with_as_many_steps_each(batch, takes):
    ran = takes(lambda steps, jit: steps)
    fastest(compiled(plain, run_eagerly=True), batch, batch_size=4, steps=(1, 2, 4), runs=3)
    assert len(ran) == 3 * (4 + 2 + 1)
    for turn in range(3):
        assert sorted(ran[7 * turn : 7 * turn + 7]) == [(1, False)] * 4 + [(2, False)] * 2 + [(4, False)]


def test_the_own_setting_is_tried_first_and_kept_if_nothing_is_surely_faster(batch, takes):
    takes(lambda steps, jit: steps * (1.0 if steps == 2 else 0.98))
    model = compiled(plain, steps_per_execution=2, run_eagerly=True)
    found = fastest(model, batch, batch_size=8, steps=(1, 4), runs=1)
    assert [row.steps_per_execution for row in found.rows] == [2, 1, 4]
    assert (found.chosen, model.steps_per_execution) == (found.rows[0], 2)


def test_no_more_steps_go_into_a_call_than_there_are_batches(batch, takes):
    takes(lambda steps, jit: 1.0)
    x, y = (part[:20] for part in batch)
    found = fastest(compiled(plain, run_eagerly=True), (x, y), batch_size=8, steps=(1, 3, 4), runs=1)
    assert [row.steps_per_execution for row in found.rows] == [1, 3]
    endless = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    found = fastest(compiled(plain, run_eagerly=True), endless, batch_size=8, steps=(1, 4), runs=1)
    assert [row.steps_per_execution for row in found.rows] == [1, 4]


def test_data_that_comes_in_another_order_each_time_is_read_once(batch, takes):
    takes(lambda steps, jit: 1.0)
    shuffled = tf.data.Dataset.from_tensor_slices(batch).shuffle(40)
    found = fastest(compiled(plain), shuffled, batch_size=8, steps=(1, 2), runs=1)
    assert [row.difference for row in found.rows] == [0.0, 0.0]


@pytest.mark.slow
def test_xla_is_tried_if_a_tolerance_allows_it(batch, takes):
    takes(lambda steps, jit: steps * (0.5 if jit else 1.0))
    model = compiled(lambda: dense_net(8))
    found = fastest(model, batch, batch_size=8, steps=(1, 2), tolerance=1e-3, runs=1)
    assert [(row.steps_per_execution, row.jit_compile) for row in found.rows] == [
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    ]
    assert all(0 <= row.difference < 1e-4 for row in found.rows)
    assert found.chosen == found.rows[1]
    assert (model.steps_per_execution, model.jit_compile) == (1, True)
    assert model.get_compile_config()["jit_compile"] is True
    model.fit(*batch, batch_size=8, verbose=0)


def test_a_loss_that_differs_too_much_is_not_chosen(batch, takes, monkeypatch):
    takes(lambda steps, jit: 1.0)  # so two steps in a call are twice as fast
    trained = tuning._trained

    def apart(model, *arguments):
        values, loss = trained(model, *arguments)
        if model.steps_per_execution == 2:
            return [b"other", *values], loss * 1.01
        return values, loss

    monkeypatch.setattr(tuning, "_trained", apart)
    model = compiled(plain, run_eagerly=True)
    found = fastest(model, batch, batch_size=8, steps=(2,), tolerance=0.009, runs=1)
    assert found.rows[1].difference == pytest.approx(0.01, rel=1e-5)
    assert found.chosen.steps_per_execution == 1
    assert "loss differs by 0.01, more than 0.009" in str(found)
    found = fastest(model, batch, batch_size=8, steps=(2,), tolerance=0.011, runs=1)
    assert found.chosen.steps_per_execution == 2


def test_weights_that_differ_under_one_loss_are_no_equal_results():
    loss = np.array([0.5])
    assert tuning._difference(([b"a"], loss), ([b"a"], loss)) == 0.0
    assert tuning._difference(([b"a"], loss), ([b"b"], loss)) == np.finfo("float32").eps
    assert tuning._difference(([b"a"], loss), ([b"b"], np.array([np.nan]))) == np.inf


def test_what_the_machine_does_not_repeat_itself_is_allowed(batch, takes, monkeypatch):
    takes(lambda steps, jit: 1.0)
    trained, noise = tuning._trained, iter([1.0, 1.01, 1.009])

    def noisy(*arguments):
        factor = next(noise)
        return [str(factor).encode()], trained(*arguments)[1] * factor

    monkeypatch.setattr(tuning, "_trained", noisy)
    found = fastest(compiled(plain, run_eagerly=True), batch, batch_size=8, steps=(2,), runs=1)
    assert found.chosen.steps_per_execution == 2
    assert found.tolerance == pytest.approx(0.01, rel=1e-5)


def test_what_xla_does_not_compile_is_a_row(batch, takes):
    takes(lambda steps, jit: 1.0)

    def make():
        return keras.Sequential([keras.Input((FEATURES,)), Uncompilable(), keras.layers.Dense(3, "softmax")])

    model = compiled(make, jit_compile=False)
    found = fastest(model, batch, batch_size=8, steps=(1,), tolerance=0.1, runs=1)
    assert found.rows[1].step_ms is None
    assert found.rows[1].failed
    assert f"failed: {found.rows[1].failed}" in str(found)
    assert (model.steps_per_execution, model.jit_compile) == (1, False)
    model.fit(*batch, verbose=0)


def test_an_error_on_the_way_leaves_the_model_and_its_settings_as_they_were(batch, monkeypatch):
    model = compiled(plain, run_eagerly=True)
    model.fit(*batch, verbose=0)
    model.reset_metrics()
    before, function = bits(model), model.train_function

    def breaks(*arguments):
        raise RuntimeError("unplugged")

    monkeypatch.setattr(tuning, "seconds_of", breaks)
    with pytest.raises(RuntimeError, match="unplugged"):
        fastest(model, batch, batch_size=8, steps=(1, 4))
    assert (model.steps_per_execution, model.train_function) == (1, function)
    assert model.get_compile_config()["steps_per_execution"] == 1
    assert bits(model) == before


def test_the_table_names_what_was_tried():
    rows = (
        tuning.StepSetting(1, False, 2.0, 0.0),
        tuning.StepSetting(16, False, 1.0, 0.0),
        tuning.StepSetting(16, True, 0.5, 3.14e-7),
        tuning.StepSetting(1, True, None, np.inf, "no kernel"),
    )
    assert str(tuning.StepSettings(rows, rows[2], 1e-3)).splitlines() == [
        "steps per call  XLA  ms per step  speed  results",
        "             1   no        2.000   1.00  same bits",
        "            16   no        1.000   2.00  same bits",
        "            16  yes        0.500   4.00  loss differs by 3e-07",
        "             1  yes            –      –  failed: no kernel",
        "set: steps_per_execution=16, jit_compile=True",
    ]
    assert str(tuning.StepSettings(rows[:2], rows[1], 0.0)).endswith(
        "set: steps_per_execution=16, jit_compile=False\n"
        "jit_compile=True, which changes last bits, is tried with tolerance=1e-3"
    )
    assert "is tried" not in str(tuning.StepSettings(rows[:2], rows[1], 1e-3))  # of a model that runs eagerly


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 0},
        {"batch_size": 8.0},
        {"steps": ()},
        {"steps": (4, 1)},
        {"steps": (0,)},
        {"tolerance": -0.1},
        {"tolerance": float("nan")},
        {"runs": 0},
        {"seconds": -1},
    ],
)
def test_impossible_arguments_are_refused(changes, batch):
    with pytest.raises(ValueError, match=rf"Received: .*{next(iter(changes))}="):
        fastest(compiled(plain), batch, **{"batch_size": 8, **changes})


def test_models_that_cannot_be_measured_are_refused(batch, monkeypatch):
    with pytest.raises(ValueError, match="fastest needs a model that is compiled.*compiled=False"):
        fastest(plain(), batch, batch_size=8)
    with pytest.raises(ValueError, match="at least one example"):
        fastest(compiled(plain), (np.zeros((0, FEATURES)), np.zeros(0)), batch_size=8)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="backend jax"):
        fastest(compiled(plain), batch, batch_size=8)


def test_lists_are_several_inputs():
    inputs = [keras.Input((3,)), keras.Input((2,))]
    model = keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(inputs)))
    model.compile("sgd", "mse")
    x = [np.ones((4, 3), "float32"), np.ones((4, 2), "float32")]
    found = fastest(model, (x, np.ones((4, 2), "float32")), batch_size=2, steps=(1,), runs=1)
    assert found.chosen.steps_per_execution == 1
