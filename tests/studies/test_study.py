"""A study of one's own: what its arms are given, what becomes of what they return, and what is refused."""

import importlib.machinery
import json
import random
import shutil
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import distill
from distill import studies
from distill.studies import _execution as execution
from distill.studies import _main, _study
from distill.studies._declared import code_of
from tests.studies.made_up import terminal

QUIET = studies.Surroundings(wandb="disabled")


def splits(seed):
    """Two features; the class is the sign of the first. The train split varies with the seed."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)

    def drawn(generator, count):
        x = generator.normal(size=(count, 2)).astype("float32")
        return x, (x[:, 0] > 0).astype("int64")

    return drawn(rng, 40), drawn(fixed, 50), drawn(fixed, 60)


def classifier(slope, *, activation=None):
    """Logits (0, slope · first + the second feature / 2)."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(2, activation=activation)(inputs))
    model.set_weights([np.array([[0, slope], [0, 0.5]], "float32"), np.zeros(2, "float32")])
    return model


def teacher(run):
    """Knows the answer.

    And has more to say.
    """
    return classifier(9.0)


def taught(run, slope=1.0, sure=True):
    assert run.model("teacher").count_params() == 6
    (run.directory / "notes.txt").write_text("mine")
    return classifier(slope + 0.1 * (run.seed % 10), activation="softmax" if sure else None)


def trained(run):
    network = classifier(-0.5)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    network.fit(*run.train, validation_data=run.dev, epochs=2, callbacks=run.callbacks, verbose=0)
    return network


def study_of(*arms, name="tiny", metrics=studies.CLASSIFICATION, seeds=2, data=splits):
    study = studies.Study(name, data=data, seeds=seeds, metrics=metrics, question="Which one?")
    for arm, options in arms:
        study.arm(arm, **options)
    return study


TAUGHT = (teacher, {}), (taught, {"needs": "teacher", "tune": {"slope": (-3.0, 1.0, 5.0, 0.1)}})


@pytest.fixture
def here(monkeypatch):
    """Cells run in this process, as in a notebook: a process of their own takes seconds to start."""
    import contextlib

    monkeypatch.setattr(execution, "_pool", lambda *_: contextlib.nullcontext(execution._Here()))


def run(study, folder, **options):
    return study.run(out=folder, surroundings=QUIET, **options)


def rate(logits, y):
    return np.mean(logits.argmax(1) == y)


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
        assert cell.test["last"]["accuracy"] == rate(logits, y)
        assert cell.test["last"]["nll"] == pytest.approx(-np.mean(log_p[np.arange(60), y]), rel=1e-5)
        assert cell.test["last"]["agreement"] == rate(logits, (x @ np.array([[0, 9], [0, 0.5]])).argmax(1))
        assert (cell.cost["parameters"], cell.cost["macs"]) == (6, 4)
        assert cell.selected_epoch is None
    assert found.arm("teacher").values(studies.AGREEMENT) is None
    assert [len(cell.history) for cell in found.arm("trained").cells] == [2, 2]
    assert set(found.latency_ms) == set(found.litert_bytes) == {"teacher", "taught", "trained"}
    assert any("not tuned" in note for note in found.notes)
    page = (tmp_path / "tiny" / "report.html").read_text()
    for text in ("Which one?", "exploratory:", "Accuracy against size"):
        assert text in page
    assert "dev-selected" not in terminal(found, 200)
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


def test_networks_start_alike_with_a_teacher_and_without(here, tmp_path):
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


def test_settings_are_chosen_on_dev_with_seeds_of_their_own(here, tmp_path):
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


def test_a_metric_that_is_better_when_lower_chooses_the_lowest(here, tmp_path):
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
        "teacher": [0, 2],
        "failing": [0, 2],
        "needing": [0, 2],
    }
    assert found.comparisons == (("teacher", "failing"),)
    assert "The arm never was never finished, and is left out." in found.notes
    shown = capsys.readouterr().out
    assert "ZeroDivisionError: as told" in shown
    assert "in failing" in shown
    assert "FileNotFoundError" not in shown  # what needs a failed cell is not tried
    with pytest.raises(studies.CellError, match="No seed was finished by all arms"):
        run(study_of((never, {}), name="none"), tmp_path)


def test_arms_on_request_and_those_that_they_need(here, tmp_path):
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


def grandchild(run):
    return run.model("taught")


