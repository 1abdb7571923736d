"""Models of Keras 1 and 2 compute the same after loading."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from backend import only_on
from conftest import dense_net
from keras import ops

import distill

KERAS2 = (
    *("sequential", "deferred", "convolutional", "recurrent", "nested", "shared", "attention", "filmed"),
    *("changed", "named"),
)
WRITER = Path(__file__).with_name("keras2_writer.py")


@pytest.fixture(scope="module")
def keras2(tmp_path_factory):
    """A folder of files that tf_keras wrote in a process of its own."""
    folder = tmp_path_factory.mktemp("keras2")
    environment = {**os.environ, "PYTHONPATH": str(WRITER.parents[2]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(WRITER), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-600:]
    return folder


def answers(model, inputs):
    outputs = model(inputs[0] if len(inputs) == 1 else inputs, training=False)
    return [ops.convert_to_numpy(y) for y in (outputs if isinstance(outputs, list) else [outputs])]


def arrays(folder, name, kind):
    stored = np.load(folder / f"{name}.npz")
    return [stored[key] for key in sorted(stored) if key.startswith(kind)]


@pytest.mark.parametrize("form", [".h5", ".keras", "_weights.h5", ".weights.h5", ".ckpt"])
@pytest.mark.parametrize("name", KERAS2)
@pytest.mark.sweep(12)
def test_a_model_of_keras_2(keras2, name, form):
    if "weights" in form or form == ".ckpt":
        model = distill.load_model(keras2 / f"{name}.json", weights=keras2 / f"{name}{form}")
    else:
        model = distill.load_model(keras2 / f"{name}{form}")
    assert isinstance(model, keras.Model)
    assert not model.compiled
    expected = arrays(keras2, name, "out")
    assert all(y.std(axis=0).min() > 1e-5 for y in expected)
    for y, y_there in zip(answers(model, arrays(keras2, name, "in")), expected, strict=True):
        np.testing.assert_allclose(y, y_there, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", KERAS2)
def test_a_tf_keras_model_in_memory(keras2, name):
    for y, y_there in zip(arrays(keras2, name, "live"), arrays(keras2, name, "out"), strict=True):
        np.testing.assert_allclose(y, y_there, rtol=0, atol=1e-6)


@pytest.mark.parametrize("number", range(7))
def test_what_a_tf_keras_model_in_memory_has_learned(keras2, number):
    stored = np.load(keras2 / f"adapted_{number}.npz")
    assert np.ptp(stored["out"]) > 0
    np.testing.assert_allclose(stored["live"], stored["out"], rtol=0, atol=1e-6)


def test_a_crop_of_keras_2_is_random_in_training(keras2, tmp_path):
    model = distill.load_model(keras2 / "changed.h5")
    crop = next(layer for layer in model.layers if isinstance(layer, keras.layers.RandomCrop))
    images = np.random.default_rng(0).normal(size=(2, 12, 10, 3)).astype("float32")
    cut = crop(images, training=True)
    assert any(np.array_equal(images[:, i : i + 8, j : j + 8], cut) for i in range(5) for j in range(3))
    small = keras.ops.image.resize(images[:, :4, :4], (8, 8))
    np.testing.assert_allclose(crop(images[:, :4, :4], training=True), small, rtol=0, atol=1e-6)
    model.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again(images, training=False), model(images, training=False))


@pytest.mark.parametrize("name", ["LocallyConnected1D", "RandomHeight", "CuDNNLSTM"])
def test_what_keras_3_lacks_is_named_with_what_can_be_done(tmp_path, name):
    layer = {"class_name": name, "config": {"name": "mine", "batch_input_shape": [None, 4, 3]}}
    old_file(tmp_path / "old.h5", {"class_name": "Sequential", "config": [layer]}, {})
    with pytest.raises(
        ValueError, match=f"Keras 3 has no {name}. Received: 'mine'. Load the model with tf_keras"
    ):
        distill.load_model(tmp_path / "old.h5")


def test_what_a_model_of_keras_2_becomes(keras2, tmp_path):
    model = distill.load_model(keras2 / "nested.h5")
    assert not model.get_layer("base").trainable
    assert model.get_layer("outer").trainable
    convolutional = distill.load_model(keras2 / "convolutional.keras")
    assert {"stem_conv", "stem_norm"} <= {layer.name for layer in convolutional.layers}
    named = json.loads((distill.load_model(keras2 / "named.h5")).to_json())["config"]["layers"]
    calls = {layer["name"]: layer["inbound_nodes"][0]["kwargs"] for layer in named if layer["inbound_nodes"]}
    assert calls["inner"]["training"] is calls["one"]["training"] is False
    recurrent = distill.load_model(keras2 / "recurrent.h5")
    distill.save_model(recurrent, tmp_path / "again.keras")
    again = distill.load_model(tmp_path / "again.keras")
    inputs = arrays(keras2, "recurrent", "in")
    np.testing.assert_array_equal(*answers(recurrent, inputs), *answers(again, inputs))


def test_a_teacher_of_keras_2_is_read_before_its_softmax(keras2, batch):
    teacher = distill.load_model(keras2 / "sequential.h5")
    student = dense_net(4)
    distiller = distill.Distiller(
        teacher, student, distill.SoftTargets(2.0), student_loss_weight=0
    )  # from_logits is not needed
    distiller.compile("sgd")
    logs = distiller.train_on_batch(batch[0], return_dict=True)
    assert logs["soft_targets"] > 0


@only_on("tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_saved_model_of_keras_2(keras2):
    loaded = distill.load_model(keras2 / "sequential_saved_model", trust=True)
    assert loaded.call_endpoint == "serving_default"
    (y,) = answers(loaded, arrays(keras2, "sequential", "in"))
    np.testing.assert_allclose(y, *arrays(keras2, "sequential", "out"), rtol=0, atol=1e-6)
    several = distill.load_model(keras2 / "shared_saved_model", trust=True)
    outputs = several(dict(zip(("left", "right"), arrays(keras2, "shared", "in"), strict=True)))
    for name, expected in zip(("first", "second"), arrays(keras2, "shared", "out"), strict=True):
        np.testing.assert_allclose(outputs[name], expected, rtol=0, atol=1e-6)


# Formats older than tf_keras. Their writers run on no supported Python, so the files are made by hand, after old ones.


def old_file(path, config, layers_, version="2.1.6"):
    """A whole model as Keras 2.1 wrote it: text as bytes, shapes with the first layer, names in attributes."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["backend"] = b"tensorflow"
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in layers_]
        for name, weights in layers_.items():
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in weights]
            for key, value in weights.items():
                inner[f"{name}/{key}:0"] = value


