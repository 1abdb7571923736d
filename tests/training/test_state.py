"""What files hold: the student alone, or all that training needs to go on."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from backend import BACKEND, as_numpy, only_on
from conftest import dense_net
from distilling import compiled, twin

from distill import Distiller, SoftTargets
from distill.losses import OutputMSE


def test_backup_and_restore_goes_on_where_it_stopped(teacher, student, batch, tmp_path):
    """After an exception in epoch 3 of 6, new objects, as in a new process, come to the same end."""
    x, y = batch
    start = student.get_weights()

    def run(backup, *, fail=False):
        fresh = twin(student)
        fresh.set_weights(start)
        loss = SoftTargets(4.0)
        distiller = compiled(Distiller(teacher, fresh, loss), keras.optimizers.Adam(0.01))

        def change(epoch, logs):
            if epoch == 1:
                loss.temperature = 2.0
            if fail and epoch == 3:
                raise KeyboardInterrupt

        callbacks = [
            keras.callbacks.BackupAndRestore(str(backup)),
            keras.callbacks.LambdaCallback(on_epoch_begin=change),
        ]
        history = distiller.fit(x, y, epochs=6, shuffle=False, verbose=0, callbacks=callbacks).history
        return fresh.get_weights(), history["loss"], loss.temperature

    whole, losses, _ = run(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", fail=True)
    resumed, resumed_losses, temperature = run(tmp_path / "b")
    assert temperature == 2.0
    np.testing.assert_allclose(resumed_losses, losses[3:], rtol=1e-6)
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_save_writes_the_student_alone(teacher, student, batch, tmp_path):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    distiller.fit(*batch, verbose=0)
    distiller.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert type(loaded) is type(student)
    assert loaded.count_params() == student.count_params()
    np.testing.assert_array_equal(loaded.predict(batch[0], verbose=0), student.predict(batch[0], verbose=0))


@only_on("tensorflow", "jax", reason="Keras' SavedModel needs torch_xla, and fails on torch 2.13 before it")
@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter is deprecated")  # Keras 3.15 on JAX
def test_export_writes_the_student_alone(teacher, student, batch, tmp_path):
    import tensorflow as tf

    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    distiller.fit(*batch, verbose=0)
    distiller.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    served = exported.serve(batch[0])
    np.testing.assert_allclose(served, as_numpy(student(batch[0])), rtol=1e-6)


def test_model_checkpoint_keeps_the_best_student(teacher, student, batch, tmp_path):
    x, y = batch
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((logs["val_loss"], student.get_weights()))
    )
    uphill = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 if epoch < 3 else -0.1)
    best = keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), save_best_only=True)
    last = keras.callbacks.ModelCheckpoint(str(tmp_path / "last.weights.h5"), save_weights_only=True)
    distiller.fit(x, y, epochs=6, verbose=0, validation_data=(x, y), callbacks=[uphill, watch, best, last])
    at_best = int(np.argmin([loss for loss, _ in seen]))
    assert (
        at_best == 2
    )  # then training goes uphill; were the last epoch the best, this test would show nothing
    loaded = keras.models.load_model(tmp_path / "best.keras")
    for kept, expected in zip(loaded.get_weights(), seen[at_best][1], strict=True):
        np.testing.assert_array_equal(kept, expected)
    final = student.get_weights()
    student.set_weights([0 * weight for weight in final])
    distiller.load_weights(tmp_path / "last.weights.h5")
    for loaded_weight, expected in zip(student.get_weights(), final, strict=True):
        np.testing.assert_array_equal(loaded_weight, expected)


def test_early_stopping_restores_the_best_weights(teacher, student, batch):
    x, y = batch
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(5.0))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((logs["val_loss"], student.get_weights()))
    )
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    distiller.fit(x, y, epochs=30, verbose=0, validation_data=(x, y), callbacks=[watch, stop])
    best = int(np.argmin([loss for loss, _ in seen]))
    assert len(seen) == best + 3 < 30
    for kept, expected in zip(student.get_weights(), seen[best][1], strict=True):
        np.testing.assert_array_equal(kept, expected)


def test_a_distiller_itself_is_not_serialised(teacher, student):
    with pytest.raises(NotImplementedError, match=r"Save the student with save\(\)"):
        Distiller(teacher, student, SoftTargets(4.0)).get_config()


def test_settings_are_restored_by_name(teacher, student, tmp_path):
    losses = [SoftTargets(4.0), OutputMSE()]
    first = compiled(Distiller(teacher, student, losses, distillation_loss_weights=[2.0, 3.0]))
    first.save_weights(tmp_path / "a.weights.h5")
    loss = SoftTargets(1.0)
    second = compiled(Distiller(teacher, dense_net(4), [OutputMSE(), loss], student_loss_weight=0.5))
    second.load_weights(tmp_path / "a.weights.h5")
    assert second.distillation_loss_weights == (3.0, 2.0)
    assert loss.temperature == 4.0
    other = compiled(Distiller(teacher, dense_net(4), SoftTargets(1.0), student_loss_weight=0.5))
    with pytest.raises(ValueError, match=r"lacks \[\] and has \['output_mse_weight'\] in addition"):
        other.load_weights(tmp_path / "a.weights.h5")


RESUMED = """
import json, os, signal, sys
import keras, numpy as np
from distill import Distiller, SoftTargets
backup, kill_at = sys.argv[1], int(sys.argv[2])
keras.utils.set_random_seed(3)
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    tf.config.experimental.enable_op_determinism()

