"""Real workers over loopback equal one process, and go on after they were killed.

This file is also the program that the workers run: `compare` or `killed`, with a folder.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from launching import launch

import distill
from distill import _keras, cache
from distill.training import Backup

EPOCHS, BATCH = 4, 16
UNEVEN = {"uneven": 53, "one worker has none": 49}  # the last batch of 16 has 5 examples, or 1


def only_tensorflow(reason):
    backend = keras.backend.backend()
    return pytest.mark.skipif(backend != "tensorflow", reason=f"tensorflow only: {reason}")


def data():
    """64 examples (x, y) that a linear model can learn."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(64, 6)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64") + (x[:, 1] > 0)


def make(strategy, model=distill.Distiller, answers=None, **compiled):
    """A teacher, or what was recorded of it, and a student with the same weights each time."""

    def net(*layers):
        return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3, "softmax")])

    keras.utils.set_random_seed(1)
    teacher = net(keras.layers.Dense(16, "relu"))
    with strategy.scope():
        normed = keras.layers.BatchNormalization(synchronized=True)
        student = net(keras.layers.Dense(8, "relu"), normed)
        distiller = model(teacher if answers is None else answers, student, distill.SoftTargets(2.0))
        metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
        distiller.compile(
            keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=metrics, **compiled
        )
    return distiller


def weights(distiller):
    return [weight.tolist() for weight in distiller.student.get_weights()]


def compare(strategy):
    """Returns results that must be the same on several workers and in one process."""
    import tensorflow as tf

    x, y = data()
    results = {}

    distiller = make(strategy)
    held_out = {"validation_data": (x[:32], y[:32]), "validation_batch_size": 8, "validation_freq": 2}
    run = distiller.fit(x, y, BATCH, EPOCHS, verbose=0, shuffle=False, **held_out)
    results["arrays"] = {"history": run.history, "weights": weights(distiller)}
    results["evaluate"] = distiller.evaluate(x, y, BATCH, verbose=0, return_dict=True)
    for name, examples in UNEVEN.items():
        part = x[:examples], y[:examples]
        results[f"evaluate, {name}"] = distiller.evaluate(*part, BATCH, verbose=0, return_dict=True)
        results[f"predict, {name}"] = distiller.predict(part[0], BATCH, verbose=0).tolist()

    distiller = make(strategy)
    run = distiller.fit(x[:53], y[:53], BATCH, 2, verbose=0)
    results["shuffled arrays, uneven"] = {"history": run.history, "weights": weights(distiller)}

    distiller = make(strategy)
    dataset = tf.data.Dataset.from_tensor_slices((x[:49], y[:49])).shuffle(49, seed=5).batch(BATCH)
    run = distiller.fit(dataset, epochs=2, verbose=0, shuffle=False)
    results["shuffled dataset, one worker has none"] = {"history": run.history, "weights": weights(distiller)}
    return results


def cached(strategy, folder):
    """Returns what a student learns from answers on disk, each worker from those to its own examples."""
    import tensorflow as tf

    x, y = data()
    answers = cache.open(folder / "dense")
    distiller = make(strategy, answers=answers)
    run = distiller.fit(answers.with_ids(x), y, BATCH, 2, verbose=0)
    results = {"shuffled arrays": {"history": run.history, "weights": weights(distiller)}}

    distiller = make(strategy, answers=cache.open(folder / "top"))
    numbered = distill.Identified(x[:49], np.arange(49))
    dataset = tf.data.Dataset.from_tensor_slices((numbered, y[:49])).shuffle(49, seed=5).batch(BATCH)
    run = distiller.fit(dataset, epochs=2, verbose=0, shuffle=False)
    results["shuffled dataset, one worker has none"] = {"history": run.history, "weights": weights(distiller)}
    return results


def refusals(strategy):
    """Returns the errors that several workers raise, by what was asked for; one process raises none of them."""
    x, y = data()
    errors = {}
    for compiled in ({"steps_per_execution": 2}, {"jit_compile": True}):
        with pytest.raises(ValueError, match="With several workers") as caught:
            make(strategy, **compiled).fit(x, y, BATCH, verbose=0)
        errors[next(iter(compiled))] = str(caught.value)
    _keras.WORKERS_TESTED_WITH = ("3.14.0",)
    for name in ("fit", "evaluate"):
        with pytest.raises(RuntimeError, match="Training with several workers") as caught:
            getattr(make(strategy), name)(x, y, BATCH, verbose=0)
        errors[name] = str(caught.value)
    return errors


