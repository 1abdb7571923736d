"""Losses on relations: degenerate features, shards, and training in a Distiller."""

import functools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, as_numpy, as_tensor, compiled, only_on, value_and_gradients
from conftest import dense_net
from keras import ops

from distill import Distiller
from distill.losses import ProbabilisticTransfer, Relational, SimilarityPreserving

LOSSES = [
    pytest.param(SimilarityPreserving, reference.similarity_preserving, id="SimilarityPreserving"),
    pytest.param(
        functools.partial(Relational, distance=1.0, angle=0.0), reference.rkd_distance, id="distances"
    ),
    pytest.param(functools.partial(Relational, distance=0.0, angle=1.0), reference.rkd_angle, id="angles"),
    pytest.param(Relational, reference.rkd, id="Relational"),
    pytest.param(ProbabilisticTransfer, reference.pkt, id="ProbabilisticTransfer"),
]
every_loss = pytest.mark.parametrize(("make", "oracle"), LOSSES)


def features(count=6, widths=(5, 3), seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(count, width)).astype("float32") for width in widths)


@every_loss
def test_maps_of_any_rank_are_rows_of_features(make, oracle):
    teacher, student = features(count=4, widths=(12, 6))
    maps, tokens = teacher.reshape(4, 2, 3, 2), student.reshape(4, 3, 2)
    value = as_numpy(make()(maps, tokens))
    np.testing.assert_allclose(value, oracle(teacher, student).mean(), rtol=1e-5)


DUPLICATES = np.array([[0, 0, 1], [0, 0, 1], [0, 2, 0], [3, 0, 0]], "float32")
PLAIN = np.array([[1, 2], [2, -1], [-1, 1], [0, 1]], "float32")
OPPOSITE = np.array([[1e5, 0], [-1e5, 0], [0, 1e5], [0, -1e5]], "float32")
DEGENERATE = {
    "one zero row": (PLAIN, np.array([[0, 0, 0], [1, 2, 3], [2, 1, 0], [-1, 0, 1]], "float32")),
    "a constant student": (PLAIN, np.full((4, 2), 0.3, "float32")),
    "duplicate rows": (PLAIN, DUPLICATES),
    "opposite rows": (PLAIN, OPPOSITE),
    "one feature": (PLAIN, PLAIN[:, :1]),
    "huge": (1e4 * PLAIN, -1e4 * PLAIN[::-1]),
    "huge and small": (PLAIN, np.array([1e4, 1.0, 1e-4, -1e4], "float32")[:, None] * PLAIN),
    "far from the origin": (PLAIN, (PLAIN + 1e4)),
    "one example": (PLAIN[:1], DUPLICATES[:1]),
    "two examples": (PLAIN[:2], DUPLICATES[:2]),
}


@every_loss
@pytest.mark.sweep(2)
def test_degenerate_features_have_finite_values_and_gradients(make, oracle):
    for case, (teacher, student) in DEGENERATE.items():
        loss = make()
        value, (_, gradient) = value_and_gradients(loss, teacher, student)
        values = as_numpy(loss.call(as_tensor(teacher), as_tensor(student)))
        # Far from the origin all cosines are 1 as far as float32 has digits. Between opposite rows of one feature K
        # is rounding, next to a guard of the same size.
        atol = 1e-6 if case == "far from the origin" else 1e-7
        rtol = 0.1 if (case, oracle) == ("one feature", reference.pkt) else 1e-5
        expected = oracle(teacher, student)
        np.testing.assert_allclose(values, expected, rtol=rtol, atol=atol, err_msg=case)
        np.testing.assert_allclose(value, expected.mean(), rtol=rtol, atol=atol, err_msg=case)
        # The formulas' own slopes at a zero vector, 1e7 and 1e12, would ruin a training.
        assert gradient is None or np.abs(gradient).max() < 1e4, case
        if len(teacher) == 1:
            np.testing.assert_allclose(values, [0.0], atol=1e-12, err_msg=case)


@every_loss
def test_identical_examples_follow_what_the_others_say(make, oracle):
    """Rows that coincide still learn from the rows that do not."""
    _, (_, gradient) = value_and_gradients(make(), PLAIN, DUPLICATES)
    assert (np.abs(gradient).max(axis=1) > 1e-6).all()


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[0], LOSSES[3], LOSSES[4]])
def test_compiled_for_maps_of_any_size(make, oracle):
    loss = make()
    step = compiled(loss.__call__, loss.variables)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        step = tf.function(loss.__call__, [tf.TensorSpec((None, 5)), tf.TensorSpec((None, None, 1))])
    for count in (2, 6):
        teacher, student = features(count)
        value = as_numpy(step(as_tensor(teacher), as_tensor(student[..., None])))
        np.testing.assert_allclose(value, oracle(teacher, student).mean(), rtol=1e-5, atol=1e-7)


@every_loss
def test_a_shard_without_examples(make, oracle):
    loss = make()
    assert loss.call(ops.zeros((0, 4)), ops.zeros((0, 2, 3))).shape == (0,)


