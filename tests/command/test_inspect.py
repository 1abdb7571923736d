"""What `distill inspect` prints about a model file."""

import h5py
import keras
import numpy as np
import pytest
from backend import only_on
from keras import layers

from distill import cache, command, exports


@pytest.fixture
def file(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(2, name="hidden"), layers.BatchNormalization(name="norm")],
        name="tiny",
    )
    model.layers[0].set_weights([np.array([[0.0, 3], [0, -1], [2, 0], [0, 4]]), np.array([1.0, 1])])
    model.save(tmp_path / "tiny.keras")
    return tmp_path / "tiny.keras"


def test_a_file_is_described(file, tmp_path, capsys):
    assert (
        command.main(
            ["inspect", str(file), "--latency", "--threads", "2", "--plot", str(tmp_path / "cost.png")]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("tiny.keras, " + f"{file.stat().st_size:,} bytes, Sequential") for line in lines)
    assert any("hidden (Dense)" in line for line in lines)
    at = lines.index("Weights")
    assert lines[at + 1 : at + 4] == [
        "weight                shape  type     mean    sd  min  max   zeros",
        "hidden/kernel         4 × 2  float32     1  1.66   -1    4   50.0%",
        "hidden/bias               2  float32     1     0    1    1    0.0%",
    ]
    assert lines[at + 5] == "norm/beta                 2  float32     0     0    0    0  100.0%"
    at = lines.index("Zeros")
    assert lines[at + 1] == "4 of 8 kernel weights are zero: 50.00%"
    at = lines.index("Cost of 'tiny'")
    assert "multiply-adds" in lines[at + 4]
    assert lines[at + 4].endswith(" 8")
    assert lines[at + 7].startswith("LiteRT, 2 threads, batch of 1")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_an_h5_of_a_whole_model_is_no_file_of_weights(file, capsys):
    keras.models.load_model(file).save(file.with_suffix(".h5"))
    assert command.main(["inspect", str(file.with_suffix(".h5"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("bytes, Sequential")
    assert "Zeros" in lines


def test_a_model_without_kernels_is_described(tmp_path, capsys):
    keras.Sequential([keras.Input((4,)), layers.ReLU()], name="bare").save(tmp_path / "bare.keras")
    assert command.main(["inspect", str(tmp_path / "bare.keras")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "it has no kernels" in lines[lines.index("Zeros") + 1]


def test_a_file_that_is_no_model_is_an_error(tmp_path, capsys):
    (tmp_path / "torn.keras").write_bytes(b"PK")
    for name, message in (("torn.keras", "error: "), ("absent.keras", "error: No such file: ")):
        assert command.main(["inspect", str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.startswith(message)


@pytest.fixture
def exported(tmp_path):
    """A file or folder of each format, of a model whose weights are known."""

    def export(name, **options):
        inputs = keras.Input((4,), name="features")
        model = keras.Model(inputs, layers.Dense(2, "relu", name="only")(inputs))
        model.layers[-1].set_weights([np.full((4, 2), 3.0), np.array([0.0, 1.0])])
        examples = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
        return exports.export(
            model, tmp_path / name, **options, **({"examples": examples} if options else {})
        )

    return export


def described(path, capsys, *options):
    assert command.main(["inspect", str(path), *options]) == 0
    return capsys.readouterr().out.splitlines()


def cells(lines, title):
    """The rows below a heading, without that of the names."""
    at = lines.index(title)
    end = lines.index("", at) if "" in lines[at:] else len(lines)
    return [line.split() for line in lines[at + 2 : end]]


@only_on("tensorflow", reason="TensorFlow writes LiteRT files")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_litert_file_has_functions_operators_and_weights(exported, capsys, precision):
    path = exported("m.tflite", **({} if precision == "float32" else {"precision": "int8"}))
    lines = described(path, capsys, "--latency")
    assert lines[0].endswith(f"{path.stat().st_size:,} bytes, LiteRT")
    assert [row[1:] for row in cells(lines, "Functions")] == [
        ["input", "features", "any", "×", "4", precision],
        ["output", "output_0", "any", "×", "2", precision],
    ]
    assert cells(lines, "Operators") == [["FULLY_CONNECTED", "1"]]
    weights = {tuple(row[1:-6]): row[-6:] for row in cells(lines, "Weights")}
    assert weights["2", "×", "4"] == [precision, "3", "0", "3", "3", "0.0%"]
    bias = "float32" if precision == "float32" else "int32"
    assert weights["2",] == [bias, "0.5", "0.5", "0", "1", "50.0%"]
    assert " ms per example" in lines[lines.index("Latency") + 1]


@only_on("tensorflow", reason="tf2onnx writes ONNX files")
def test_an_onnx_file_has_functions_operators_and_weights(exported, capsys):
    pytest.importorskip("onnx")
    path = exported("m.onnx")
    lines = described(path, capsys, "--latency")
    assert lines[0].endswith("bytes, ONNX")
    assert cells(lines, "Functions")[0][1:] == ["input", "features", "any", "×", "4", "float"]
    assert ["MatMul", "1"] in cells(lines, "Operators")
    (kernel,) = (row for row in cells(lines, "Weights") if row[1:4] == ["4", "×", "2"])
    assert kernel[4:] == ["float", "3", "0", "3", "3", "0.0%"]
    assert " ms per example" in lines[lines.index("Latency") + 1]


@only_on("tensorflow", reason="a SavedModel is TensorFlow's")
def test_a_saved_model_has_functions_and_weights_and_is_not_run(exported, capsys):
    path = exported("saved")
    lines = described(path, capsys)
    assert lines[0].endswith("bytes, SavedModel")
    assert ["serving_default", "input", "features", "any", "×", "4", "float32"] in cells(lines, "Functions")
    assert [row[-6:] for row in cells(lines, "Weights")] == [
        ["float32", "3", "0", "3", "3", "0.0%"],
        ["float32", "0.5", "0.5", "0", "1", "50.0%"],
    ]
    assert command.main(["inspect", str(path), "--latency"]) == 1
    assert "Pass --trust if you trust its writer" in " ".join(capsys.readouterr().err.split())
    assert " ms per example" in described(path, capsys, "--latency", "--trust")[-1]
    assert command.main(["inspect", str(path), "--files"]) == 1
    assert "whose layers are unknown" in " ".join(capsys.readouterr().err.split())


@only_on("tensorflow", reason="a checkpoint is TensorFlow's")
def test_a_checkpoint_has_weights(tmp_path, capsys):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="only")])
    model.layers[0].set_weights([np.full((4, 2), 3.0), np.zeros(2)])
    tf.train.Checkpoint(model).write(tmp_path / "cp")
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    for path in ("cp", "cp.index"):
        lines = described(tmp_path / path, capsys)
        assert lines[0].endswith(f"{size:,} bytes, weights alone")
        assert [row[-6:] for row in cells(lines, "Weights")] == [
            ["float32", "3", "0", "3", "3", "0.0%"],
            ["float32", "0", "0", "0", "0", "100.0%"],
        ]


@only_on("tensorflow", reason="TensorFlow writes LiteRT files")
@pytest.mark.parametrize("name", ["m.tflite", "m.onnx", "saved"])
def test_damaged_exports_are_an_error(exported, tmp_path, capsys, name):
    path = exported(name)
    file = path / "saved_model.pb" if path.is_dir() else path
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], whole[:40] + bytes(40) + whole[80:]):
        file.write_bytes(content)
        status = command.main(["inspect", str(path)])
        err = capsys.readouterr().err
        assert status == 0 or err.startswith("error: ")
        assert status == 1 or content != whole[:10]
    file.write_bytes(b"nothing of the kind")
    assert command.main(["inspect", str(path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_an_architecture_takes_its_weights_from_another_file(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="only")])
    (tmp_path / "model.json").write_text(model.to_json())
    model.save_weights(tmp_path / "w.weights.h5")
    assert command.main(["inspect", str(tmp_path / "model.json")]) == 1
    assert "Pass their file as weights" in " ".join(capsys.readouterr().err.split())
    weights = ["--weights", str(tmp_path / "w.weights.h5")]
    assert command.main(["inspect", str(tmp_path / "model.json"), *weights]) == 0
    assert "only/kernel" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.weights.h5", "w.h5"])
def test_a_file_of_weights_has_weights(tmp_path, capsys, name):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="only")])
    model.layers[0].set_weights([np.full((4, 2), 3.0), np.zeros(2)])
    file = tmp_path / name
    if name == "w.h5":  # as Keras did before version 3
        with h5py.File(file, "w") as stored:
            stored.attrs["layer_names"] = ["only"]
            group = stored.create_group("only")
            group.attrs["weight_names"] = ["only/kernel:0", "only/bias:0"]
            for key, value in zip(group.attrs["weight_names"], model.get_weights(), strict=True):
                group[key] = value
    else:
        model.save_weights(file)
    assert command.main(["inspect", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"{file.stat().st_size:,} bytes, weights alone")
    at = lines.index("Weights")
    assert len(lines) == at + 4
    labels = ["only/kernel", "only/bias"] if name == "w.h5" else ["only/0", "only/1"]
    assert [line.split() for line in lines[at + 2 : at + 4]] == [
        [labels[0], "4", "×", "2", "float32", "3", "0", "3", "3", "0.0%"],
        [labels[1], "2", "float32", "0", "0", "0", "0", "100.0%"],
    ]
    assert command.main(["inspect", str(file), "--latency"]) == 1
    assert "a file of weights" in " ".join(capsys.readouterr().err.split())
    file.write_bytes(file.read_bytes()[:-100])
    assert command.main(["inspect", str(file)]) == 1
    assert "truncated" in " ".join(capsys.readouterr().err.split())


def test_a_cache_of_answers_has_shards_and_targets(tmp_path, capsys):
    x = np.arange(6.0, dtype="float32")[:, None] + [0.0, 5, 1, 2]
    target = cache.TopK(2, from_logits=True)
    cache.record(np.asarray, x, tmp_path / "cache", targets=target, shard_size=4, name="server", verbose=0)
    assert command.main(["inspect", str(tmp_path / "cache")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("bytes, answers of a teacher")
    at = lines.index("Cache")
    assert lines[at + 1] == "Answers of 'server' to 6 examples, weights unknown"
    assert lines[at + 2].startswith("2 of 2 shards, ")
    assert lines[at + 4].split() == ["answer", "shape", "kept", "as", "bytes", "per", "example"]
    assert lines[at + 5].split()[:2] == ["output", "4"]
    assert lines[at + 5].endswith(str(2 * (2 + 4) + 4))
    assert command.main(["inspect", str(tmp_path / "cache"), "--latency"]) == 1
    assert "Inspect the teacher" in capsys.readouterr().err


def test_a_litert_file_without_zeros_is_described(tmp_path, capsys):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, use_bias=False, name="dense")])
    model.set_weights([np.where(np.random.default_rng(0).random((64, 128)) < 0.9, 0, 1).astype("float32")])
    exports.export(model, tmp_path / "sparse.tflite", sparse=True)
    assert command.main(["inspect", str(tmp_path / "sparse.tflite")]) == 0
    assert "128" in capsys.readouterr().out