def test_what_an_arm_needs_is_run_however_deep(tmp_path):
    study = study_of(*TAUGHT, (grandchild, {"needs": "taught"}), (trained, {}))
    assert list(study.design.only(["grandchild"]).arms) == ["teacher", "taught", "grandchild"]


def test_the_commit_is_that_of_the_file_in_which_the_data_is_defined(here, tmp_path, monkeypatch):
    concluded = {}

    def conclude(*args, **kwargs):
        concluded.update(kwargs)
        return studies.conclude(*args, **kwargs)

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


def test_files_to_ship_lack_the_zeros_of_pruned_models(here, tmp_path):
    found = run(study_of((mostly_zeros, {}), (whole, {}), (wrong_in_litert, {}), seeds=1), tmp_path)
    assert found.litert_bytes["mostly_zeros"] < 0.3 * found.litert_bytes["whole"]
    notes = [note for note in found.notes if "LiteRT" in note]
    assert notes == ["The LiteRT file of wrong_in_litert holds its zeros: LiteRT cannot run it without them."]


def test_a_changed_arm_is_run_again(here, tmp_path):
    def arm(run):
        return classifier(3.0)

    first = run(study_of((teacher, {}), (arm, {}), seeds=1), tmp_path)

    def arm(run):
        return classifier(-3.0)

    again = run(study_of((teacher, {}), (arm, {}), seeds=1), tmp_path)
    scores = [found.arm("arm").values(studies.ACCURACY)[0] for found in (first, again)]
    assert scores[0] > 90 > 10 > scores[1]
    assert len(list(tmp_path.glob("tiny/cells/*"))) == 3


def test_a_budget_ends_after_whole_seeds_and_says_so(here, tmp_path, monkeypatch):
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
        assert found.arm(name).cells[0].test["last"]["accuracy"] == rate(x @ [[0, 2], [0, 0.5]], y)
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


def test_a_regression_and_a_metric_of_ones_own(here, tmp_path):
    study = study_of((line, {}), (teacher_line, {}), data=numbers, metrics=[*studies.REGRESSION, WORST])
    study.compare("line", "teacher_line")
    found = run(study, tmp_path)
    x, y = numbers(0)[2]
    error = 0.5 * np.abs(x[:, 0].astype("float64"))
    scores = found.arm("line").cells[0].test["last"]
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
        with pytest.raises(studies.CellError, match="No seed was finished"):
            run(study, tmp_path / name)


def test_what_it_returns_is_named(tmp_path):
    from distill.studies._run import _file

    cell = studies.Cell(study="s", arm="mine", seed=0, config=execution.Config({}, {}, "", False))
    model = distill.Distiller(classifier(1.0), classifier(2.0), distill.SoftTargets(2.0))
    with pytest.raises(
        TypeError, match=r"arm 'mine' returned a Distiller\. Return the network .*: its \.student"
    ):
        _file(model, cell, tmp_path)
    with pytest.raises(
        TypeError, match="path of a .keras, .tflite, .onnx file. Received: NoneType from arm 'mine'"
    ):
        _file(None, cell, tmp_path)
    with pytest.raises(ValueError, match=r"Received: a\.tflite from arm 'mine', which is no file"):
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


def test_declarations_that_do_not_fit():
    study = study_of((teacher, {}))

    def bare(run, rate):
        pass

    def odd(run, layer=layers.Dense):
        pass

    for function, options, message in (
        (teacher, {}, "a second arm 'teacher'"),
        (taught, {"needs": "nobody"}, r"which needs \['nobody'\]; declared are \['teacher'\]"),
        (taught, {"tune": {"width": (1,)}}, r"Received: \['width'\]; arm 'taught' has \['slope', 'sure'\]"),
        (taught, {"tune": {"slope": ()}}, r"Received: \['slope'\]"),
        (bare, {}, "each needs a default"),
        (odd, {}, "numbers, strings, booleans"),
    ):
        with pytest.raises(ValueError, match=message):
            study.arm(function, **options)
    assert list(study.design.arms) == ["teacher"]
    with pytest.raises(ValueError, match=r"Declared arms are \['teacher'\]. Received: \['taught'\]"):
        study.compare("taught", "teacher")
    with pytest.raises(ValueError, match="Compare two arms, and once"):
        study.compare("teacher", "teacher")
    with pytest.raises(ValueError, match="name that can be that of a folder. Received: 'a/b'"):
        studies.Study("a/b", data=splits)
    with pytest.raises(ValueError, match="at least one seed and one metric. Received: seeds=0"):
        studies.Study("a", data=splits, seeds=0)
    with pytest.raises(ValueError, match="A study needs an arm. Received: none"):
        studies.Study("a", data=splits).run()
    with pytest.raises(ValueError, match="seeds must be at least 1. Received: seeds=0"):
        study.run(seeds=0)
    for metrics in ([studies.Measure("f1", name="F1")], [studies.RMSE, studies.RMSE]):
        with pytest.raises(ValueError, match="a function that scores, and a key of its own"):
            studies.Study("a", data=splits, metrics=metrics)
    with pytest.raises(ValueError, match="budget must be above 0 minutes. Received: budget=0"):
        study.run(budget=0)
    with pytest.raises(ValueError, match=r"three splits: train, dev and test. Received: tuple of 2"):
        studies.Study("a", data=lambda seed: (1, 2)).design.splits(0)