def test_a_sequential_of_keras_2_1(tmp_path):
    rng = np.random.default_rng(0)
    uniform = {
        "class_name": "VarianceScaling",
        "config": {"scale": 1.0, "mode": "fan_avg", "distribution": "uniform", "seed": None},
    }
    gru = {"name": "gru_1", "trainable": True, "batch_input_shape": [None, 5, 3], "dtype": "float32"}
    gru |= {"return_sequences": False, "return_state": False, "go_backwards": False, "stateful": False}
    gru |= {"unroll": False, "implementation": 0, "units": 2, "activation": "tanh", "use_bias": True}
    gru |= {"recurrent_activation": "hard_sigmoid", "kernel_initializer": uniform, "dropout": 0.0}
    dense = {"name": "dense_1", "trainable": True, "units": 2, "activation": "softmax", "use_bias": True}
    config = [{"class_name": "GRU", "config": gru}, {"class_name": "Dense", "config": dense}]
    kernel, recurrent = rng.normal(size=(3, 6)), rng.normal(size=(2, 6))
    bias, head = rng.normal(size=6), rng.normal(size=(2, 2))
    stored = {
        "gru_1": {"kernel": kernel, "recurrent_kernel": recurrent, "bias": bias},
        "dense_1": {"kernel": head, "bias": np.zeros(2)},
    }
    old_file(tmp_path / "old.h5", {"class_name": "Sequential", "config": config}, stored)

    x = rng.normal(size=(4, 5, 3))
    state = np.zeros((4, 2))
    for step in x.transpose(1, 0, 2):  # as Keras 2.1 computed it
        inputs = np.split(step @ kernel + bias, 3, axis=-1)
        update, reset = (
            np.clip(0.2 * (i + state @ recurrent[:, k : k + 2]) + 0.5, 0, 1)
            for i, k in zip(inputs, (0, 2), strict=False)
        )
        candidate = np.tanh(inputs[2] + (reset * state) @ recurrent[:, 4:])
        state = update * state + (1 - update) * candidate
    expected = np.exp(state @ head) / np.exp(state @ head).sum(axis=-1, keepdims=True)
    (y,) = answers(distill.load_model(tmp_path / "old.h5"), [x.astype("float32")])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_a_model_of_tensorflow_1(tmp_path):
    """Its initializers have a dtype, and batch normalization is called by its version."""

    def initializer(name):
        return {"class_name": name, "config": {"dtype": "float32"}}

    dense = {"name": "d", "units": 2, "use_bias": False, "kernel_initializer": initializer("GlorotUniform")}
    norm = {"name": "n", "axis": [1], "epsilon": 0.5, "gamma_initializer": initializer("Ones")}
    config = [
        {"class_name": "Dense", "config": {**dense, "batch_input_shape": [None, 2]}},
        {"class_name": "BatchNormalizationV1", "config": norm},
    ]
    stored = {
        "d": {"kernel": np.array([[1.0, 2.0], [3.0, 4.0]])},
        "n": {
            "gamma": np.array([2.0, 3.0]),
            "beta": np.array([1.0, 0.0]),
            "moving_mean": np.array([1.0, 2.0]),
            "moving_variance": np.array([0.5, 3.5]),
        },
    }
    whole = {"class_name": "Sequential", "config": {"name": "s", "layers": config}}
    old_file(tmp_path / "old.h5", whole, stored, "2.2.4-tf")
    (y,) = answers(distill.load_model(tmp_path / "old.h5"), [np.ones((1, 2), "float32")])
    np.testing.assert_allclose(y, [[2 * 3 / 1 + 1, 3 * 4 / 2]], rtol=1e-6)


