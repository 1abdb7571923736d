"""The study of caches: what is read of files, what students are told, and a smoke run."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from distill import cache, data, studies
from experiments import _filetypes, cached

pytestmark = pytest.mark.slow

ARMS = cached.study.design.arms
RNG = np.random.default_rng(0)
IMAGES = RNG.random((130, 8, 8, 1)).astype("float32"), np.arange(130) % 10


def reference(logits, taught, temperature):
    """T² KL(p ‖ q), p over the classes that are told alone, in float64."""
    row = [value / temperature for value in logits]
    total = math.log(sum(math.exp(value) for value in row))
    told = {number: value / temperature for number, value in taught.items()}
    whole = math.log(sum(math.exp(value) for value in told.values()))
    return temperature**2 * sum(
        math.exp(value - whole) * (value - whole - (row[number] - total)) for number, value in told.items()
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_renormalised_classes_are_all_that_there_are(temperature):
    logits = RNG.normal(size=(3, 6)).astype("float32")
    taught = [{4: 3.0, 0: 1.5}, {1: 0.0, 2: -2.0}, {5: 9.0, 3: 9.0}]
    told = np.array([[*row, *row.values()] for row in taught], "float32")
    found = cached.renormalised_loss(2, temperature)(told, keras.ops.convert_to_tensor(logits))
    expected = [
        reference(row.astype("float64"), one, temperature) for row, one in zip(logits, taught, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def run(tmp_path):
    """A run with a teacher that is not trained."""
    keras.utils.set_random_seed(1)
    network = cached.plain_cnn(cached.TEACHER, input_shape=(8, 8, 1), classes=10)
    network.save(tmp_path / "teacher.keras")
    return studies.Run(
        seed=3,
        train=IMAGES,
        dev=IMAGES,
        callbacks=[],
        directory=tmp_path,
        smoke=True,
        _files={"teacher": tmp_path / "teacher.keras"},
    )


def test_a_cache_of_all_numbers_teaches_as_the_live_teacher_bit_for_bit(run):
    weights = []
    for arm in (cached.live, cached.dense):
        keras.utils.set_random_seed(3)
        start = cached.student(run).get_weights()
        keras.utils.set_random_seed(3)
        weights.append(arm(run).get_weights())
    assert all(map(np.array_equal, *weights))
    assert not np.array_equal(start[0], weights[0][0])


def test_all_that_are_taught_see_the_same_and_start_alike(run, monkeypatch):
    seen = {}

    def train(model, given, run, costs, **how):
        x = [batch[0] for batch in given.as_numpy_iterator()]
        seen[name] = [one.inputs if hasattr(one, "inputs") else one for one in x], model, costs._size

    monkeypatch.setattr(cached, "train", train)
    run = dataclasses.replace(run, smoke=False)
    weights = {}
    for name, arm in ARMS.items():
        if name != "teacher" and not name.endswith("-cold"):
            keras.utils.set_random_seed(3)
            weights[name] = arm.function(run, **arm.settings).get_weights()
            for path in (run.directory / "answers").glob("*"):
                path.unlink()
    for name, (x, _, _) in seen.items():
        assert all(map(np.array_equal, weights[name], weights["alone"]))
        if name != "alone":
            assert len(x) == 3 * cached.DIGITS.views
            assert all(map(np.array_equal, x, seen["live"][0]))
    assert np.abs(seen["live"][0][0] - seen["live"][0][3]).max() > 0.01  # two views
    sizes = {name: size for name, (*_, size) in seen.items()}
    assert sizes["top"] == sizes["renormalised"] == pytest.approx(sizes["sampled"], abs=256)  # headers differ
    assert sizes["live"] == 0 < sizes["top"] < sizes["dense-float16"] < sizes["dense"]


@pytest.mark.parametrize("task", [cached.DIGITS, cached.FILETYPES])
def test_draws_take_the_bytes_of_the_largest(task):
    shape = (214,)
    assert cache.TopK(task.kept).bytes_of(shape) == cache.Sampled(task.drawn).bytes_of(shape)


# Files.


def test_the_ends_of_a_file():
    long = b" \n" + bytes(range(33, 123)) * 60 + b"\t "
    x = _filetypes.ends(long)
    assert x.dtype == "int32"
    np.testing.assert_array_equal(x[:1024], np.frombuffer(long[2:1026], "uint8"))
    np.testing.assert_array_equal(x[1024:], np.frombuffer(long[-1026:-2], "uint8"))
    short = _filetypes.ends(b"  #!/bin/sh\n")
    assert short[:9].tolist() == short[-9:].tolist() == list(b"#!/bin/sh")
    assert set(short[9:-9]) == {256}
    assert _filetypes.ends(b"  1234567 \n") is None


class Named:
    """In the place of Magika's network: files that begin with a digit are of that type."""

    def __init__(self, path):
        assert path == "magika.onnx"

    def predict(self, x):
        return np.eye(214, dtype="float32")[x[:, 0] - 48]


def test_files_of_a_directory_are_in_one_split(tmp_path, monkeypatch):
    monkeypatch.setattr(_filetypes, "magika", lambda: "magika.onnx")
    monkeypatch.setattr(_filetypes.exports, "Exported", Named)
    for folder in range(40):
        (tmp_path / f"{folder}").mkdir()
        for number in range(3):
            (tmp_path / f"{folder}" / f"{number}.{folder % 20}").write_text(
                f"{number} in the folder {folder}"
            )
    (tmp_path / "0" / "same.txt").write_text("1 in the folder 0")
    (tmp_path / "0" / "link.sh").symlink_to(tmp_path / "1" / "1.1")
    monkeypatch.setattr(_filetypes, "ALIKE", 4)
    splits = cached.examples(0, "filetypes", str(tmp_path))
    folders = []
    for x, y in splits:
        texts = [bytes(row[:1024][row[:1024] < 256].astype("uint8")).decode() for row in x]
        assert y.tolist() == [int(text[0]) for text in texts]
        folders.append({text.rpartition(" ")[2] for text in texts})
    assert len(set.union(*folders)) == sum(map(len, folders))
    assert sum(len(x) for x, _ in splits) in (
        80,
        81,
    )  # four of six files of a suffix; two files hold the same
    assert len(splits[0][0]) > len(splits[1][0])
    with pytest.raises(ValueError, match="files in a few directories"):
        _filetypes.files(str(tmp_path / "0"))


def test_magika_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setattr(_filetypes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install magika==1.0.3 onnxruntime"):
        _filetypes.magika()


@pytest.mark.slow
def test_a_smoke_run(here, tmp_path):
    found = cached.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        data={"task": "digits"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert found.arm("dense").values(studies.NLL) == found.arm("live").values(studies.NLL)
    grid, _ = cached.bytes_and_seconds(found)
    rows = {name: size for name, size, *_ in grid.rows}
    assert set(rows) == {arm.name for arm in found.arms} - {"teacher"}
    examples = len(data.arrays(data.load("digits").train)[0])
    assert int(rows["top"].replace(",", "")) - examples * (4 + 2 * 6 + 4) in range(1, 4096)