def test_functions_that_no_process_can_import_are_refused(tmp_path):
    study = study_of((teacher, {}))
    study.arm(lambda run: classifier(1.0))
    with pytest.raises(ValueError, match=r"defined at the top of a file.* Received: study 'tiny': .*lambda"):
        run(study, tmp_path)


def test_code_is_told_by_what_it_does():
    def one(run, width=3):
        """Says something."""
        return width + 1  # adds

    before = code_of(one)

    def one(run, width=3):
        return width + 1

    assert code_of(one) == before

    def one(run, width=3):
        return width + 2

    assert code_of(one) != before
    assert code_of(one, splits) != code_of(one, numbers)


def test_a_process_that_imports_the_file_does_not_begin_the_study_again(monkeypatch):
    monkeypatch.setattr(_study.multiprocessing.current_process(), "_name", "SpawnProcess-1")
    assert study_of((teacher, {})).main(["--seeds", "1"]) is None


def test_code_without_a_source_is_told_by_its_constants_and_names():
    def typed(text):
        scope = {}
        exec(text, scope)
        return scope["arm"]

    first = typed("def arm(run):\n    return [run.fit(epochs=20) for _ in range(2)]")
    assert code_of(first) == code_of(
        typed("def arm(run):\n    return [run.fit(epochs=20) for _ in range(2)]")
    )
    assert code_of(first) != code_of(
        typed("def arm(run):\n    return [run.fit(epochs=30) for _ in range(2)]")
    )
    assert code_of(first) != code_of(
        typed("def arm(run):\n    return [run.fits(epochs=20) for _ in range(2)]")
    )


def test_the_command(here, tmp_path, capsys, monkeypatch):
    study = study_of((teacher, {}), (trained, {}))
    study.compare("trained", "teacher")
    monkeypatch.setattr(sys, "argv", ["tiny.py"])
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    with pytest.raises(SystemExit) as ended:
        study.main(["--out", str(tmp_path), "--smoke", "--wandb", "disabled", "--jobs", "1"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "Smoke run" in shown
    assert "Report: " in shown
    assert json.loads((tmp_path / "tiny-smoke" / "study.json").read_text())["command"].startswith(
        "python tiny.py --out"
    )
    with pytest.raises(SystemExit) as ended:
        study.main(["--out", str(tmp_path), "--wandb", "disabled", "--seeds", "1", "--arms", "trained"])
    assert ended.value.code == 0
    assert "teacher seed 0" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        study.main(["--out", str(tmp_path), "--budget", "soon"])
    assert ended.value.code == 1
    assert "A budget is a number with s, m or h. Received: --budget soon." in capsys.readouterr().out
    assert [_main.minutes(text) for text in ("90s", "20m", "2h")] == [1.5, 20.0, 120.0]
    shutil.rmtree(tmp_path / "tiny-smoke")


def test_help_names_the_arms_and_the_command_as_it_was_typed(capsys, monkeypatch):
    study = study_of((teacher, {}), (trained, {"on_request": True}))
    monkeypatch.setattr(sys, "argv", ["/somewhere/package/tiny.py"])
    module = types.ModuleType("__main__")
    module.__spec__ = importlib.machinery.ModuleSpec("package.tiny", None)
    monkeypatch.setitem(sys.modules, "__main__", module)
    with pytest.raises(SystemExit) as ended:
        study.main(["--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "usage: python -m package.tiny" in shown
    assert "teacher: Knows the answer." in shown
    assert "trained (on request): No description" in shown
    module.__spec__ = importlib.machinery.ModuleSpec("package.__main__", None)
    assert _main.program() == ["python", "-m", "package"]