def killed(strategy, number, folder):
    """Trains with a backup; worker 1 is killed in the middle of epoch 1, and worker 0 later, while it saves."""

    def die_once():
        marker = folder / f"killed-{number}"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch
            with (folder / f"epochs-{number}").open("a") as file:
                file.write(f"{epoch}\n")

        def on_train_batch_end(self, batch, logs=None):
            if number == 1 and (self.epoch, batch) == (1, 1):
                die_once()

    class Torn(distill.Distiller):
        def save_weights(self, filepath, *args, **kwargs):
            assert number == 0, "only the chief writes"
            super().save_weights(filepath, *args, **kwargs)
            if callback.epoch == 2:
                os.truncate(filepath, Path(filepath).stat().st_size // 2)
                die_once()
                super().save_weights(filepath, *args, **kwargs)

    x, y = data()
    callback = Kill()
    distiller = make(strategy, Torn)
    backup = Backup(folder / "backup", delete_checkpoint=False)
    distiller.fit(x, y, BATCH, EPOCHS, verbose=0, shuffle=False, callbacks=[backup, callback])
    other = make(strategy)
    other.fit(x, y, BATCH, EPOCHS, verbose=0, shuffle=False)
    return {"killed": weights(distiller), "not killed": weights(other)}


def disagree(strategy, number, folder):
    """Gives each worker its own backup directory, of which only the first holds a backup."""
    x, y = data()
    distiller = make(strategy)
    backup = Backup(folder / f"own-{number}")
    if number == 0:
        backup.set_model(distiller)
        backup.on_epoch_end(2)
    with pytest.raises(ValueError, match="All workers must go on from one backup") as caught:
        distiller.fit(x, y, BATCH, verbose=0, callbacks=[backup])
    return re.search("backups of epochs .*? none", str(caught.value))[0]


def work(what, folder):
    """What one worker does: it writes its results into a file."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    number = strategy.cluster_resolver.task_id
    if what == "compare":
        results = compare(strategy)
        results["disagree"] = disagree(strategy, number, folder)
        results["refusals"] = refusals(strategy)
    elif what == "cached":
        results = cached(strategy, folder)
    else:
        results = killed(strategy, number, folder)
    # Keras 3.13 evaluates to tensors.
    (folder / f"results-{number}.json").write_text(json.dumps(results, default=float))


def results_of(what, folder, restarts=0):
    done = launch("--restarts", restarts, "--", "python", __file__, what, folder, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"results-{number}.json").read_text()) for number in (0, 1)], done


def assert_close(actual, expected):
    """Compares structures of numbers."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert set(actual) == set(expected)
        for key, value in expected.items():
            assert_close(actual[key], value)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@only_tensorflow("its strategies")
@pytest.mark.slow
def test_two_workers_equal_one_process(tmp_path):
    import tensorflow as tf

    workers, _ = results_of("compare", tmp_path)
    assert workers[0] == workers[1]
    one = compare(tf.distribute.get_strategy())
    for name, expected in one.items():
        assert_close(workers[0][name], json.loads(json.dumps(expected, default=float)))

    errors = workers[0]["refusals"]
    assert "steps_per_execution=2, jit_compile=False" in errors["steps_per_execution"]
    assert "steps_per_execution=1, jit_compile=True" in errors["jit_compile"]
    for name in ("fit", "evaluate"):
        assert f"with: 3.14.0. Received: Keras {keras.__version__}." in errors[name]
    assert workers[0]["disagree"] == "backups of epochs [3, -1] (-1: none"


@only_tensorflow("its strategies")
@pytest.mark.slow
def test_two_workers_learn_from_a_cache_as_one_process(tmp_path):
    import tensorflow as tf

    one = tf.distribute.get_strategy()
    x, y = data()
    live = make(one)
    quiet = {"shard_size": 10, "batch_size": BATCH, "verbose": 0}
    cache.record(live.teacher.model, x, tmp_path / "dense", **quiet)
    top = cache.TopK(2, temperatures=(2.0,))
    cache.record(live.teacher.model, x, tmp_path / "top", targets=top, **quiet)
    workers, _ = results_of("cached", tmp_path)
    assert workers[0] == workers[1]
    assert_close(workers[0], json.loads(json.dumps(cached(one, tmp_path), default=float)))
    # The answers that are looked up are those to the examples of the batch: the live teacher teaches the same.
    live.fit(x, y, BATCH, 2, verbose=0)
    assert_close(workers[0]["shuffled arrays"]["weights"], weights(live))


@only_tensorflow("its strategies")
def test_other_keras_is_fine_for_one_process(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(_keras, "WORKERS_TESTED_WITH", ("3.14.0",))
    x, y = data()
    history = make(tf.distribute.get_strategy(), steps_per_execution=2).fit(x, y, BATCH, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.slow
@only_tensorflow("its strategies")
def test_killed_workers_end_where_others_end(tmp_path):
    workers, done = results_of("killed", tmp_path, restarts=2)
    assert [line for line in done.stderr.splitlines() if line.startswith("launch: ")] == [
        "launch: worker 1 was killed by SIGKILL: starting all again, 1 of 2",
        "launch: worker 0 was killed by SIGKILL: starting all again, 2 of 2",
    ]
    # Epoch 1 was cut off by the first kill, the save after epoch 2 by the second.
    assert (tmp_path / "epochs-0").read_text().split() == ["0", "1", "1", "2", "2", "3"]
    for worker in workers:
        assert worker["killed"] == worker["not killed"] == workers[0]["killed"]  # bit for bit
    assert [path.name for path in (tmp_path / "backup").iterdir()] == [f"epoch-{EPOCHS}.weights.h5"]


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]))
