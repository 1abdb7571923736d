"""What goes wrong while a cache is recorded or afterwards: it goes on where it was, or says what is wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import dense_net

from distill import cache
from distill.cache._shards import present
from tests.sources import ROOT

X = np.random.default_rng(0).normal(size=(48, 6)).astype("float32")
KERNEL = np.random.default_rng(3).normal(size=(6, 5)).astype("float32")
QUIET = {"verbose": 0, "batch_size": 8, "shard_size": 10}
TARGETS = cache.Sampled(3, from_logits=True)


class Teacher:
    """A function that counts its calls, and ends as it is told."""

    def __init__(self, ends_at=None, how=None):
        self.calls, self._ends_at, self._how = 0, ends_at, how

    def __call__(self, x):
        self.calls += 1
        if self.calls == self._ends_at:
            self._how()
        return x @ KERNEL


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ConnectionError("the server is gone")


def record(folder, teacher=None, **given):
    return cache.record(teacher or Teacher(), X, folder, **{**QUIET, "targets": TARGETS, **given})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_recording_that_failed_goes_on_and_ends_the_same(tmp_path):
    record(tmp_path / "whole")
    with pytest.raises(ConnectionError):
        record(tmp_path / "cache", Teacher(5, fail))
    assert sorted(present(tmp_path / "cache")) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"without 2 of them: \[3, 4\]. Call cache.record again"):
        cache.open(tmp_path / "cache")
    teacher = Teacher()
    record(tmp_path / "cache", teacher)
    assert teacher.calls == 4  # the first batch, to compare, and those of the last 18 examples
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")
    again = Teacher()
    record(tmp_path / "cache", again)
    assert again.calls == 1


KILLED = """
import sys
sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
from test_cache_faults import Teacher, kill, record
record({folder!r}, Teacher({at}, kill))
"""


@pytest.mark.parametrize("at", [5])
def test_a_kill_loses_at_most_the_shard_in_work(tmp_path, at):
    record(tmp_path / "whole")
    here = Path(__file__).parent
    code = KILLED.format(
        root=str(ROOT), tests=str(here.parent), here=str(here), folder=str(tmp_path / "cache"), at=at
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(present(tmp_path / "cache")) == [0, 1, 2]
    record(tmp_path / "cache")
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def test_two_processes_record_shards_of_one_cache(tmp_path):
    record(tmp_path / "whole")
    teachers = [Teacher(), Teacher()]
    record(tmp_path / "cache", teachers[0], shards=[1, 3])
    with pytest.raises(ValueError, match="without shard 0, examples 0 to 9"):
        cache.record(Teacher(), X, tmp_path / "cache", shards=[1, 3], targets=TARGETS, **QUIET).look_up([5])
    record(tmp_path / "cache", teachers[1], shards=[0, 2, 4])
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")
    assert [teacher.calls for teacher in teachers] == [5, 5]


def shard(folder, number):
    return present(folder)[number]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "a bit flip": (flip, "is damaged or cut short. Delete the file and call cache.record again"),
    "a truncation": (
        lambda path: os.truncate(path, 200),
        "200 bytes with checksum .* is damaged or cut short",
    ),
    "a file of nothing": (
        lambda path: os.truncate(path, 0),
        "0 bytes with checksum .* is damaged or cut short",
    ),
    "a missing shard": (Path.unlink, "without shard 2, examples 20 to 29.*Call cache.record again"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_mended(name, tmp_path):
    damage, message = DAMAGE[name]
    answers = record(tmp_path / "cache")
    before = contents(tmp_path / "cache")
    path = shard(tmp_path / "cache", 2)
    damage(path)
    np.testing.assert_array_equal(answers.look_up([19, 30])["output.ids"].shape, (2, 3))  # other shards serve
    with pytest.raises(ValueError, match=message):
        answers.look_up([3, 25])
    found = cache.inspect(tmp_path / "cache")
    if name == "a missing shard":
        assert (found.missing, found.damaged) == ((2,), {})
        assert "missing: 2" in str(found)
    else:
        assert list(found.damaged) == [2]
        assert path.name in str(found)
        path.unlink()
    record(tmp_path / "cache")
    assert contents(tmp_path / "cache") == before


def test_another_shard_in_the_place_of_one_is_damage(tmp_path):
    record(tmp_path / "cache", targets=cache.Dense())
    record(tmp_path / "other", targets=cache.Dense(), shard_size=48)
    shard(tmp_path / "cache", 1).unlink()
    source = shard(tmp_path / "other", 0)
    (tmp_path / "cache" / source.name.replace("00000", "00001")).write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match="A shard must hold what the cache's description says.*shape .48,"):
        cache.open(tmp_path / "cache").look_up([12])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"format": 2}', "another version of distill wrote it"),
        ("[]", "cannot be read"),
    ],
)
def test_a_damaged_description_is_an_error(content, message, tmp_path):
    record(tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        cache.open(tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="A cache is a folder with a cache.json"):
        cache.open(tmp_path)


MISMATCHES = {
    "targets": ({"targets": cache.Sampled(4, from_logits=True)}, "the targets: recorded .*k=3.* now .*k=4"),
    "shards": ({"shard_size": 12}, "shard_size: recorded 10, now 12"),
    "answers": ({"teacher": lambda x: x @ KERNEL[:, :4]}, "the answers: recorded"),
    "what a function answers": (
        {"teacher": lambda x: x @ KERNEL + x[:, :1] * np.eye(5)[0]},
        "differs from what",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_mismatch_is_named(name, tmp_path):
    given, message = MISMATCHES[name]
    record(tmp_path / "cache")
    with pytest.raises(ValueError, match=message):
        record(tmp_path / "cache", **given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:40], "the number of examples: recorded 48, now 40"),
        (lambda x: np.concatenate([x[:1] + 1, x[1:]]), "the inputs of example 0 are others"),
        (lambda x: np.concatenate([x[:16], x[16:] + 1]), "the inputs of example 16 are others"),
    ],
)
def test_other_data_are_named(change, message, tmp_path):
    with pytest.raises(ConnectionError):
        record(tmp_path / "cache", Teacher(6, fail))
    with pytest.raises(ValueError, match=message):
        cache.record(Teacher(), change(X), tmp_path / "cache", targets=TARGETS, **QUIET)


def test_other_weights_are_named(tmp_path):
    teacher = dense_net(4)
    cache.record(teacher, X, tmp_path / "cache", **QUIET)
    weights = teacher.get_weights()
    teacher.set_weights([*weights[:-1], weights[-1] + 1e-7])
    with pytest.raises(ValueError, match="the weights of the teacher: recorded"):
        cache.record(teacher, X, tmp_path / "cache", **QUIET)
    teacher.set_weights(weights)
    cache.record(teacher, X, tmp_path / "cache", **QUIET)
