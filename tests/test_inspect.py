"""What `python -m distill.inspect` prints about a model file."""

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from distill import inspect


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
    assert inspect.main([str(file), "--latency", "--threads", "2", "--plot", str(tmp_path / "cost.png")]) == 0
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
    assert inspect.main([str(file.with_suffix(".h5"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("bytes, Sequential")
    assert "Zeros" in lines


def test_a_model_without_kernels_is_described(tmp_path, capsys):
    keras.Sequential([keras.Input((4,)), layers.ReLU()], name="bare").save(tmp_path / "bare.keras")
    assert inspect.main([str(tmp_path / "bare.keras")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "it has no kernels" in lines[lines.index("Zeros") + 1]


def test_a_file_that_is_no_model_is_an_error(tmp_path, capsys):
    (tmp_path / "torn.keras").write_bytes(b"PK")
    for name, message in (("torn.keras", "error: "), ("absent.keras", "error: No such file: ")):
        assert inspect.main([str(tmp_path / name)]) == 1
        assert capsys.readouterr().out.startswith(message)


def test_a_saved_model_has_weights_and_a_function(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.layers[0].set_weights([np.full((4, 2), 3.0), np.zeros(2)])
    model.export(tmp_path / "saved", verbose=False)
    assert inspect.main([str(tmp_path / "saved")]) == 1
    assert "trust" in capsys.readouterr().out
    assert inspect.main([str(tmp_path / "saved"), "--trust"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("Function") + 1].startswith("'serve'; layers")
    at = lines.index("Weights")
    assert [line.split()[-5:] for line in lines[at + 2 : at + 4]] == [
        ["3", "0", "3", "3", "0.0%"],
        ["0", "0", "0", "0", "100.0%"],
    ]
    assert inspect.main([str(tmp_path / "saved"), "--trust", "--latency"]) == 1
    assert "whose layers are unknown" in " ".join(capsys.readouterr().out.split())


def test_an_architecture_takes_its_weights_from_another_file(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="only")])
    (tmp_path / "model.json").write_text(model.to_json())
    model.save_weights(tmp_path / "w.weights.h5")
    assert inspect.main([str(tmp_path / "model.json")]) == 1
    assert "Pass their file as weights" in " ".join(capsys.readouterr().out.split())
    weights = ["--weights", str(tmp_path / "w.weights.h5")]
    assert inspect.main([str(tmp_path / "model.json"), *weights]) == 0
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
    assert inspect.main([str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"{file.stat().st_size:,} bytes, weights alone")
    at = lines.index("Weights")
    assert len(lines) == at + 4
    labels = ["only/kernel", "only/bias"] if name == "w.h5" else ["only/0", "only/1"]
    assert [line.split() for line in lines[at + 2 : at + 4]] == [
        [labels[0], "4", "×", "2", "float32", "3", "0", "3", "3", "0.0%"],
        [labels[1], "2", "float32", "0", "0", "0", "0", "100.0%"],
    ]
    assert inspect.main([str(file), "--latency"]) == 1
    assert "a file of weights" in " ".join(capsys.readouterr().out.split())
    file.write_bytes(file.read_bytes()[:-100])
    assert inspect.main([str(file)]) == 1
    assert "truncated" in " ".join(capsys.readouterr().out.split())
