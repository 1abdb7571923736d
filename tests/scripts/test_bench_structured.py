"""scripts/bench/structured compares what it claims: gains of one runtime each, per multiply-add if asked for."""

import contextlib
import importlib.util
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import BACKEND
from keras import layers

from distill import cost

if BACKEND != "tensorflow":
    pytest.skip("LiteRT and tf.function run models of TensorFlow", allow_module_level=True)

SPEC = importlib.util.spec_from_file_location(
    "bench_structured", Path(__file__).parents[2] / "scripts" / "bench" / "structured.py"
)
bench = importlib.util.module_from_spec(SPEC)
sys.modules["bench_structured"] = bench  # for its dataclasses
SPEC.loader.exec_module(bench)


class Twins:
    """Answers for a twin that is pruned in 2 s and is 2 times as fast with 4 times fewer MACs."""

    def ask(self, do, name):
        return {"prune": {"seconds": 2.0}, "run": {"seconds": [4.0, 2.0], "macs": [400, 100]}}[do]


def tiny(weights):
    assert weights is None
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(32, 3, name="first"),
            layers.Conv2D(48, 3, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ],
        name="tiny",
    )


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(bench, "TWINS", {"Tiny": "tiny"})
    monkeypatch.setattr(bench, "applications", types.SimpleNamespace(Tiny=tiny))


def line(part):
    (found,) = bench.lines(bench.Bench(names=("Tiny",), only=part, rounds=3), Twins())
    assert (found.name, found.part, found.ratios.shape) == ("Tiny", part, (3,))
    return found


def timed_as_its_macs(monkeypatch):
    """Pretends that a network takes one ms for every thousand multiply-adds."""

    def prepare(runtime, model):
        return lambda: cost.macs(model)

    def in_turns(calls, runs):
        return {name: cost.Latency(call() / 1e3, 0, 0, runs) for name, call in calls.items()}

    monkeypatch.setattr(cost.LiteRT, "prepare", prepare)
    monkeypatch.setattr(cost.TFFunction, "prepare", prepare)
    monkeypatch.setattr(cost, "in_turns", in_turns)
    monkeypatch.setattr(
        "distill.pruning.structured._costs.latency",
        lambda model, lengths=None: cost.Latency(cost.macs(model) / 1e3, 0, 0, 1),
    )


def test_cutting_and_building_are_divided_as_they_say(monkeypatch):
    monkeypatch.setattr(bench, "timed", lambda function: (function(), 0.5))
    cut, build = line("cut"), line("build")
    assert (cut.over, cut.ratios.tolist(), cut.note) == ("Torch-Pruning / distill", [4.0] * 3, "2 s / 0.5 s")
    assert (build.over, build.ratios.tolist(), build.note) == (
        "distill / clone_model",
        [1.0] * 3,
        "0.5 s / 0.5 s",
    )


@pytest.mark.parametrize("part", ["run", "function"])
def test_gains_are_each_runtimes_own(monkeypatch, part):
    timed_as_its_macs(monkeypatch)
    found = line(part)
    whole = tiny(None)
    small = bench.rebuild(*bench.chosen(whole))
    assert [layer.filters for layer in small.layers[:2]] == [16, 24]
    gain = cost.macs(whole) / cost.macs(small)
    np.testing.assert_allclose(found.ratios, gain / 2)
    assert f"{gain:.2f} times as fast" in found.note
    assert f"by {gain:.2f} times fewer MACs; torch 2.00 times as fast (4e+03 to 2e+03 ms)" in found.note
    assert found.note.endswith("by 4.00 times fewer MACs")


@pytest.mark.parametrize("part", ["run", "function"])
def test_gains_are_measured(part):
    assert np.isfinite(line(part).ratios).all()


def test_with_latency_in_view_a_gain_is_per_multiply_add(monkeypatch):
    timed_as_its_macs(monkeypatch)
    found = line("latency")
    np.testing.assert_allclose(found.ratios, 1 / (2 / 4))  # as many times as fast as it has fewer MACs
    gain = float(found.note.split()[0])
    assert 2.05 <= gain <= 2.15  # 5 % more than the twin's, within 2 %
    assert not found.missed


def test_a_latency_that_is_not_met_is_a_missed_goal(monkeypatch):
    timed_as_its_macs(monkeypatch)
    monkeypatch.setattr(bench, "FASTER", 1e9)
    (found,) = bench.lines(bench.Bench(names=("Tiny",), only="latency", rounds=3), Twins())
    assert found.missed
    assert "can be reached" in found.note


@pytest.mark.parametrize(
    ("part", "ratios", "missed"),
    [
        ("run", [1.1, 0.8, 0.9], False),
        ("run", [0.9, 0.8, 0.7], True),
        ("build", [1.1, 1.2], True),
        ("build", [0.9, 1.2], False),
        ("function", [0.5, 0.6], False),
    ],
)
def test_a_goal_is_missed_only_surely(monkeypatch, capsys, part, ratios, missed):
    one = bench.Line(
        "Tiny", part, "a / b", np.array(ratios), None if part == "function" else 1.0, "0.5 s / 1 s"
    )
    assert one.missed == missed
    monkeypatch.setattr(bench, "Twins", contextlib.nullcontext)
    monkeypatch.setattr(bench, "lines", lambda options, twins: [one])
    assert bench.main(bench.Bench(names=("Tiny",))) == missed
    assert "0.5 s / 1 s" in capsys.readouterr().out
