"""A study of one's own: what its arms are given, and what becomes of what they return."""

import functools
import os
import random
import re
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import distill
from distill import studies
from distill.studies import _cell_work as cell_work
from distill.studies import _cells as cells
from distill.studies import _execution as execution
from distill.studies import _pools as pools
from distill.studies import _shipping as shipping
from tests.studies.made_up import terminal
from tests.studies.tiny import TAUGHT, classifier, rate, run, splits, study_of, taught, teacher, trained


def test_a_study_in_processes_scores_what_its_arms_return(tmp_path):
    study = study_of(*TAUGHT, (trained, {"group": "others"}))
    study.compare("taught", "trained")
    study.compare("trained", "teacher", primary=False)
    found = run(study, tmp_path, jobs=1)
    assert [arm.name for arm in found.arms] == ["teacher", "taught", "trained"]
    assert [arm.group for arm in found.arms] == ["arms", "arms", "others"]
    assert found.arm("teacher").description == "Knows the answer."
    assert found.arm("taught").label == "taught, slope = 1.0, sure = True"
    assert (found.comparisons, found.primary) == (
        (("trained", "taught"), ("teacher", "trained")),
        (("trained", "taught"),),
    )
    x, y = splits(0)[2]
    for seed, cell in enumerate(found.arm("taught").cells):
        logits = x @ np.array([[0, 1 + 0.1 * seed], [0, 0.5]])
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        assert cell.test["accuracy"] == rate(logits, y)
        assert cell.test["nll"] == pytest.approx(-np.mean(log_p[np.arange(60), y]), rel=1e-5)
        assert cell.test["agreement"] == rate(logits, (x @ np.array([[0, 9], [0, 0.5]])).argmax(1))
        assert (cell.cost["parameters"], cell.cost["macs"]) == (6, 4)
    assert found.arm("teacher").values(studies.AGREEMENT) is None
    assert [len(cell.history) for cell in found.arm("trained").cells] == [2, 2]
    assert set(found.latency_ms) == set(found.litert_bytes) == {"teacher", "taught", "trained"}
    assert any("not tuned" in note for note in found.notes)
    page = (tmp_path / "tiny" / "report.html").read_text()
    for text in ("Which one?", "exploratory:", "Accuracy against cost"):
        assert text in page
    # What is finished is not done again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/cells/*/result.json")}
    assert len(before) == 6
    again = run(study, tmp_path, jobs=1)
    assert again.arms == found.arms
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/cells/*/result.json")} == before


def drawing(run):
    inputs = keras.Input((2,))
    return keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(inputs)))


def drawing_after_its_teacher(run):
    run.model("teacher_that_draws"), run.model("teacher_that_draws")
    return drawing(run)


def teacher_that_draws(run):
    return drawing(run)


def test_networks_start_alike_with_a_teacher_and_without(here, bare, tmp_path):
    asked = []

    def drawn(seed):
        for _ in asked:  # data may draw as much as it likes, and more each time, as a cache draws less
            random.random(), np.random.rand(), keras.random.uniform(())
        asked.append(seed)
        return splits(seed)

    study = study_of(
        (teacher_that_draws, {}),
        (drawing, {}),
        (drawing_after_its_teacher, {"needs": ["teacher_that_draws"]}),
        data=drawn,
    )
    run(study, tmp_path)
    kernels = {
        path.parent.name.rpartition("-")[0]: keras.models.load_model(path).get_weights()[0]
        for path in tmp_path.glob("tiny/cells/*/model.keras")
    }
    assert len(kernels) == 6
    for seed in range(2):
        np.testing.assert_array_equal(
            kernels[f"drawing-seed{seed}"], kernels[f"drawing_after_its_teacher-seed{seed}"]
        )
    assert not np.array_equal(kernels["drawing-seed0"], kernels["drawing-seed1"])


