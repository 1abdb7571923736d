"""scripts/bench/distiller times what it says, and judges goals by medians and quartiles."""

import dataclasses
import functools
import importlib
import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import BACKEND
from keras import layers

if BACKEND != "tensorflow":
    pytest.skip("the recipe and the bare pass are TensorFlow's", allow_module_level=True)

BENCH = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture(scope="module")
def modules():
    """The modules of the command, which import each other by name."""
    sys.path.insert(0, str(BENCH))
    try:
        yield {
            name: importlib.import_module(name)
            for name in ("distiller", "distiller_parts", "distiller_pairs", "distiller_ways")
        }
    finally:
        sys.path.remove(str(BENCH))


def tiny(modules, **changes):
    def net(width):
        stack = [layers.Dense(width, "relu"), layers.Dense(4, name="features"), layers.Dense(3)]
        return keras.Sequential([keras.Input((6,)), *stack])

    pairs = modules["distiller_pairs"]
    pair = pairs.Pair(
        functools.partial(net, 8),
        functools.partial(net, 4),
        lambda count: pairs.noise(count, (6,)),
        *(3, 4, 2, ("features", "features")),
    )
    return dataclasses.replace(pair, **changes)


@pytest.mark.slow
def test_an_epoch_is_timed_in_every_way(modules, monkeypatch, tmp_path):
    bench, pair = modules["distiller"], tiny(modules)
    monkeypatch.setattr(modules["distiller_pairs"], "PAIRS", {"ResNet": pair})
    lines = list(modules["distiller_parts"].epochs(bench.Bench(rounds=2)))
    assert [line.over for line in lines] == [
        "live / (teacher + student)",
        "keras.distillation / live",
        "recipe / live",
        "keras.distillation / live, faster teacher",
        "logits and features: keras.distillation / live",
        "cached dense / student",
        "cached top-k / student",
        "live / cached dense",
        "evaluate / student's",
    ]
    assert all(line.ratios.shape == (2,) and (line.ratios > 0).all() for line in lines)
    assert [line.goal for line in lines] == [
        *("<= 1.05", ">= 1.0", ">= 1.0", "", ">= 1.4", "<= 1.05", "<= 1.05", ">= 1.6", "<= 1.05")
    ]
    bench.draw(lines, tmp_path / "ratios.svg")
    assert (tmp_path / "ratios.svg").stat().st_size > 1000


def test_what_is_divided_is_what_the_line_says(modules, monkeypatch):
    parts, pair = modules["distiller_parts"], tiny(modules, convolutional=True)
    times = {
        "live": 6.0,
        "student": 4.0,
        "teacher": 1.0,
        "keras.distillation": 9.0,
        "recipe": 3.0,
        "features": 2.0,
        "live, faster teacher": 3.0,
        "features, keras.distillation": 8.0,
        "cached dense": 5.0,
        "cached top-k": 2.0,
        "evaluate": 7.0,
        "evaluate student": 14.0,
    }
    forms = modules["distiller_ways"].training
    row = forms.TeacherForm("as it is", 1.0, 0.0)
    faster = forms.FasterTeacher(None, (row,), row, 0.05, {})
    lines = parts.compared("any", pair, {way: np.full(3, value) for way, value in times.items()}, faster)
    assert {line.over: line.quartiles[1] for line in lines} == {
        "live / (teacher + student)": 1.2,
        "keras.distillation / live": 1.5,
        "recipe / live": 0.5,
        "keras.distillation / live, faster teacher": 3.0,
        "logits and features: keras.distillation / live": 4.0,
        "cached dense / student": 1.25,
        "cached top-k / student": 0.5,
        "live / cached dense": 1.2,
        "evaluate / student's": 0.5,
    }


