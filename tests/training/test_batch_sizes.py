"""Batch sizes: what is measured, which sizes fit, and that the model is left as it was. No test depends on times."""

import random
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import FEATURES, dense_net

import distill
from distill.training import _batch_sizes as tuning

IN_USE = 1000


def plain(seed=1):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dropout(0.3)(keras.layers.Dense(8, "relu")(inputs))
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))


def distilled(seed=1):
    student = plain(seed)
    return distill.Distiller(dense_net(16), student, distill.losses.CurriculumTemperature(100))


def compiled(make, **kwargs):
    model = make()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], **kwargs)
    return model


def state(model):
    variables = (*model.variables, *model.metrics_variables, *model.optimizer.variables)
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


@pytest.fixture
def memory(monkeypatch):
    """Makes a batch of n take 10 n bytes beside `IN_USE`, and returns the sizes that were run."""
    ran = []
    run = tuning.seconds_of

    def counted(model, batch):
        ran.append(len(next(batch)[1]))
        return run(model, batch)

    monkeypatch.setattr(tuning, "seconds_of", counted)
    monkeypatch.setattr(
        tuning, "_peak_memory", lambda *, reset=False: IN_USE + (0 if reset or not ran else 10 * ran[-1])
    )
    return ran


def test_each_size_has_a_row(batch):
    found = tuning.largest_batch(compiled(plain, steps_per_execution=2), batch, sizes=(4, 16, 64), runs=3)
    assert [row.batch_size for row in found.rows] == [4, 16, 64]
    assert (found.largest, found.refused) == (64, None)
    for row in found.rows:
        assert row.examples_per_second == pytest.approx(1000 * row.batch_size / row.step_ms)
        assert row.peak_bytes is None or row.peak_bytes > 1e6
    assert found.fastest == max((row.examples_per_second, row.batch_size) for row in found.rows)[1]


def test_the_table_names_what_was_found():
    rows = (tuning.BatchSize(8, 4000.0, 2.0, 2_000_000), tuning.BatchSize(16, 3200.4, 5.0, None))
    assert str(tuning.BatchSizes(rows, 32)).splitlines() == [
        "batch size  examples/s  ms per step     peak MB",
        "         8       4,000         2.00           2",
        "        16       3,200         5.00           –",
        "largest 16 (32 does not fit), fastest 8",
    ]
    assert "all sizes tried fit" in str(tuning.BatchSizes(rows, None))


@pytest.mark.parametrize("make", [plain, distilled])
@pytest.mark.sweep(1)
def test_the_model_is_left_as_it_was(make, batch):
    model = compiled(make)
    model.fit(*batch, epochs=1, batch_size=16, verbose=0)
    before, drawn = state(model), (random.getstate(), np.random.get_state()[1].copy())
    tuning.largest_batch(model, batch, sizes=(2, 4), runs=2)
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(new, old)
    assert random.getstate() == drawn[0]
    np.testing.assert_array_equal(np.random.get_state()[1], drawn[1])