def test_settings_are_chosen_on_dev_with_seeds_of_their_own(here, bare, tmp_path):
    """The dev split likes a slope of 5, whatever test says."""

    def turned(seed):
        train, (x, y), test = splits(seed)
        return train, (x, y), (test[0], 1 - test[1])

    study = study_of(*TAUGHT, data=turned)
    found = run(study, tmp_path, tune=True)
    (tuning,) = found.tuning
    assert (tuning.arm, tuning.chosen) == ("taught", {"slope": 5.0})
    x, y = turned(0)[1]
    for settings, score in tuning.choices:
        expected = [
            rate(x @ np.array([[0, settings["slope"] + step], [0, 0.5]]), y) for step in (0, 0.1, 0.2)
        ]
        assert score == pytest.approx(np.mean(expected))
    assert found.arm("taught").label == "taught, slope = 5.0, sure = True"
    assert "taught: slope = 5.0, chosen on dev from 4 settings" in terminal(found, 200)
    assert [cell.seed for cell in found.arm("taught").cells] == [0, 1]
    assert not any("not tuned" in note for note in found.notes)


def steep(run, slope=1.0):
    return classifier(slope)


def follower(run, sharpness=1.0):
    (kernel, _) = run.model("steep").get_weights()
    assert kernel[0, 1] == 5  # what was chosen, neither the default nor another setting
    return classifier(sharpness)


def test_students_choose_with_the_teacher_that_was_chosen(here, bare, tmp_path):
    study = study_of(
        (steep, {"tune": {"slope": (-3.0, 5.0)}}),
        (follower, {"needs": "steep", "tune": {"sharpness": (-1.0, 2.0)}}),
    )
    found = run(study, tmp_path, tune=True)
    assert {one.arm: dict(one.chosen) for one in found.tuning} == {
        "steep": {"slope": 5.0},
        "follower": {"sharpness": 2.0},
    }
    assert not any("ailed" in note for note in found.notes)
    # Two settings and three seeds of each arm, and two seeds: no teacher was trained for the trials alone.
    assert len(list(tmp_path.glob("tiny/cells/*"))) == 2 * (2 * 3 + 2)


def test_a_metric_that_is_better_when_lower_chooses_the_lowest(here, bare, tmp_path):
    study = study_of(*TAUGHT, metrics=[studies.NLL, studies.ACCURACY])
    (tuning,) = run(study, tmp_path, tune=True, seeds=1).tuning
    best = min(tuning.choices, key=lambda choice: choice[1])
    assert tuning.chosen == best[0]


def failing(run):
    if run.seed == 1:
        raise ZeroDivisionError("as told")
    return classifier(1.0)


def never(run):
    raise ZeroDivisionError("always")


def needing(run):
    return run.model("failing")


def test_an_arm_that_fails_is_shown_and_the_rest_goes_on(here, tmp_path, capsys):
    study = study_of((teacher, {}), (failing, {}), (needing, {"needs": "failing"}), (never, {}), seeds=3)
    study.compare("failing", "teacher")
    study.compare("never", "teacher")
    found = run(study, tmp_path)
    assert {arm.name: [cell.seed for cell in arm.cells] for arm in found.arms} == {
        "teacher": [0, 1, 2],
        "failing": [0, 2],
        "needing": [0, 2],
    }
    assert found.comparisons == (("teacher", "failing"),)
    assert "The arm never was never finished, and is left out." in found.notes
    assert studies.judge(found)[0].seeds == (0, 2)
    page = (tmp_path / "tiny" / "report.html").read_text()
    for text in (
        "Not every arm has all 3 seeds: failing lacks 1; needing lacks 1.",
        "The arm never was never",
    ):
        assert text in page
    shown = capsys.readouterr().out
    assert "ZeroDivisionError: as told" in shown
    assert "in failing" in shown
    assert "FileNotFoundError" not in shown  # what needs a failed cell is not tried
    with pytest.raises(studies.CellError, match="No arm finished a seed"):
        run(study_of((never, {}), name="none"), tmp_path)


