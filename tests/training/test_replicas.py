"""tf.distribute.MirroredStrategy on two and four logical devices against one device, batch by batch."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from backend import BACKEND

pytestmark = pytest.mark.slow

if BACKEND != "tensorflow":
    pytest.skip("tf.distribute is TensorFlow's", allow_module_level=True)

COMMON = """
import json, sys
import keras, numpy as np, tensorflow as tf
from keras import layers, ops
from distill import BernoulliSoftTargets, Distiller, MutualLearning, SoftTargets
from distill.losses import DistillationLoss, OutputMSE
from distill.pruning import GradualPruning

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype("float32")
TOKENS = RNG.integers(1, 9, size=(16, 5)).astype("int32")
TOKENS[np.arange(5) >= RNG.integers(1, 6, size=16)[:, None]] = 0  # from one to five tokens
Y = RNG.integers(3, size=16)
WEIGHT = RNG.uniform(size=16).astype("float32")

# Keras 3.13 adds the penalties of a batch up in place of their mean, so that they depend on its parts.
PENALTY = None if keras.__version__.startswith("3.13.") else keras.regularizers.L2(0.1)

class Hidden(DistillationLoss):
    teacher_layer_name = student_layer_name = "hidden"

    def call(self, teacher, student):
        return ops.mean(ops.square(student - teacher), axis=-1)

def net(width, activation="softmax", hidden=4):
    inputs = keras.Input((6,))
    x = layers.Dense(width, "relu", activity_regularizer=PENALTY)(inputs)
    x = layers.Dense(hidden, "relu", kernel_regularizer="l2", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, activation)(x))

def tokens(width):
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, width, mask_zero=True)(inputs)
    return keras.Model(inputs, layers.Dense(3, "softmax")(x))

CE, BCE = "sparse_categorical_crossentropy", "binary_crossentropy"
ONE_HOT = np.eye(3, dtype="float32")[Y]
COOLING = keras.optimizers.schedules.ExponentialDecay(6.0, 2, 0.5)
# name: teachers, student, losses, arguments, the student's loss, x, y
CASES = {
    "SoftTargets": lambda: (net(16), net(5), SoftTargets(4.0), {}, CE, X, Y),
    "BernoulliSoftTargets": lambda: (
        net(16, "sigmoid"), net(5, "sigmoid"), BernoulliSoftTargets(2.0), {}, BCE, X, ONE_HOT),
    "OutputMSE": lambda: (net(16, None), net(5, None), OutputMSE(), {}, "mse", X, ONE_HOT),
    "layers, two losses": lambda: (net(16), net(5), [Hidden(name="hidden"), SoftTargets(2.0)], {}, CE, X, Y),
    "keras.distillation": lambda: (
        net(16), net(5), keras.distillation.FeatureDistillation("mse", "hidden", "hidden"), {}, CE, X, Y),
    "several teachers": lambda: (
        [net(16), net(8)], net(5), SoftTargets(2.0), {"teacher_mean": "probabilities"}, CE, X, Y),
    "schedules": lambda: (
        net(16), net(5), SoftTargets(COOLING), {"student_loss_weight": lambda step: 0.1 + 0.1 * step}, CE, X, Y),
    "masks": lambda: (tokens(16), tokens(5), SoftTargets(4.0), {}, CE, TOKENS, TOKENS % 3),
    "unlabelled": lambda: (net(16), net(5), SoftTargets(4.0), {"student_loss_weight": 0}, None, X, None),
    "pruned": lambda: (net(16), net(5), SoftTargets(4.0), {}, CE, X, Y),
    "mutual": lambda: (None, [net(5), net(4), net(3)], SoftTargets(1.0), {}, CE, X, Y),
}

def train(case, strategy, weighted):
    keras.backend.clear_session()  # the names of peers, which are keys of the logs, count from here
    keras.utils.set_random_seed(0)
    with strategy.scope():
        teacher, student, losses, arguments, loss, x, y = CASES[case]()
        if teacher is None:
            distiller = MutualLearning(student, losses)
        else:
            distiller = Distiller(teacher, student, losses, **arguments)
        distiller.compile(keras.optimizers.SGD(0.5), loss=loss)
    # Batches of 7, 7 and 2: shards of 4 and 3, or of 2, 2, 2 and 1, then 1 and 1 and, of four, two empty ones.
    weight = WEIGHT if weighted else None
    rows = []
    def note(batch, logs):
        rows.append([np.asarray(w, "float64").ravel().tolist() for w in distiller.student.get_weights()])
    note = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    pruning = [GradualPruning(lambda step: (step in (2, 5), 0.1 * step))] if case == "pruned" else []
    data = (x,) if y is None else (x, y) if weight is None else (x, y, weight)
    data = tf.data.Dataset.from_tensor_slices(data).batch(7)
    history = distiller.fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[*pruning, note]).history
    return [history, rows]
"""

MIRRORED = (
    COMMON
    + """
count, cases = int(sys.argv[1]), json.loads(sys.argv[2])
# Not several strategies in one process: TensorFlow's collective operations keep the size of their first group.
devices = [f"CPU:{i}" for i in range(count)]
strategy = tf.distribute.MirroredStrategy(devices) if count > 1 else tf.distribute.get_strategy()
print(json.dumps({f"{case} {weighted}": train(case, strategy, weighted) for case, weighted in cases}))
"""
)

CASES = [
    ("SoftTargets", False),
    ("SoftTargets", True),
    ("BernoulliSoftTargets", False),
    ("OutputMSE", True),
    ("layers, two losses", False),
    ("layers, two losses", True),
    ("several teachers", False),
    ("schedules", False),
    ("masks", False),
    ("unlabelled", False),
    ("mutual", True),
    ("pruned", False),
]
ALWAYS = (5, 10, 11)  # losses on layers and peers, with weights, and masks


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# With four replicas some shards are empty.
@pytest.mark.parametrize(
    ("count", "cases"),
    [
        (2, [CASES[i] for i in ALWAYS]),
        pytest.param(2, [case for i, case in enumerate(CASES) if i not in ALWAYS], marks=pytest.mark.slow),
        pytest.param(4, [CASES[i] for i in ALWAYS], marks=pytest.mark.slow),
    ],
)
def test_replicas_equal_one_device_with_uneven_and_empty_shards(count, cases):
    alone, mirrored = (run(MIRRORED, str(number), json.dumps(cases)) for number in (1, count))
    assert len(alone) == len(mirrored) == len(cases)
    for case, (history, rows) in mirrored.items():
        expected_history, expected_rows = alone[case]
        assert set(history) == set(expected_history)
        for key, values in expected_history.items():
            if key.endswith("_loss") and key != "student_loss":
                continue  # Keras' own means of each output, which give every replica the same say
            np.testing.assert_allclose(history[key], values, rtol=1e-6, atol=1e-6, err_msg=f"{case}: {key}")
        assert len(rows) == len(expected_rows) == 6
        for batch, (weights, expected) in enumerate(zip(rows, expected_rows, strict=True)):
            for weight, other in zip(weights, expected, strict=True):
                # A step of 0.5 times the gradient: equal weights after each batch are equal gradients.
                np.testing.assert_allclose(weight, other, atol=1e-6, err_msg=f"{case}, batch {batch}")
                np.testing.assert_array_equal(np.equal(weight, 0), np.equal(other, 0))
    if ("pruned", False) not in cases:
        return
    kernels = [mirrored["pruned False"][1][-1][i] for i in (0, 2, 4)]
    assert [kernel.count(0) for kernel in kernels] == [15, 10, 6]  # half of 6 × 5, 5 × 4 and 4 × 3