@every_loss
def test_other_shapes_are_refused(make, oracle):
    teacher, student = features()
    with pytest.raises(
        ValueError,
        match=r"needs features \(batch, \.\.\., width\).*teacher \(6, 5\) and student \(6,\).*\(batch, 1\)",
    ):
        make()(teacher, student[:, 0])
    with pytest.raises(ValueError, match=r"example by example.*teacher \(6, 5\) and student \(5, 3\)"):
        make()(teacher, student[:5])


def test_layers_go_by_one_name():
    for loss in (SimilarityPreserving, Relational, ProbabilisticTransfer):
        for side in ("teacher", "student"):
            for layer in ("", 3, ("hidden", "head"), ["hidden"]):
                with pytest.raises(ValueError, match=f"{loss.__name__} reads one layer.*{side}_layer_name="):
                    loss(**{f"{side}_layer_name": layer})


def test_weights_of_the_parts_are_numbers():
    for part in ("distance", "angle"):
        for value in (-1.0, float("nan"), float("inf"), "25", None, True):
            with pytest.raises(ValueError, match=f"{part} must be a finite number >= 0. Received: {part}="):
                Relational(**{part: value})
    with pytest.raises(ValueError, match="one of them must have a weight > 0"):
        Relational(distance=0, angle=0)


def test_relational_ignores_where_how_large_and_how_turned():
    teacher, _ = features()
    turned, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    student = (3.0 * teacher @ turned + 7.0).astype("float32")
    np.testing.assert_allclose(
        as_numpy(Relational().call(as_tensor(teacher), as_tensor(student))), 0, atol=1e-8
    )


# In a model.


@pytest.mark.parametrize(("make", "oracle"), [LOSSES[0], LOSSES[3], LOSSES[4]])
@pytest.mark.sweep(1)
def test_the_distiller_logs_the_loss_of_the_layers(make, oracle, teacher, student, batch):
    x, y = batch
    loss = make(teacher_layer_name="hidden", student_layer_name="hidden", name="relation")
    hidden = [keras.Model(model.input, model.get_layer("hidden").output) for model in (teacher, student)]
    expected = oracle(*(as_numpy(model(x)) for model in hidden)).mean()  # 16 and 4 wide
    before = student.get_layer("hidden").get_weights()[0]
    distiller = Distiller(teacher, student, loss, **loss.recipe)
    distiller.compile(keras.optimizers.SGD(1e-3), loss="sparse_categorical_crossentropy")
    logs = distiller.fit(x, y, batch_size=40, verbose=0).history
    np.testing.assert_allclose(logs["relation"], [expected], rtol=1e-5)
    weight = loss.recipe["distillation_weight"]
    np.testing.assert_allclose(logs["loss"], logs["student_loss"][0] + weight * expected, rtol=1e-5)
    assert np.abs(student.get_layer("hidden").get_weights()[0] - before).max() > 1e-6


@pytest.mark.slow
def test_a_student_learns_relations_from_outputs_alone(batch):
    """No layers named: the outputs as they are, of widths 7 and 3; unlabelled, with an uneven last batch."""
    teacher, student = (dense_net(8, activation=None, classes=classes) for classes in (7, 3))
    losses = [SimilarityPreserving(), Relational(), ProbabilisticTransfer()]
    weights = [300.0, 1.0, 3000.0]
    distiller = Distiller(teacher, student, losses, distillation_loss_weights=weights, student_loss_weight=0)
    distiller.compile(keras.optimizers.Adam(0.02), jit_compile=BACKEND == "jax")
    history = distiller.fit(batch[0], batch_size=16, epochs=15, verbose=0).history
    for loss in losses:
        values = history[loss.name]
        assert values[-1] < 0.5 * values[0], loss.name


SHARDS = """
import json
import keras, numpy as np, tensorflow as tf
from distill import Distiller
from distill.losses import ProbabilisticTransfer, Relational, SimilarityPreserving

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])
x = np.random.default_rng(0).normal(size=(17, 6)).astype("float32")
with strategy.scope():
    net = lambda width: keras.Sequential([keras.Input((6,)), keras.layers.Dense(width)])
    losses = [SimilarityPreserving(), Relational(), ProbabilisticTransfer()]
    teacher, student = net(5), net(3)
    distiller = Distiller(teacher, student, losses, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
logs = distiller.fit(tf.data.Dataset.from_tensor_slices((x,)).batch(15), shuffle=False, verbose=0).history
print(json.dumps([logs, teacher(x).numpy().tolist(), student(x).numpy().tolist()]))
"""


@only_on("tensorflow", reason="tf.distribute")
@pytest.mark.slow
def test_replicas_relate_the_examples_of_their_shard():
    """Shards of 4, 4, 4 and 3, then of 1 and 1 with two empty ones: the mean over them by their sizes."""
    done = subprocess.run(
        [sys.executable, "-c", SHARDS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr
    logs, *sides = json.loads(done.stdout.splitlines()[-1])
    sides = [np.split(np.array(side, "float32"), [4, 8, 12, 15, 16]) for side in sides]
    names = ("similarity_preserving", "relational", "probabilistic_transfer")
    for name, oracle in zip(
        names, (reference.similarity_preserving, reference.rkd, reference.pkt), strict=True
    ):
        rows = np.concatenate([oracle(*shard) for shard in zip(*sides, strict=True)])
        np.testing.assert_allclose(logs[name], [rows.mean()], rtol=1e-5)