def test_a_stack_on_a_model_of_keras_2_1(tmp_path):
    one = {"units": 3, "activation": "relu"}
    inside = {
        "name": "base",
        "layers": [
            {
                "name": "in",
                "class_name": "InputLayer",
                "config": {"name": "in", "batch_input_shape": [None, 2]},
                "inbound_nodes": [],
            },
            {
                "name": "d",
                "class_name": "Dense",
                "config": {"name": "d", **one},
                "inbound_nodes": [[["in", 0, 0, {}]]],
            },
        ],
        "input_layers": [["in", 0, 0]],
        "output_layers": [["d", 0, 0]],
    }
    stack = [
        {"class_name": "Model", "config": inside},
        {"class_name": "Dense", "config": {"name": "e", "units": 1}},
    ]
    kernel, head = np.arange(6.0).reshape(2, 3), np.ones((3, 1))
    stored = {
        "base": {"kernel": kernel, "bias": np.ones(3)},
        "e": {"kernel": head, "bias": np.zeros(1)},
    }
    old_file(tmp_path / "old.h5", {"class_name": "Sequential", "config": stack}, stored, "2.2.2")
    (y,) = answers(distill.load_model(tmp_path / "old.h5"), [np.ones((1, 2), "float32")])
    assert y == kernel.sum() + 3


def test_what_keras_3_has_no_word_for(tmp_path):
    layer = {"class_name": "LSTM", "config": {"units": 2, "time_major": True, "batch_input_shape": [1, 2, 3]}}
    old_file(tmp_path / "old.h5", {"class_name": "Sequential", "config": [layer]}, {})
    with pytest.raises(
        ValueError, match="LSTM has no setting time_major in Keras 3. Received: 'LSTM' with time_major=True"
    ):
        distill.load_model(tmp_path / "old.h5")
    layer = {
        "class_name": "TFOpLambda",
        "config": {"name": "add", "function": "math.add", "batch_input_shape": [1, 2]},
    }
    old_file(tmp_path / "raw.h5", {"class_name": "Sequential", "config": [layer]}, {}, "2.15.0")
    with pytest.raises(ValueError, match=r"can teach as a SavedModel: export it \(model\.export\(folder\)\)"):
        distill.load_model(tmp_path / "raw.h5")