@pytest.mark.parametrize(
    ("ratios", "goal", "verdict"),
    [
        ([0.9, 1.0, 1.2], "<= 1.05", "met"),
        ([1.0, 1.1, 1.2, 0.9, 1.15], "<= 1.05", "not shown"),
        ([1.08, 1.1, 1.2], "<= 1.05", "missed"),
        ([0.9, 1.0, 1.2], ">= 1.0", "met"),
        ([0.7, 0.9, 1.2], ">= 1.0", "not shown"),
        ([0.7, 0.8, 0.9], ">= 1.0", "missed"),
        ([0.7, 0.8, 0.9], "", ""),
    ],
)
def test_a_goal_is_missed_only_surely(modules, monkeypatch, capsys, ratios, goal, verdict):
    bench = modules["distiller"]
    line = modules["distiller_parts"].Line("a", "b / c", np.array(ratios), goal)
    assert line.verdict == verdict
    monkeypatch.setitem(bench.PARTS, "epochs", lambda options: [line])
    assert bench.main(bench.Bench(only=("epochs",))) == (verdict == "missed")
    assert f"{np.median(ratios):.3g}" in capsys.readouterr().out


def test_functions_take_turns(modules):
    bench, ran = modules["distiller"], []
    functions = {name: lambda clock, name=name: ran.append(name) or float(clock == "cpu") for name in "abc"}
    times = modules["distiller_parts"].in_turns(functions, bench.Bench(rounds=4, clock="cpu"))
    assert {name: values.tolist() for name, values in times.items()} == dict.fromkeys("abc", [1.0] * 4)
    assert all(sorted(ran[i : i + 3]) == ["a", "b", "c"] for i in range(0, 15, 3))


@pytest.mark.slow
def test_repaired_and_recipe_compute_our_loss(modules):
    ways, pair = modules["distiller_ways"], tiny(modules)
    teacher, start = pair.teacher(), pair.student().get_weights()
    losses = []
    for make in (ways.soft, ways.repaired, ways.Recipe):
        student = pair.student()
        student.set_weights(start)
        x, y = pair.data
        model = ways.compiled(make(teacher, student))
        losses.append(model.fit(x, y, batch_size=8, verbose=0, shuffle=False).history)
    total = [one["total_loss"][0] if "total_loss" in one else one["loss"][0] for one in losses]
    np.testing.assert_allclose(total, total[0], rtol=1e-5)


def test_recording_and_its_bytes(modules, monkeypatch):
    parts = modules["distiller_parts"]
    monkeypatch.setattr(modules["distiller_pairs"], "PAIRS", {"MLP": tiny(modules)})
    monkeypatch.setattr(parts, "share_of_bytes", functools.partial(parts.share_of_bytes, 40_000, 32))
    recording, kept = parts.recording(modules["distiller"].Bench(rounds=1))
    assert recording.ratios > 0
    assert 64 * (2 + 4) / (4 * 40_000) < kept.ratios[0] < 2 * 64 * (2 + 4) / (4 * 40_000)


def test_kernels_are_chosen_for_a_process(modules):
    before = dict(os.environ)
    with modules["distiller_parts"].process(TF_ENABLE_ONEDNN_OPTS="0", SOMETHING="new") as pool:
        assert pool.map(os.getenv, ["TF_ENABLE_ONEDNN_OPTS", "SOMETHING"]) == ["0", "new"]
    assert dict(os.environ) == before


def test_dense_networks_differ_in_one_number(modules, monkeypatch):
    parts, asked = modules["distiller_parts"], []

    def ways(pair, folder, only):
        asked.append((pair.teacher().layers[0].units, pair.batch, pair.student().output_shape[1]))
        return {way: lambda clock: 1.0 for way in only}, None

    monkeypatch.setattr(modules["distiller_ways"], "ways", ways)
    lines = list(parts.scaling(modules["distiller"].Bench(quick=True, rounds=1)))
    assert [line.subject for line in lines] == [
        *(
            "teacher's width 256",
            "teacher's width 1024",
            "batch 16",
            "batch 128",
            "classes 10",
            "classes 1000",
        )
    ]
    assert asked == [
        *(
            (256, 128, 10),
            (1024, 128, 10),
            (1024, 16, 10),
            (1024, 128, 10),
            (1024, 128, 10),
            (1024, 128, 1000),
        )
    ]
    assert all("cached top-k 250" in line.note and line.ratios.tolist() == [0.5] for line in lines)
