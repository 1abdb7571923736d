"""TensorFlow checkpoints, which `save_weights` of Keras 2 wrote for years, loaded into models of Keras 3."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import only_on
from checkpoint_writer import models
from keras import layers

from distill import files

pytestmark = [pytest.mark.slow, only_on("tensorflow", reason="a checkpoint is TensorFlow's")]
WRITER = Path(__file__).with_name("checkpoint_writer.py")
NAMES = (
    *(
        "depthwise",
        "depthwise_1d",
        "separable",
        "cells",
        "both_directions",
        "images",
        "attention",
        "statistics",
    ),
    *("random", "states", "in_two_places", "nested", "own"),
)


@pytest.fixture(scope="module")
def keras2(tmp_path_factory):
    """A folder of checkpoints that tf_keras wrote in a process of its own."""
    folder = tmp_path_factory.mktemp("checkpoints")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(WRITER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-900:]
    return folder


@pytest.fixture(scope="module")
def keras3():
    made = models(keras)
    assert tuple(made) == NAMES
    return made


def net():
    """A model with a model in it, whose names the user gave."""
    inner = [layers.Dense(4, name="d"), layers.BatchNormalization(name="n")]
    stack = [keras.Sequential([keras.Input((6,)), *inner], name="inner"), layers.Dense(2, name="o")]
    model = keras.Sequential([keras.Input((6,)), *stack], name="net")
    rng = np.random.default_rng(len(model.name))
    model.set_weights([rng.uniform(0.2, 0.8, weight.shape) for weight in model.weights])
    return model


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.sweep(3)
def test_a_model_of_keras_2_computes_the_same(keras2, keras3, name):
    stored, model = np.load(keras2 / f"{name}.npz"), keras3[name]
    loaded = files.load_weights(model, keras2 / name / "cp")
    assert loaded.taken
    assert not loaded.differences
    outputs = keras.ops.convert_to_numpy(model(stored["inputs"], training=False))
    np.testing.assert_allclose(outputs, stored["outputs"], rtol=0, atol=1e-6)


def test_any_of_its_files_or_its_folder_names_a_checkpoint(keras2, keras3, tmp_path):
    model = keras3["random"]
    for path in ("random/cp", "random/cp.index", "random/cp.data-00000-of-00001", "random", "saved_model"):
        model.set_weights([0 * weight for weight in model.get_weights()])
        files.load_weights(model, keras2 / path)
        stored = np.load(keras2 / "random.npz")
        np.testing.assert_allclose(model(stored["inputs"]), stored["outputs"], rtol=0, atol=1e-6)
    (tmp_path / "model.json").write_text(model.to_json())
    loaded = files.load_model(tmp_path / "model.json", weights=keras2 / "random" / "cp")
    assert same(loaded, model)
    for path in ("random/cp", "random"):
        with pytest.raises(ValueError, match="cannot be loaded without its architecture"):
            files.load_model(keras2 / path)


def test_a_folder_of_several_says_which_is_the_latest(tmp_path):
    import tensorflow as tf

    saved = net()
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(net=saved), tmp_path / "of", max_to_keep=3)
    for number in range(3):
        saved.get_layer("o").bias.assign([number, number])
        manager.save()
    model = net()
    for path, number in (("of", 2), ("of/ckpt-2", 1)):
        files.load_weights(model, tmp_path / path)
        np.testing.assert_array_equal(model.get_layer("o").bias, [number, number])
    state = tmp_path / "of" / "checkpoint"
    state.write_text('model_checkpoint_path: "/home/somebody/else/ckpt-1"\n')  # it was copied from there
    files.load_weights(model, tmp_path / "of")
    np.testing.assert_array_equal(model.get_layer("o").bias, [0, 0])
    state.write_text('model_checkpoint_path: "ckpt-9"\n')
    with pytest.raises(ValueError, match="names 'ckpt-9' and has"):
        files.load_weights(model, tmp_path / "of")
    state.unlink()
    with pytest.raises(ValueError, match="must say which is the latest"):
        files.load_weights(model, tmp_path / "of")


def test_objects_in_training_hold_the_model_under_a_name(tmp_path):
    import tensorflow as tf

    saved, other, x = net(), net(), np.ones((4, 6), "float32")
    saved.compile("adam", "mse")
    saved.fit(x, np.ones((4, 2)), verbose=0)
    assert not same(saved, other)
    tf.train.Checkpoint(model=saved, optimizer=saved.optimizer).save(tmp_path / "one" / "ck")
    tf.train.Checkpoint(saved).write(tmp_path / "root")
    for path in ("one", "root"):
        model = net()
        files.load_weights(model, tmp_path / path)
        assert same(model, saved)
    tf.train.Checkpoint(student=saved, teacher=other).save(tmp_path / "two" / "ck")
    model = net()
    with pytest.raises(ValueError, match="fits 'student', 'teacher' in it. Give the model the name"):
        files.load_weights(model, tmp_path / "two")
    assert same(model, other)
    student = keras.Sequential(net().layers, name="student")
    files.load_weights(student, tmp_path / "two")
    assert same(student, saved)


def test_layers_go_by_the_names_that_the_user_gave(tmp_path):
    import tensorflow as tf

    def two(*names):
        inputs = keras.Input((4,))
        made = {name: layers.Dense(4, name=name) for name in names}
        return keras.Model(inputs, layers.Subtract()([made["first"](inputs), made["second"](inputs)]))

    saved = two("first", "second")
    saved.set_weights([np.full(weight.shape, i) for i, weight in enumerate(saved.weights)])
    tf.train.Checkpoint(saved).write(tmp_path / "cp")
    model = two("second", "first")
    files.load_weights(model, tmp_path / "cp")
    for name in ("first", "second"):
        np.testing.assert_array_equal(model.get_layer(name).kernel, saved.get_layer(name).kernel)
    wider = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="first"), layers.Dense(1, name="third")]
    )
    before = wider.get_weights()
    with pytest.raises(ValueError, match=r"first +kernel +\(4, 5\) +\(4, 4\)"):
        files.load_weights(wider, tmp_path / "cp")
    assert all(np.array_equal(a, b) for a, b in zip(before, wider.get_weights(), strict=True))


def test_a_checkpoint_of_tensorflow_1(tmp_path):
    import tensorflow as tf

    values = {
        "a/kernel": np.eye(3),
        "a/bias": np.arange(3.0),
        "b/kernel": np.ones((3, 2)),
        "b/bias": np.zeros(2),
    }
    slots = {"global_step": np.int64(3), "a/kernel/Adam": np.ones((3, 3))}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in {**values, **slots}.items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=7)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")])
    assert files.load_weights(model, tmp_path).taken == ("a", "b")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), values.values(), strict=True))


def test_a_list_of_weights_without_layers_says_so(tmp_path):
    net().export(tmp_path / "exported", verbose=False)
    with pytest.raises(
        ValueError, match=r"lists \d+ values and no layers, as the SavedModel of model.export does"
    ):
        files.load_weights(net(), tmp_path / "exported")


def test_damaged_checkpoints_load_nothing(tmp_path):
    import tensorflow as tf

    saved, model = net(), net()
    saved.set_weights([weight + 1 for weight in saved.get_weights()])
    before = model.get_weights()
    tf.train.Checkpoint(saved).write(tmp_path / "cp")
    index, data = tmp_path / "cp.index", tmp_path / "cp.data-00000-of-00001"

    def refused(match):
        with pytest.raises(ValueError, match=match) as caught:
            files.load_weights(model, tmp_path / "cp")
        assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
        assert str(tmp_path / "cp") in str(caught.value)

    for path in (index, data):
        whole = path.read_bytes()
        for share in (0.02, 0.5, 0.99):
            path.write_bytes(whole[: int(share * len(whole))])
            refused("damaged|must lie in its files of data")
        for at in range(0, 300, 20):  # the sums of its own are checked by TensorFlow
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            refused("damaged|must lie in|is missing|has no|several servers|differ|own bytes")
        path.write_bytes(whole)
    shutil.move(data, tmp_path / "away")
    refused("whose cp.data-00000-of-00001 is missing. Copy it too")
