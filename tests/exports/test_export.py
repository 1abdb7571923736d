"""Exported files answer as the model does, hold what their precision says, and replace only other exports."""

import pathlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import dense_net
from keras import layers

import distill
from distill import export, quantization
from distill._atomic import replacing_folder
from distill.exports import Exported, inputs_by_name

SHAPE = (8, 8, 3)
PRECISIONS = ("float32", "float16", "dynamic_range", "int8", "int16x8")


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
    """The model in each format and precision, and once as a SavedModel."""
    folder = tmp_path_factory.mktemp("exports")
    needs = {"int8": {"examples": images()}, "int16x8": {"examples": images()}}
    made = {
        precision: export(
            model, folder / f"{precision}.tflite", precision=precision, **needs.get(precision, {})
        )
        for precision in PRECISIONS
    }
    made["saved_model"] = export(model, folder / "saved_model")
    made["onnx"] = export(model, folder / "model.onnx")
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in made.values())
    return made


ERRORS = {
    "float32": 1e-6,
    "float16": 1e-3,
    "dynamic_range": 0.02,
    "int8": 0.03,
    "int16x8": 5e-3,
    "saved_model": 1e-6,
    "onnx": 1e-6,
}


def test_files_answer_as_the_model_does(model, files):
    x = images()
    expected = model.predict(x, verbose=0)
    for name, path in files.items():
        found = Exported(path).predict(x, batch_size=16)  # the last batch is smaller
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=ERRORS[name], err_msg=name)
        if name in ("float16", "dynamic_range", "int8", "int16x8"):
            assert np.abs(found - expected).max() > 1e-7, name


def test_files_hold_what_their_precision_says(files):
    from ai_edge_litert.interpreter import Interpreter

    def types(name):
        interpreter = Interpreter(str(files[name]))
        details = interpreter.get_tensor_details()
        runner = interpreter.get_signature_runner()
        (entry,), (end,) = runner.get_input_details().values(), runner.get_output_details().values()
        return {d["dtype"].__name__ for d in details}, entry["dtype"].__name__, end["dtype"].__name__

    assert types("float32") == ({"float32", "int32"}, "float32", "float32")
    assert "float16" in types("float16")[0]
    assert "int8" in types("dynamic_range")[0]
    assert types("int8") == ({"int8", "int32"}, "int8", "int8")
    assert types("int16x8")[0] <= {"int8", "int16", "int32", "int64"}
    assert types("int16x8")[1:] == ("int16", "int16")


def test_examples_are_arrays_as_many_of_each_input(tmp_path):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], layers.Dense(2)(layers.Add()([a, b])))
    data = tf.data.Dataset.from_tensor_slices(np.ones((4, 4), "float32")).batch(2)
    for wrong, error, message in (
        ([np.ones((4, 4)), np.ones((3, 4))], ValueError, "as many of each input"),
        (data, TypeError, "For a dataset, pass np.concatenate"),
    ):
        with pytest.raises(error, match=message):
            export(model, tmp_path / "m.tflite", precision="int8", examples=wrong)
        with pytest.raises(error, match=message):
            quantization.quantize_aware(model, wrong)
    assert not (tmp_path / "m.tflite").exists()


@pytest.mark.parametrize("suffix", [".tflite", ""])
def test_examples_of_another_shape_are_no_fault_of_the_model(suffix, tmp_path):
    for shape in ((4, 5), (4, 2, 6)):
        with pytest.raises(
            ValueError, match=r"shapes that the model takes. Received: \(4, .* which takes \(None, 6\)"
        ):
            distill.export(dense_net(4), tmp_path / f"m{suffix}", examples=np.ones(shape, "float32"))
    assert not list(tmp_path.iterdir())
    # As in `predict`, a last axis of 1 may be too many.
    assert distill.export(
        dense_net(4), tmp_path / f"m{suffix}", examples=np.ones((4, 6, 1), "float32")
    ).exists()


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "bad.tflite").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"Not a LiteRT file, or a damaged one: .*bad\.tflite"):
        Exported(tmp_path / "bad.tflite")