@pytest.mark.parametrize("make", [plain, distilled])
@pytest.mark.sweep(1)
def test_training_goes_the_same_way_as_without_the_measurement(make, batch):
    """The model has not taken a step yet, so neither its optimizer nor its metrics are built."""
    models = compiled(make), compiled(make)
    tuning.largest_batch(models[0], batch, sizes=(2, 40), runs=1)
    assert not any(np.any(variable) for variable in models[0].metrics_variables)
    histories = [model.fit(*batch, batch_size=16, shuffle=False, verbose=0).history for model in models]
    assert histories[0] == histories[1]
    for one, other in zip(*map(state, models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_error_on_the_way_leaves_the_model_as_it_was(batch, monkeypatch):
    model = compiled(plain, run_eagerly=True)
    model.fit(*batch, epochs=1, verbose=0)
    before = state(model)
    run, calls = tuning.seconds_of, iter(range(3))

    def breaks(*arguments):
        seconds = run(*arguments)
        if next(calls) == 2:
            raise RuntimeError("unplugged")
        return seconds

    monkeypatch.setattr(tuning, "seconds_of", breaks)
    with pytest.raises(RuntimeError, match="unplugged"):
        tuning.largest_batch(model, batch, sizes=(2, 4))
    for old, new in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("error", [tf.errors.ResourceExhaustedError(None, None, "OOM"), MemoryError()])
def test_a_size_that_runs_out_of_memory_does_not_fit(error, batch, monkeypatch):
    model, run = compiled(plain, run_eagerly=True), tuning.seconds_of

    def full(model, iterator):
        if len(next(iterator)[1]) > 8:
            raise error
        return run(model, iterator)

    monkeypatch.setattr(tuning, "seconds_of", full)
    found = tuning.largest_batch(model, batch, sizes=(4, 8, 16, 32), runs=1)
    assert (found.largest, found.refused) == (8, 16)


def test_a_size_above_the_limit_does_not_fit_and_no_larger_one_is_run(batch, memory):
    model = compiled(plain, run_eagerly=True)
    found = tuning.largest_batch(model, batch, sizes=(4, 8, 16, 32), memory_limit=IN_USE + 80, runs=1)
    assert (found.largest, found.refused) == (8, 16)
    assert [row.peak_bytes for row in found.rows] == [IN_USE + 40, IN_USE + 80]
    assert max(memory) == 16


def test_sizes_take_turns(batch, memory):
    tuning.largest_batch(compiled(plain, run_eagerly=True), batch, sizes=(4, 8), runs=3)
    assert memory == [4, 4, 8, 8, *[4, 8] * 3]


def test_where_nothing_fits_it_says_so(batch, memory):
    model = compiled(plain, run_eagerly=True)
    before = [np.array(weight) for weight in model.get_weights()]
    with pytest.raises(MemoryError, match="Not even the smallest batch fits.*from 4 on and memory_limit=1,"):
        tuning.largest_batch(model, batch, sizes=(4, 8), memory_limit=1)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_data_sets_and_unlabelled_inputs(batch):
    x, y = batch
    model = compiled(plain, run_eagerly=True)
    examples = tf.data.Dataset.from_tensor_slices((x[:3], y[:3]))
    assert tuning.largest_batch(model, examples, sizes=(8,), runs=1).largest == 8
    unlabelled = distill.Distiller(dense_net(16), plain(), distill.SoftTargets(2.0), student_loss_weight=0)
    unlabelled.compile("adam", run_eagerly=True)
    assert tuning.largest_batch(unlabelled, x, sizes=(8,), runs=1).largest == 8


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read on Linux alone")
def test_the_peak_is_seen_after_memory_was_freed():
    start = tuning._peak_memory(reset=True)
    ones = np.ones(100_000_000, "uint8")
    del ones
    assert tuning._peak_memory() > start + 90_000_000
    assert tuning._peak_memory(reset=True) < start + 50_000_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ()}, "must be ascending integers >= 1"),
        ({"sizes": (0, 1)}, "must be ascending integers >= 1"),
        ({"sizes": (4.0, 8.0)}, r"Received: sizes=\(4.0, 8.0\)"),
        ({"sizes": 8, "runs": 1.5}, r"Received: sizes=\(8,\), runs=1.5"),
        ({"memory_limit": "1GB"}, "memory_limit='1GB'"),
        ({"sizes": (8, 4)}, "Received: sizes=\\(8, 4\\)"),
        ({"runs": 0}, "runs=0"),
        ({"data": (np.zeros((0, FEATURES)), np.zeros(0))}, "at least one example"),
        ({"model": plain()}, "compiled=False"),
    ],
)
def test_impossible_arguments_are_refused(changes, message, batch):
    with pytest.raises(ValueError, match=message):
        tuning.largest_batch(**{"model": compiled(plain), "data": batch, **changes})


def test_a_model_without_inputs_is_refused(batch):
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="built=False.*keras.Input"):
        tuning.largest_batch(model, batch)


def test_a_limit_where_memory_cannot_be_read_is_refused(batch, monkeypatch):
    monkeypatch.setattr(tuning, "_peak_memory", lambda **_: None)
    model = compiled(plain, run_eagerly=True)
    with pytest.raises(ValueError, match="memory_limit needs memory that can be read"):
        tuning.largest_batch(model, batch, memory_limit=10**9)
    assert tuning.largest_batch(model, batch, sizes=(4,), runs=1).rows[0].peak_bytes is None


def test_a_peak_that_cannot_be_reset_is_none(batch, monkeypatch):
    """Of the whole process, it would say nothing about a size."""
    monkeypatch.setattr(tuning, "_peak_memory", lambda *, reset=False: None if reset else 10**12)
    found = tuning.largest_batch(compiled(plain, run_eagerly=True), batch, sizes=(4,), runs=1)
    assert found.rows[0].peak_bytes is None


def test_other_backends_are_refused(batch, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="backend jax"):
        tuning.largest_batch(compiled(plain), batch)
