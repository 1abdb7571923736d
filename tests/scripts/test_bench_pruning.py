"""scripts/bench/pruning times what it says: masks that agree, models with masks and without."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from backend import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("tfmot is TensorFlow", allow_module_level=True)

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("pruning", ROOT / "scripts" / "bench" / "pruning.py")
bench = importlib.util.module_from_spec(SPEC)
sys.modules["pruning"] = bench  # for its dataclasses
SPEC.loader.exec_module(bench)

LINE = bench.Line("updates", "an update", "tfmot / distill", (20.0, 1.0), 20.0, 9.0, 30.0)


@pytest.mark.parametrize(
    ("name", "kept"), [("80 %", 205 / 1024), ("2:4", 0.5), ("80 %, blocks 4 × 4", 13 / 64)]
)
def test_both_updates_choose_the_same_weights(name, kept):
    both = bench.update(name, 32)
    for _ in range(2):  # also when prepared anew
        bench.require_same_masks(name, both)
        ours, theirs = both.masks()
        assert ours.mean() == theirs.mean() == kept
        np.testing.assert_array_equal(ours, theirs)
    both.prepare()
    assert all(mask.all() for mask in both.masks())


def test_updates_that_disagree_are_not_timed():
    both = bench.update("2:4", 8)
    wrong = bench.Update(both.ours, lambda: None, both.prepare, both.masks)
    with pytest.raises(
        ValueError, match=r"Only updates that agree are timed. Received: 2:4, 0.5 of whose masks"
    ):
        bench.require_same_masks("2:4", wrong)
    idle = bench.Update(lambda: None, lambda: None, both.prepare, both.masks)
    with pytest.raises(ValueError, match="which cut nothing"):
        bench.require_same_masks("2:4", idle)


def test_the_lines_of_updates():
    found = list(bench.updates(16, 2))
    assert [one.name for one in found] == [f"mask update, 16 × 16, {name}" for name in bench.PATTERNS]
    for one in found:
        assert (one.part, one.over) == ("updates", "tfmot / distill")
        assert 0 < one.low <= one.ratio <= one.high
        assert one.goal == (1 if one.name.endswith(("2:4", "4 × 4")) else 10)
        assert one.missed == (one.high < one.goal)


@pytest.mark.slow
def test_the_lines_of_steps(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts" / "bench")  # for tfmot's process
    before = dict(os.environ)
    found = list(bench.steps(True, 2))
    assert dict(os.environ) == before
    assert [(one.name.split(", ")[1:], one.over) for one in found] == [
        (["dense", "Keras 3"], "masks / none"),
        (["dense", "Keras 3", "XLA"], "masks / none"),
        (["convolutional", "Keras 3"], "masks / none"),
        (["convolutional", "Keras 3", "XLA"], "masks / none"),
        (["dense", "tfmot on tf_keras"], "wrapped / plain"),
        (["convolutional", "tfmot on tf_keras"], "wrapped / plain"),
    ]
    for one in found:
        assert min(one.milliseconds) > 0
        assert one.missed == (one.over == "masks / none" and one.low > 1.03)


def test_inference_in_turn():
    (found,) = bench.inference(True, 1)
    assert (found.part, found.over, found.missed) == ("inference", "90 % zeros / dense", False)
    assert min(found.milliseconds) > 0


def test_two_things_are_timed_in_turn_each_prepared():
    called = []
    measured = bench.in_turn(
        (lambda: called.append(0), lambda: called.append(1)), 3, lambda: called.append("-")
    )
    assert measured.shape == (3, 2)
    assert called[::2] == ["-"] * 6
    assert [sorted(called[i : i + 4 : 2]) for i in (1, 5, 9)] == [[0, 1]] * 3


def test_a_line_is_the_first_over_the_second():
    found = bench.line("steps", "a step", "a / b", np.array([[2.0, 1.0], [6.0, 2.0], [4.0, 4.0]]))
    assert (found.milliseconds, found.ratio) == ((4.0, 2.0), 2.0)
    assert 1.0 <= found.low <= 2.0 <= found.high <= 3.0


@pytest.mark.parametrize(
    ("missed", "quick", "status"), [(False, False, 0), (True, False, 1), (True, True, 0)]
)
def test_the_exit_status_tells_of_a_missed_goal(monkeypatch, capsys, missed, quick, status):
    one = bench.dataclasses.replace(LINE, missed=missed)
    monkeypatch.setattr(bench, "lines", lambda options: [one])
    assert bench.main(bench.Bench(quick=quick)) == status
    told = capsys.readouterr().out
    assert "20.000" in told
    assert "9.000 to 30.000" in told
    assert ("too small" in told) == quick


def test_no_rounds_are_refused():
    with pytest.raises(SystemExit, match="No round to time"):
        list(bench.lines(bench.Bench(rounds=0)))