def test_folders_and_files_that_are_no_exports_stay(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "m.tflite").mkdir()
    for name, message in (("data", "would be lost"), ("file", "a file"), ("m.tflite", "a folder")):
        with pytest.raises(FileExistsError, match=message):
            export(model, tmp_path / name)
    assert (tmp_path / "data" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "x"
    export(model, tmp_path / "saved")
    export(model, tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"with other files \(tokenizer\.json\), which would be lost"):
        export(model, tmp_path / "saved")
    assert (tmp_path / "saved" / "tokenizer.json").read_text() == "mine"


def test_what_a_link_points_to_is_replaced(tmp_path):
    first, second = (keras.Sequential([keras.Input((4,)), layers.Dense(width)]) for width in (2, 3))
    export(first, tmp_path / "v1")
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    export(second, tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert Exported(tmp_path / "v1").predict(np.zeros((1, 4), "float32")).shape == (1, 3)


def test_sparse_kernels_are_stored_without_their_zeros(tmp_path):
    model = keras.Sequential([keras.Input((64,)), layers.Dense(256, use_bias=False)])
    kernel = np.random.default_rng(0).normal(size=(64, 256)).astype("float32")
    model.set_weights([np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.9), 0, kernel)])
    x = np.random.default_rng(1).normal(size=(9, 64)).astype("float32")
    expected = model.predict(x, verbose=0)
    for precision, size in (("float32", 4), ("float16", 2)):
        file = Exported(export(model, tmp_path / "sparse.tflite", precision=precision, sparse=True))
        assert file.bytes < 0.4 * size * kernel.size + 2000
        np.testing.assert_allclose(file.predict(x), expected, atol=4 / 10 ** (size + 0.5))


def test_several_inputs_and_outputs_go_by_their_names(tmp_path):
    a, b = keras.Input((5,), name="zed"), keras.Input((7,), name="ay")
    count = keras.Input((1,), dtype="int32", name="count")
    mixed = layers.Concatenate()([a, b, layers.Flatten()(layers.Embedding(4, 2)(count))])
    model = keras.Model([a, b, count], {"u": layers.Dense(3)(mixed), "v": layers.Dense(2)(a)})
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(9, 5)), rng.normal(size=(9, 7)), rng.integers(0, 4, (9, 1))]
    expected = model.predict(x, verbose=0)
    for name in ("model.tflite", "int8.tflite", "model.onnx", "folder"):
        options = {"precision": "int8", "examples": x} if name == "int8.tflite" else {}
        file = Exported(export(model, tmp_path / name, **options))
        found = file.predict(inputs_by_name(model, x))
        assert set(found) == {"u", "v"}
        for key in found:
            np.testing.assert_allclose(found[key], expected[key], atol=0.1 if options else 1e-5)
        with pytest.raises(ValueError, match=r"inputs are .*\. Received: ay, zed"):
            file.predict({"ay": x[1], "zed": x[0]})
        with pytest.raises(ValueError, match=r"inputs are .*\. Received: one array without a name"):
            file.predict(x[0])
        with pytest.raises(ValueError, match=r"as many of each input\. Received: \[8, 9\]"):
            file.predict({"ay": x[1], "zed": x[0][:8], "count": x[2]})


def test_an_export_that_fails_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = export(model, tmp_path / "new" / "folder")
    assert Exported(export(model, path)).predict(images(1)).shape == (1, 5)  # in place of the old one
    kept = sorted(each.name for each in path.rglob("*"))

    def broken(trackable, filepath, **kwargs):
        Path(filepath).mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        export(model, path)
    assert sorted(each.name for each in path.rglob("*")) == kept
    assert [each.name for each in path.parent.iterdir()] == ["folder"]


def test_exports_print_nothing(model, tmp_path, capfd):
    for name in ("a.tflite", "a.onnx", "a"):
        export(model, tmp_path / name)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch, error):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_text("old")
    rename = pathlib.Path.rename

    def broken(self, target):
        if self.name == "saved" and target.name == "saved":
            raise error("no")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", broken)
    context = replacing_folder(tmp_path / "saved")
    draft = context.__enter__()
    draft.mkdir()
    (draft / "saved_model.pb").write_text("new")
    with pytest.raises(error, match="no"):
        context.__exit__(None, None, None)
    assert [each.name for each in tmp_path.iterdir()] == ["saved"]
    assert (tmp_path / "saved" / "saved_model.pb").read_text() == "old"


