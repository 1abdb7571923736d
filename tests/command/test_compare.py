"""What `distill compare` makes of files, and of what is no such file."""

import keras
import numpy as np
import pytest
from keras import layers

from distill import command, studies
from distill.command._compare import examples, named_models

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")


def save(path, slope, other, name="x"):
    inputs = keras.Input((2,), name=name)
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    model.set_weights([np.array([[0, slope], [0, other]], "float32"), np.zeros(2, "float32")])
    model.save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("teacher.keras", 3, 0)
    save("student.keras", 1, 1)
    np.savez("test.npz", x=X, y=Y)
    return tmp_path


def test_models_are_compared_as_by_compare_models(folder, capsys):
    models = ["teacher.keras", "mine=student.keras"]
    assert command.main(["compare", *models, "--test", "test.npz", "--resamples", "100", "--seed", "3"]) == 0
    named = {"teacher.keras": "teacher.keras", "mine": "student.keras"}
    expected = studies.compare_models(named, (X, Y), resamples=100, seed=3)
    assert capsys.readouterr().out == f"{expected}\n"  # Markdown, where the output is no terminal


def test_metrics_are_chosen_by_name(folder, capsys):
    np.savez("test.npz", x=X, y=np.stack([np.zeros(60), X @ [3, 0]], axis=1).astype("float32"))
    assert command.main(["compare", "teacher.keras", "--test", "test.npz", "--metrics", "regression"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| teacher"))
    assert "1.00" in row  # R²
    with pytest.raises(SystemExit):
        command.main(["compare", "teacher.keras", "--test", "test.npz", "--metrics", "beauty"])
    assert "invalid choice: 'beauty'" in capsys.readouterr().err


def test_inputs_go_by_their_names(folder):
    np.savez("named.npz", left=X, right=X, y=Y)
    x, y = examples(folder / "named.npz")
    assert set(x) == {"left", "right"}
    assert np.array_equal(y, Y)
    np.savez("one.npz", left=X, y=Y)
    assert set(examples(folder / "one.npz")[0]) == {"left"}
    assert np.array_equal(examples(folder / "test.npz")[0], X)


def test_names_may_have_equals_signs_in_their_paths(folder):
    (folder / "lr=0.1").mkdir()
    save("lr=0.1/a.keras", 1, 1)
    found = named_models(["lr=0.1/a.keras", "slow=lr=0.1/a.keras", "student.keras"])
    assert {name: str(file) for name, file in found.items()} == {
        "lr=0.1/a.keras": "lr=0.1/a.keras",
        "slow": "lr=0.1/a.keras",
        "student.keras": "student.keras",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teacher.h5"], "Models are compared as .keras, .tflite, .onnx files. Received: teacher.h5"),
        (["other.keras"], "No such file: other.keras"),
        (["teacher.keras", "teacher.keras"], "Received: teacher.keras twice. Use NAME=FILE"),
        (["a=teacher.keras", "a=student.keras"], "Received: a twice"),
        (["teacher.keras", "--resamples", "7"], "resamples=7"),
        (["teacher.keras", "--test", "absent.npz"], "No such file: absent.npz"),
        (["teacher.keras", "--test", "teacher.keras"], "as numpy.savez"),
        (["teacher.keras", "--test", "text.npz"], "text.npz, which is not an .npz file"),
        (["teacher.keras", "--test", "x.npy"], "x.npy, which is not an .npz file"),
        (["teacher.keras", "--test", "objects.npz"], "objects.npz, which cannot be read: Object arrays"),
        (["teacher.keras", "--test", "unlabelled.npz"], "unlabelled.npz, which holds x."),
        (["teacher.keras", "--test", "uneven.npz"], "uneven.npz, which holds x (60, 2), y (59,)."),
    ],
)
def test_what_cannot_be_compared_is_an_error(folder, capsys, arguments, message):
    (folder / "text.npz").write_text("x,y")
    np.save("x.npy", X)
    np.savez("objects.npz", x=np.array([None] * 60), y=Y)
    np.savez("unlabelled.npz", x=X)
    np.savez("uneven.npz", x=X, y=Y[:-1])
    given = arguments if "--test" in arguments else [*arguments, "--test", "test.npz"]
    assert command.main(["compare", *given]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_help_says_what_there_is(capsys):
    for arguments, words in (
        ([], ("inspect", "compare", "--version")),
        (["compare"], ("NAME=", "numpy.savez", "--metrics")),
        (["inspect"], ("--latency", "--plot")),
    ):
        with pytest.raises(SystemExit) as ended:
            command.main([*arguments, "--help"])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out


def test_a_damaged_file_and_examples_that_no_model_takes_are_errors(tmp_path, capsys):
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(4, 2), keras.layers.Flatten()]
    )
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "t.npz", x=np.full((8, 3), 9), y=np.zeros(8, int))
    given = ["compare", str(tmp_path / "m.keras"), "--test"]
    assert command.main([*given, str(tmp_path / "t.npz")]) == 1
    assert "must be able to take the examples" in capsys.readouterr().err
    raw = bytearray((tmp_path / "t.npz").read_bytes())
    raw[200] ^= 255
    (tmp_path / "damaged.npz").write_bytes(raw)
    assert command.main([*given, str(tmp_path / "damaged.npz")]) == 1
    assert "cannot be read" in " ".join(capsys.readouterr().err.split())
