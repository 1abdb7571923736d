"""Exported files beside the model they came from."""

import keras
import numpy as np
import pytest
from keras import layers

from distill import cost
from distill.cost import compare_exports
from distill.exports import Exported, export

SHAPE = (8, 8, 3)


def images(count=40):
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    stack = [layers.Conv2D(16, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten()]
    return keras.Sequential(
        [keras.Input(SHAPE, name="image"), *stack, layers.Dense(5, "softmax")], name="net"
    )


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The model in files of every runtime."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        "float32": export(model, folder / "float32.tflite"),
        "float16": export(model, folder / "float16.tflite", precision="float16"),
        "int8": export(model, folder / "int8.tflite", precision="int8", examples=images()),
        "saved_model": export(model, folder / "saved_model"),
        "onnx": export(model, folder / "model.onnx"),
    }


def test_the_comparison_counts_what_it_says(model, files):
    x = images()
    expected = model.predict(x, verbose=0)
    y = expected.argmax(-1)
    y[:10] = (y[:10] + 1) % 5
    result = compare_exports(model, files, x, y, runs=3)
    assert result.accuracy == 0.75
    assert result.bytes == cost.file_bytes(model)
    assert list(result.rows) == list(files)
    for name, row in result.rows.items():
        found = Exported(files[name]).predict(x)
        assert row.accuracy == np.mean(found.argmax(-1) == y)
        assert row.agreement == np.mean(found.argmax(-1) == expected.argmax(-1))
        assert row.largest_difference == pytest.approx(np.abs(found - expected).max())
        assert row.latency.runs == 3
    assert result.rows["float32"].accuracy == 0.75
    sizes = {name: row.bytes for name, row in result.rows.items()}
    assert sizes["float32"] == files["float32"].stat().st_size
    assert sizes["int8"] < sizes["float16"] < sizes["float32"] < sizes["saved_model"]
    lines = str(result).splitlines()
    assert lines[0].split() == ["accuracy", "agreement", "largest", "difference", "bytes", "ms"]
    assert lines[1].split()[:3] == ["keras", "75.00", "%"]
    assert len(lines) == 2 + len(files)
    assert len({len(line) for line in lines if "keras" not in line}) == 1
    assert compare_exports(model, {"a": files["float32"]}, x, runs=1).rows["a"].accuracy is None


def test_labels_are_one_integer_for_each_answer(model, files):
    x = images()
    y = model.predict(x, verbose=0).argmax(-1)
    one = {"a": files["float32"]}
    assert compare_exports(model, one, x, y[:, None], runs=1).accuracy == 1.0
    for wrong in (y[:1], np.eye(5)[y], y.astype("float32")):
        with pytest.raises(ValueError, match="Labels must be integers, one per answer"):
            compare_exports(model, one, x, wrong, runs=1)


def test_one_output_has_no_largest(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, "sigmoid")])
    file = export(model, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="an output with at least two classes"):
        compare_exports(model, {"a": file}, np.ones((3, 4), "float32"), runs=1)


def test_another_models_file_is_refused(files):
    other = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(ValueError, match=r"\(40, 4\)\. Received: 'int8', \(40, 5\)"):
        compare_exports(other, {"int8": files["int8"]}, images(), runs=1)


def test_models_of_several_outputs_are_refused():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, {"u": layers.Dense(3)(inputs), "v": layers.Dense(2)(inputs)})
    with pytest.raises(ValueError, match="Models of one output"):
        compare_exports(model, {}, np.ones((9, 5)))
