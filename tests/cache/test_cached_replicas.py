"""A cache under MirroredStrategy: replicas look up their own examples, and learn as from the live teacher."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from backend import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("tf.distribute is TensorFlow's", allow_module_level=True)

PROGRAM = """
import json, sys
import keras, numpy as np, tensorflow as tf
from keras import layers
import distill
from distill import cache

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
folder, strategy = sys.argv[1], tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 6)).astype("float32")
Y, WEIGHT = RNG.integers(3, size=30), RNG.uniform(size=30).astype("float32")
SOME = RNG.permutation(30)[:16]  # a part of what was recorded, in another order

def net(width):
    inputs = keras.Input((6,))
    x = layers.Dense(width, "relu")(inputs)
    x = layers.Dense(4, "relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, "softmax")(x))

keras.utils.set_random_seed(1)
teacher = net(16)
caches = {
    "dense": cache.record(teacher, X, folder + "/dense", layers=["hidden"], shard_size=8, verbose=0),
    "top": cache.record(
        teacher, X, folder + "/top", targets=cache.TopK(3, temperatures=(2.0,)), shard_size=8, verbose=0),
}

def train(teacher, losses):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        student = net(5)
        distiller = distill.Distiller(teacher, student, losses)
        distiller.compile(
            keras.optimizers.SGD(0.01), loss="sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    # Batches of 7, 7 and 2: shards of 4 and 3, then 1 and 1.
    numbered = distill.Identified(X[SOME], SOME)
    data = tf.data.Dataset.from_tensor_slices((numbered, Y[SOME], WEIGHT[SOME])).batch(7)
    rows = []
    def note(batch, logs):
        rows.append([np.asarray(w, "float64").ravel().tolist() for w in student.get_weights()])
    history = distiller.fit(
        data, epochs=2, shuffle=False, verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)]).history
    return [history, rows]

def losses(hint):
    soft = distill.SoftTargets(2.0)
    return [soft, distill.Hint("hidden", "hidden")] if hint else soft

print(json.dumps({
    name: [train(one, losses(name == "dense")) for one in (teacher, answers)] for name, answers in caches.items()
}))
"""


@pytest.mark.slow
def test_replicas_learn_from_a_part_of_a_cache_as_from_the_live_teacher(tmp_path):
    """With weights of examples; that the live teacher teaches two replicas as one is in training/test_replicas.py."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # All numbers, of outputs and of a layer: bit for bit.
    live, cached = found["dense"]
    assert live == cached
    # The largest three of three classes, whose logits are softened in another order.
    (history, rows), (of_cache, rows_of_cache) = found["top"]
    assert set(history) == set(of_cache)
    for key in ("loss", "accuracy"):
        np.testing.assert_allclose(of_cache[key], history[key], rtol=1e-5)
    assert len(rows) == 6
    for weights, expected in zip(rows_of_cache, rows, strict=True):
        for weight, other in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight, other, atol=1e-6)
    assert np.abs(np.subtract(rows[0][0], rows[-1][0])).max() > 1e-3