def net(width):
    dense = keras.layers.Dense
    stack = [dense(width, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3, seed=1)]
    return keras.Sequential([keras.Input((6,)), *stack, dense(3, "softmax")])

teacher, student = net(16), net(4)
x, y = np.random.normal(size=(64, 6)).astype("float32"), np.random.randint(3, size=64)
temperature = keras.optimizers.schedules.ExponentialDecay(8.0, 10, 0.5)
distiller = Distiller(teacher, student, SoftTargets(temperature), student_loss_weight=lambda step: 0.01 * step)
distiller.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy")
seen = 0

def count(batch, logs):
    global seen
    seen += 1
    if seen == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks = [
    keras.callbacks.BackupAndRestore(backup, double_checkpoint=True),
    keras.callbacks.LambdaCallback(on_train_batch_end=count),
]
history = distiller.fit(x, y, batch_size=16, epochs=4, shuffle=False, verbose=0, callbacks=callbacks).history
print(json.dumps([history, [np.asarray(w).tolist() for w in student.get_weights()]]))
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_end(tmp_path):
    """A SIGKILL in the middle of the third of four epochs changes neither losses nor weights."""

    def run(backup, kill_at):
        return subprocess.run(
            [sys.executable, "-c", RESUMED, str(tmp_path / backup), str(kill_at)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KERAS_BACKEND": BACKEND},
        )

    alone = run("a", 0)
    assert alone.returncode == 0, alone.stderr
    killed = run("b", 4 * 2 + 2)
    assert killed.returncode == -9, killed.stderr
    resumed = run("b", 0)
    assert resumed.returncode == 0, resumed.stderr
    whole, weights = json.loads(alone.stdout.splitlines()[-1])
    rest, resumed_weights = json.loads(resumed.stdout.splitlines()[-1])
    assert {key: values[2:] for key, values in whole.items()} == rest
    assert resumed_weights == weights


@pytest.mark.parametrize("way", ["clone", "config", "copy", "deepcopy"])
def test_a_distiller_is_not_copied(teacher, student, way):
    import copy

    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    ways = {
        "clone": keras.models.clone_model,
        "config": Distiller.get_config,
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
    }
    with pytest.raises(NotImplementedError, match="make the Distiller anew"):
        ways[way](distiller)
