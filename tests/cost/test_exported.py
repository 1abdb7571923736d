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


def one_column(activation=None):
    keras.utils.set_random_seed(7)
    return keras.Sequential([keras.Input((4,)), layers.Dense(1, activation)], name="net")


def test_a_regression_is_measured_by_a_metric_of_ones_own(tmp_path):
    model, x = one_column(), np.random.default_rng(0).normal(size=(30, 4)).astype("float32")
    y = x.sum(-1, keepdims=True)
    files = {
        "float32": export(model, tmp_path / "a.tflite"),
        "int8": export(model, tmp_path / "b.tflite", precision="int8", examples=x),
    }
    error = {name: np.abs(Exported(path).predict(x) - y).mean() for name, path in files.items()}
    counted = keras.metrics.MeanAbsoluteError(name="error")
    counted.update_state(y, 0 * y)
    for metric in (lambda y, outputs: np.abs(outputs - y), keras.metrics.mean_absolute_error, counted):
        result = compare_exports(model, files, x, y, metric=metric, runs=1)
        assert result.metric == pytest.approx(np.abs(model.predict(x, verbose=0) - y).mean(), rel=1e-5)
        for name, row in result.rows.items():
            assert row.metric == pytest.approx(error[name], rel=1e-5)
            assert row.accuracy is row.agreement is None
    assert error["int8"] != pytest.approx(error["float32"], rel=1e-5)
    assert str(result).splitlines()[0].split() == ["error", "largest", "difference", "bytes", "ms"]
    plain = compare_exports(model, files, x, runs=1)
    assert plain.metric is None
    assert plain.rows["int8"].largest_difference > 0
    with pytest.raises(ValueError, match=r"tell classes only where they are probabilities.*Pass metric="):
        compare_exports(model, files, x, y, runs=1)
    with pytest.raises(ValueError, match="metric without y"):
        compare_exports(model, files, x, metric=counted, runs=1)


def test_a_column_of_probabilities_tells_two_classes(tmp_path):
    model, x = one_column("sigmoid"), np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    file = {"a": export(model, tmp_path / "m.tflite")}
    y = (model.predict(x, verbose=0) > 0.5).astype("int64")
    y[:10] = 1 - y[:10]
    for labels in (y, y[:, 0], y.astype(bool)):
        result = compare_exports(model, file, x, labels, runs=1)
        assert (result.accuracy, result.rows["a"].accuracy, result.rows["a"].agreement) == (0.75, 0.75, 1.0)


def test_several_columns_take_a_metric_and_its_labels(model, files):
    x = images()
    y = np.eye(5)[model.predict(x, verbose=0).argmax(-1)]
    one = {"a": files["float32"]}
    result = compare_exports(model, one, x, y, metric=keras.metrics.CategoricalAccuracy(name="share"), runs=1)
    assert (result.metric, result.rows["a"].metric, result.rows["a"].accuracy) == (1.0, 1.0, None)
    assert result.rows["a"].agreement == 1.0
    assert "share" in str(result).splitlines()[0]


@pytest.mark.slow
def test_files_with_a_batch_size_of_their_own(tmp_path):
    inputs = keras.Input((5, 4), batch_size=4)
    model = keras.Model(inputs, {"only": layers.Dense(3)(layers.GRU(3)(inputs))})
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype("float32")
    files = {"litert": export(model, tmp_path / "m.tflite"), "saved": export(model, tmp_path / "m")}
    result = compare_exports(model, files, x, runs=2)
    assert all(row.largest_difference < 1e-5 for row in result.rows.values())


def test_another_models_file_is_refused(files):
    other = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(4)])
    with pytest.raises(ValueError, match=r"\(40, 4\)\. Received: 'int8', \(40, 5\)"):
        compare_exports(other, {"int8": files["int8"]}, images(), runs=1)


def test_models_of_several_outputs_are_refused():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, {"u": layers.Dense(3)(inputs), "v": layers.Dense(2)(inputs)})
    with pytest.raises(ValueError, match="Models of one output"):
        compare_exports(model, {}, np.ones((9, 5)))


def test_a_metric_may_go_by_its_name(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    files = {"float32": export(model, tmp_path / "m.tflite")}
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    by_name, by_class = (
        compare_exports(model, files, x, y, metric=one, runs=2)
        for one in ("mae", keras.metrics.MeanAbsoluteError)
    )
    assert "mean_absolute_error" in str(by_name)
    assert by_name.rows["float32"].metric == by_class.rows["float32"].metric