def dense(**options):
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, **options)], name="small")


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("a.pb", {}, r"no suffix \(a SavedModel folder\)\. Received: '.*a\.pb'"),
        (
            "a.onnx",
            {"precision": "int8", "examples": 1},
            r"Only LiteRT .* sparse kernels\. Received: precision='int8'",
        ),
        ("a", {"sparse": True}, "Only LiteRT files"),
        ("a.tflite", {"precision": "int4"}, r"Received: 'int4'"),
        (
            "a.tflite",
            {"precision": "int8", "examples": 1, "sparse": True},
            "cannot load files with sparse integer",
        ),
        ("a.tflite", {"precision": "dynamic_range", "sparse": True}, "cannot load files with sparse"),
        ("a.tflite", {"precision": "int8"}, r"examples=None\. Pass examples="),
        ("a.tflite", {"precision": "int8", "examples": np.zeros((0, 4))}, r"Received: \[0\] of them"),
    ],
)
def test_what_does_not_go_together_is_refused(path, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(dense(), tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_models_from_quantize_aware_are_exported_as_int8(tmp_path):
    aware = distill.quantization.quantize_aware(dense(), np.ones((4, 4), "float32"))
    for path, options in (("a.tflite", {}), ("a", {}), ("a.tflite", {"precision": "int16x8", "examples": 1})):
        with pytest.raises(ValueError, match=r"'small' with .*quantization\.strip\(model\)"):
            export(aware, tmp_path / path, **options)


def test_what_litert_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'headless', which is not built"):
        export(keras.Sequential([layers.Dense(2)], name="headless"), tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"whose layer 'dense\w*' computes in float16"):
        export(dense(dtype="mixed_float16"), tmp_path / "a.tflite")
    large = dense(kernel_initializer="zeros")
    large.layers[0].kernel.assign(np.full((4, 3), 1e5))
    with pytest.raises(ValueError, match=r"kernel' with 100000\. Export in another"):
        export(large, tmp_path / "a.tflite", precision="float16")
    normed = keras.Sequential([keras.Input((4,)), layers.LayerNormalization()], name="normed")
    with pytest.raises(
        ValueError,
        match=r"'normed' in int8, for which it computes \w+.* in float32\. It begins at layer 'layer_n",
    ):
        export(normed, tmp_path / "a.tflite", precision="int8", examples=np.eye(4))
    bent = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="elu")], name="bent")
    with pytest.raises(
        ValueError, match=r"In int16x8, .* which needs ELU\. It begins at layer 'dense\w*' \(Dense\)"
    ):
        export(bent, tmp_path / "a.tflite", precision="int16x8", examples=np.eye(4))
    assert not list(tmp_path.iterdir())


def test_what_onnx_cannot_hold_is_refused(tmp_path):
    hashed = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Hashing(7)], name="hashed")
    with pytest.raises(ValueError, match=r"which has none for StringToHash\w+\. It begins at layer 'hashing"):
        export(hashed, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"Received: 'small' in .*bfloat16.* It begins at layer 'dense"):
        export(dense(dtype="mixed_bfloat16"), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("missing", "call", "message"),
    [
        ("tf2onnx", lambda files, path: export(dense(), path / "a.onnx"), r"no tf2onnx .*distill\[onnx\]"),
        ("onnxruntime", lambda files, path: export(dense(), path / "a.onnx"), r"Writing.*distill\[onnx\]"),
        ("onnxruntime", lambda files, path: Exported(files["onnx"]), r"no onnxruntime.*distill\[onnx\]"),
        (
            "ai_edge_litert.interpreter",
            lambda files, path: export(dense(), path / "a.tflite"),
            "Writing.*litert",
        ),
        ("ai_edge_litert.interpreter", lambda files, path: Exported(files["int8"]), r"distill\[litert\]"),
    ],
)
def test_missing_packages_are_named(missing, call, message, files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        call(files, tmp_path)


def test_files_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or folder: .*a\.tflite"):
        Exported(tmp_path / "a.tflite")
    with pytest.raises(ValueError, match=r"Received: 'a\.h5'"):
        Exported("a.h5")


def test_a_file_that_its_runtime_refuses_is_an_error_of_values(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    whole = export(model, tmp_path / "m.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"ONNX Runtime must be able to run the file.*cut\.onnx"):
        Exported(tmp_path / "cut.onnx")

    class Served(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4))])
        def first(self, x):
            return {"y": x}

    served = Served()
    tf.saved_model.save(served, str(tmp_path / "other"), signatures={"first": served.first})
    with pytest.raises(ValueError, match=r"by its signature 'serving_default'.*with \['first'\]"):
        Exported(tmp_path / "other")


def test_a_file_of_a_fixed_batch_is_timed_at_any_length(tmp_path):
    inputs = keras.Input((None, 4), batch_size=1)
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    file = Exported(export(model, tmp_path / "m.tflite", examples=np.zeros((3, 7, 4), "float32")))
    x = np.ones((1, 7, 4), "float32")
    assert file.predict(x).shape == (1, 7, 2)
    file.prepare(x)()