def test_arms_on_request_and_those_that_they_need(here, bare, tmp_path):
    on_request = {"on_request": True}
    study = study_of((teacher, on_request), (trained, {}), (taught, {"needs": "teacher", **on_request}))
    study.compare("taught", "trained")
    study.compare("trained", "teacher", primary=False)

    def arms(**options):
        found = run(study, tmp_path, seeds=1, **options)
        return [arm.name for arm in found.arms], found.comparisons, found.primary

    assert arms() == (["trained"], (), ())
    assert arms(arms=["taught"]) == (["teacher", "taught"], (), ())
    pairs = (("trained", "taught"), ("teacher", "trained"))
    assert arms(arms="all") == (["teacher", "trained", "taught"], pairs, pairs[:1])
    with pytest.raises(ValueError, match=r"Received: 'tought'; there are teacher, trained, taught\."):
        arms(arms=["trained", "tought"])
    with pytest.raises(ValueError, match="Received: none; there are teacher"):
        arms(arms=[])
    with pytest.raises(ValueError, match="Received: none; there are teacher"):
        run(study_of((teacher, on_request), name="idle"), tmp_path)
    assert not (tmp_path / "idle").exists()


def test_the_commit_is_that_of_the_file_in_which_the_data_is_defined(here, bare, tmp_path, monkeypatch):
    concluded, real = {}, execution.conclude

    def conclude(*args, **kwargs):
        concluded.update(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(execution, "conclude", conclude)
    run(study_of((teacher, {}), seeds=1), tmp_path)
    assert concluded["code"] == Path(__file__).parent


def with_zeros(first, step):
    """A network with layers of many weights, of which every so many-th is not zero."""
    stack = [layers.Dense(units, "relu") for units in (first, 304, 304)]
    network = keras.Sequential([keras.Input((2,)), *stack, layers.Dense(2)])
    weights = network.get_weights()
    network.set_weights([np.where(np.arange(w.size).reshape(w.shape) % step, 0, w) for w in weights])
    return network


def mostly_zeros(run):
    return with_zeros(8, 10)


def whole(run):
    return with_zeros(8, 1)


def wrong_in_litert(run):
    return with_zeros(300, 10)


@pytest.mark.slow
def test_files_to_ship_lack_the_zeros_of_pruned_models(here, tmp_path):
    found = run(study_of((mostly_zeros, {}), (whole, {}), (wrong_in_litert, {}), seeds=1), tmp_path)
    assert found.litert_bytes["mostly_zeros"] < 0.3 * found.litert_bytes["whole"]
    notes = [note for note in found.notes if "LiteRT" in note]
    assert notes == ["The LiteRT file of wrong_in_litert holds its zeros: LiteRT cannot run it without them."]


def test_a_changed_arm_is_run_again(here, bare, tmp_path):
    def arm(run):
        return classifier(3.0)

    first = run(study_of((teacher, {}), (arm, {}), seeds=1), tmp_path)

    def arm(run):
        return classifier(-3.0)

    again = run(study_of((teacher, {}), (arm, {}), seeds=1), tmp_path)
    scores = [found.arm("arm").values(studies.ACCURACY)[0] for found in (first, again)]
    assert scores[0] > 90 > 10 > scores[1]
    assert len(list(tmp_path.glob("tiny/cells/*"))) == 3


def test_a_budget_ends_after_whole_seeds_and_says_so(here, bare, tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(execution.time, "monotonic", lambda: next(clock))
    found = run(study_of((teacher, {}), seeds=8), tmp_path, budget=5)
    seeds = [cell.seed for cell in found.arm("teacher").cells]
    assert 2 <= len(seeds) < 8
    assert seeds == list(range(len(seeds)))
    assert any(f"allowed {len(seeds)} of 8 seeds" in note for note in found.notes)


def exported(run):
    x = splits(run.seed)[0][0]
    classifier(1.0).save(run.directory / "model.keras")  # a file of its own that is not what it returns
    return distill.export(classifier(2.0), run.directory / "mine.tflite", precision="int8", examples=x)


def datasets(seed):
    return tuple(tf.data.Dataset.from_tensor_slices(split) for split in splits(seed))


def test_files_and_data_sets(here, tmp_path):
    found = run(study_of((teacher, {}), (exported, {"needs": "teacher"}), data=datasets, seeds=1), tmp_path)
    assert found.arm("exported").values(studies.ACCURACY)[0] > 80
    assert found.arm("exported").cells[0].cost["parameters"] is None
    assert found.litert_bytes["exported"] == found.arm("exported").cells[0].cost["file_bytes"]


@keras.saving.register_keras_serializable("tests")
class Mine(keras.Model):
    """A model without a graph, whose class Keras cannot make from a config of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(x)


def subclassed(run):
    network = Mine()
    network(np.ones((1, 2), "float32"))
    network.head.set_weights(classifier(2.0).get_weights())
    return network


def four_at_a_time(run):
    inputs = keras.Input((2,), batch_size=4)
    network = keras.Model(inputs, layers.Dense(2)(inputs))
    network.set_weights(classifier(2.0).get_weights())
    return network


def test_models_of_a_class_or_a_batch_size_of_their_own(here, tmp_path):
    def even(seed):
        return tuple((x[:40], y[:40]) for x, y in splits(seed))

    found = run(study_of((subclassed, {}), (four_at_a_time, {}), data=even, seeds=1), tmp_path)
    x, y = even(0)[2]
    for name in ("subclassed", "four_at_a_time"):
        assert found.arm(name).cells[0].test["accuracy"] == rate(x @ [[0, 2], [0, 0.5]], y)
        assert found.litert_bytes[name] > 0
        assert found.latency_ms[name]["median"] > 0


def test_what_cannot_be_shipped_is_said_and_costs_no_report(here, tmp_path, monkeypatch):
    from distill.studies import _shipping as shipping

    def fails(*_, **__):
        raise RuntimeError("no converter today")

    monkeypatch.setattr(shipping, "export", fails)
    found = run(study_of((teacher, {}), seeds=1), tmp_path)
    (note,) = found.notes
    assert note == "teacher has no LiteRT file, size and latency (RuntimeError: no converter today)."
    assert (found.latency_ms, found.litert_bytes) == ({}, {})


def line(run, slope=2.0):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1)(inputs))
    model.set_weights([np.array([[slope], [0]], "float32"), np.zeros(1, "float32")])
    return model


def numbers(seed):
    return tuple((x, 2.5 * x[:, 0]) for x, _ in splits(seed))


def worst(y, outputs):
    return np.abs(outputs[:, 0] - y).max()


WORST = studies.Measure("worst", worst, name="worst", lower_is_better=True, digits=3)


def test_a_regression_and_a_metric_of_ones_own(here, bare, tmp_path):
    study = study_of((line, {}), (teacher_line, {}), data=numbers, metrics=[*studies.REGRESSION, WORST])
    study.compare("line", "teacher_line")
    found = run(study, tmp_path)
    x, y = numbers(0)[2]
    error = 0.5 * np.abs(x[:, 0].astype("float64"))
    scores = found.arm("line").cells[0].test
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-6)
    assert scores["mae"] == pytest.approx(error.mean(), rel=1e-6)
    assert scores["r2"] == pytest.approx(1 - np.sum(error**2) / np.sum((y - y.mean()) ** 2), rel=1e-6)
    assert scores["worst"] == pytest.approx(error.max(), rel=1e-6)
    text = terminal(found, 200)
    assert "Differences in test RMSE" in text
    assert "worst" in text
    assert found.measures[3].lower_is_better


def teacher_line(run):
    return line(run, 2.4)


def test_what_an_arm_may_not_return(here, tmp_path):
    cases = {
        "Distiller": lambda run: distill.Distiller(
            classifier(1.0), classifier(2.0), distill.SoftTargets(2.0)
        ),
        "NoneType": lambda run: None,
        "no file": lambda run: "missing.tflite",
    }
    for name, function in cases.items():
        function.__name__ = "arm"
        study = studies.Study("refused", data=splits, seeds=1)
        study.arm(function)
        with pytest.raises(studies.CellError, match="No arm finished a seed"):
            run(study, tmp_path / name)


def test_what_it_returns_is_named(tmp_path):
    from distill.studies._run import _file

    cell = studies.Cell(study="s", arm="mine", seed=0, config=cell_work.Config({}, {}, {}, "", False))
    model = distill.Distiller(classifier(1.0), classifier(2.0), distill.SoftTargets(2.0))
    with pytest.raises(
        TypeError, match=r"arm 'mine' returned a Distiller\. Return the network .*: its \.student"
    ):
        _file(model, cell, tmp_path)
    with pytest.raises(
        TypeError, match="path of a .keras, .tflite, .onnx file. Received: NoneType from arm 'mine'"
    ):
        _file(None, cell, tmp_path)
    with pytest.raises(ValueError, match=r"Received: a\.tflite from arm 'mine', which is not a file"):
        _file("a.tflite", cell, tmp_path)


def test_models_of_arms_that_are_not_needed_are_not_given(tmp_path):
    given = studies.Run(
        seed=0,
        train=None,
        dev=None,
        callbacks=[],
        directory=tmp_path,
        smoke=False,
        _files={"one": Path("m.tflite")},
    )
    with pytest.raises(ValueError, match=r"names in needs\. Received: 'two', but it needs \['one'\]"):
        given.model("two")
    with pytest.raises(ValueError, match=r"'one' returned a .tflite file, .* run.file\('one'\)"):
        given.model("one")


def diverging(run, rate=0.1):
    return classifier(np.nan if rate > 1 else rate)


def test_a_setting_that_fails_is_not_chosen_and_named(here, bare, tmp_path):
    study = study_of((teacher, {}), (diverging, {"tune": {"rate": (0.1, 10.0, 0.3)}}), seeds=1)
    found = run(study, tmp_path, tune=True)
    (tuning,) = found.tuning
    assert [settings["rate"] for settings, _ in tuning.choices] == [0.1, 0.3]
    assert "diverging with rate = 10.0 failed on dev and was not chosen." in found.notes
    hopeless = study_of((diverging, {"tune": {"rate": (10.0, 20.0)}}), seeds=1, name="hopeless")
    with pytest.raises(
        studies.CellError, match="The settings of diverging cannot be chosen: 6 trials failed"
    ):
        run(hopeless, tmp_path, tune=True)


def test_the_choice_of_settings_is_no_part_of_a_seeds_time(here, bare, tmp_path, monkeypatch):
    """An hour to choose, then a minute a seed: a budget of 65 minutes has room for five."""
    now = [0.0]
    monkeypatch.setattr(execution.time, "monotonic", lambda: now[0])

    def ticking(run, slope=1.0):
        now[0] += 600 if run.seed >= 1000 else 60
        return classifier(slope)

    study = study_of((ticking, {"tune": {"slope": (1.0, 2.0)}}), seeds=8)
    found = run(study, tmp_path, tune=True, budget=65)
    assert len(found.arm("ticking").cells) == 5


EDITED = """
import time
from pathlib import Path

from distill import studies
from tests.studies.tiny import QUIET, classifier, splits

SLOPE = 2.0
study = studies.Study("edited", data=splits, seeds=1, question="Which?")


@study.arm
def first(run):
    path = Path(__file__)
    path.write_text(path.read_text().replace("SLOPE = 2.0", "SLOPE = 3.0"))
    return classifier(1.0)


@study.arm(needs="first")
def second(run):
    time.sleep(20)  # until another worker has started
    return classifier(SLOPE)


@study.arm(needs="first")
def third(run):
    time.sleep(20)
    return classifier(-SLOPE)


if __name__ == "__main__":
    study.run(out="runs", jobs=2, surroundings=QUIET)
"""


@pytest.mark.slow
def test_a_file_that_is_edited_while_it_runs_is_seen(tmp_path):
    """A worker that starts after the edit imports other code than the run's."""
    (tmp_path / "edited.py").write_text(EDITED)
    done = subprocess.run(
        [sys.executable, "edited.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    shown = done.stdout + done.stderr
    assert "The code of a study must not change while it runs" in shown
    assert "SLOPE = 3.0" in (tmp_path / "edited.py").read_text()


def scored(score):
    study = study_of((teacher, {}), (trained, {}), metrics=[studies.Measure("rate", score, name="rate")])
    study.compare("trained", "teacher")
    return study


def half_right(y, outputs):
    return rate(outputs, y) / 2


def all_right(y, outputs):
    return rate(outputs, y)


def test_cells_with_another_score_are_run_again(here, bare, tmp_path):
    """Or the same arm would differ from itself."""
    half, found = run(scored(half_right), tmp_path, arms=["teacher"]), run(scored(all_right), tmp_path)
    before, after = (one.arm("teacher").values(one.measures[0]) for one in (half, found))
    assert [2 * score for score in before] == after
    assert len(list(tmp_path.glob("tiny/cells/teacher-*"))) == 4


def test_a_metric_that_finished_cells_lack_is_named_before_anything_is_trained(here, bare, tmp_path):
    run(study_of((teacher, {}), metrics=[studies.ACCURACY]), tmp_path)
    more = study_of((never, {}), (teacher, {}), metrics=[studies.ACCURACY, studies.NLL])
    with pytest.raises(ValueError, match=r"must have all its metrics. Received: teacher-seed0.*without nll"):
        run(more, tmp_path)


def sloped(run, slope=1.0):
    return classifier(slope)


def test_a_metric_that_only_trials_lack_is_named_before_any_is_chosen(here, bare, tmp_path):
    """The arm's cells have the chosen slope, so that none has the default."""
    arm = (sloped, {"tune": {"slope": (-3.0, 5.0)}})
    run(study_of(arm, metrics=[studies.ACCURACY]), tmp_path, tune=True)
    more = study_of(arm, metrics=[studies.ACCURACY, studies.NLL])
    with pytest.raises(
        ValueError, match=r"must have all its metrics. Received: sloped-seed1000.*without nll"
    ):
        run(more, tmp_path, tune=True)


def quits(run):
    if run.seed == 1:
        sys.exit(0)
    return classifier(1.0)


def test_an_arm_that_ends_its_process_is_a_failure(here, bare, tmp_path, capsys):
    found = run(study_of((quits, {}), (teacher, {})), tmp_path)
    assert {arm.name: arm.seeds for arm in found.arms} == {"quits": [0], "teacher": [0, 1]}
    assert "which called sys.exit(0)" in capsys.readouterr().out


def breaks(*args):
    raise BrokenProcessPool("a worker died")


def test_a_worker_that_dies_of_an_export_costs_no_report(here, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "ship", breaks)
    found = run(study_of((teacher, {})), tmp_path)
    assert any("the process that writes and times them died" in note for note in found.notes)
    assert (tmp_path / "tiny" / "report.html").exists()


def test_a_budget_is_judged_by_the_seeds_that_it_trained(here, bare, tmp_path, monkeypatch):
    """Six seeds are finished; a budget of 25 minutes has room for two more of 10 minutes."""
    now = [0.0]
    monkeypatch.setattr(execution.time, "monotonic", lambda: now[0])

    def ticking(run):
        now[0] += 600
        return classifier(1.0 + run.seed)

    study = study_of((ticking, {}), seeds=6)
    run(study, tmp_path)
    now[0] = 0.0
    found = run(study, tmp_path, seeds=12, budget=25)
    assert len(found.arm("ticking").cells) == 8


def test_data_may_be_a_partial(here, bare, tmp_path):
    study = study_of((teacher, {}), data=functools.partial(splits))
    assert "test_study" not in run(study, tmp_path).command


def test_times_that_cannot_be_taken_cost_no_report(here, tmp_path, monkeypatch):
    def fails(calls):
        raise RuntimeError("no clock")

    monkeypatch.setattr(shipping.cost, "in_turns", fails)
    found = run(study_of((teacher, {})), tmp_path)
    assert (dict(found.latency_ms), list(found.litert_bytes)) == ({}, ["teacher"])
    assert "No arm has a latency (RuntimeError: no clock)." in found.notes


def test_a_saved_model_keeps_what_its_layers_learned_besides_weights(tmp_path):
    words = layers.TextVectorization(max_tokens=6, output_sequence_length=2)
    words.adapt(["red green", "blue red"])
    inputs = keras.Input((), dtype="string")
    model = keras.Model(inputs, layers.Embedding(6, 3)(words(inputs)))
    model.compile("adam", "mse")
    cells.save(model, tmp_path / "model.keras")
    texts = tf.constant(["blue green", "red grey"])
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(texts), again(texts))
    assert not again.compiled
    assert model.compiled


def numbered(seed, file="a.json"):
    if seed < 1:
        raise FileNotFoundError(f"no data of seed {seed}")
    return splits(seed)


def test_data_of_other_seeds_is_not_asked_for(here, tmp_path):
    study = study_of((teacher, {}), data=numbered)
    assert list(run(study, tmp_path, first_seed=1, seeds=1).litert_bytes) == ["teacher"]


def test_data_that_fails_later_costs_no_report(here, tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "examples_of", breaks)
    found = run(study_of((teacher, {})), tmp_path)
    assert any(note.startswith("No arm has a LiteRT file, size and latency") for note in found.notes)


def test_settings_of_the_data_make_folders_of_their_own(here, bare, tmp_path):
    study = study_of((teacher, {}), data=numbered)
    for file in ("b.json", "b/c", "b_c", "d" * 80):
        run(study, tmp_path, first_seed=1, seeds=1, data={"file": file})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:2] == ["tiny-b.json", "tiny-b_c"]
    assert re.fullmatch("tiny-b_c-[0-9a-f]{6}", names[2])
    assert re.fullmatch("tiny-d{64}-[0-9a-f]{6}", names[3])
    assert studies.read(tmp_path / "tiny-b.json").arms[0].name == "teacher"


def test_an_arm_may_leave_its_directory(here, bare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def leaving(run):
        os.chdir(run.directory)
        return classifier(1.0)

    found = run(study_of((leaving, {}), seeds=3), Path("runs"))
    assert len(found.arm("leaving").cells) == 3


def test_cells_of_another_policy_are_others(here, bare, tmp_path):
    study = study_of((teacher, {}))
    run(study, tmp_path)
    keras.config.set_dtype_policy("bfloat16")
    try:
        run(study, tmp_path, seeds=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert len(list(tmp_path.glob("tiny/cells/teacher-seed0-*"))) == 2


def test_a_failure_here_says_what_was_raised_last(here, bare, tmp_path, capsys):
    def chained(run):
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("what to do") from error

    run(study_of((chained, {}), (teacher, {})), tmp_path)
    assert "ValueError: what to do" in capsys.readouterr().out


def test_several_outputs_cannot_be_scored():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, {"a": layers.Dense(2)(inputs), "b": layers.Dense(2)(inputs)}, name="both")
    with pytest.raises(
        ValueError, match="must return one array. Received: 'both', which returns a dict of 2"
    ):
        studies.compare_models({"both": model}, splits(0)[2])


@keras.saving.register_keras_serializable(package="tests")
class OfItsOwnClass(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = layers.Dense(2)

    def call(self, inputs):
        return self.head(inputs)


def own_loss(y, outputs):
    return keras.ops.mean(keras.ops.square(outputs - keras.ops.one_hot(y, 2)), axis=-1)


def compiled_by_hand(run):
    model = OfItsOwnClass()
    model.compile("sgd", own_loss)
    model.fit(*run.train, verbose=0)
    return model


def with_a_lambda(run):
    inputs = keras.Input((2,))
    return keras.Model(inputs, layers.Lambda(lambda x: 9.0 * x)(inputs))


def uses_both(run):
    x = np.ones((3, 2), "float32")
    assert run.model("compiled_by_hand")(x).shape == (3, 2)
    np.testing.assert_array_equal(run.model("with_a_lambda")(x), [[9, 9]] * 3)
    return classifier(1.0)


def test_models_with_losses_and_functions_of_ones_own_are_used_by_other_arms(here, bare, tmp_path):
    """A Lambda as Keras allows it: after enable_unsafe_deserialization, which a new cell must not forget."""
    study = study_of(
        (compiled_by_hand, {}),
        (with_a_lambda, {}),
        (uses_both, {"needs": ["compiled_by_hand", "with_a_lambda"]}),
    )
    keras.config.enable_unsafe_deserialization()
    try:
        found = run(study, tmp_path, seeds=1)
    finally:
        keras.backend.clear_session()  # which makes it safe again
    assert [arm.name for arm in found.arms] == ["compiled_by_hand", "with_a_lambda", "uses_both"]


def test_a_score_that_was_typed_runs_here(tmp_path, monkeypatch):
    """Another process could not import it, and would die of that."""

    def typed(y, outputs):
        return 0.0

    typed.__module__ = "__main__"
    study = study_of((teacher, {}), metrics=[studies.Measure("typed", typed, name="typed")])
    monkeypatch.setitem(sys.modules, "__main__", type(sys)("__main__"))
    with pools.pool_of(study.design, tmp_path, jobs=1, engine=None) as pool:
        assert isinstance(pool, pools.InThisProcess)
