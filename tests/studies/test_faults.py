"""What ends a study early: nothing that was finished is lost, and the message says what to do.

scripts/bench/faults kills a study in every phase, fifty times.
"""

import importlib
import itertools
import resource
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from distill import studies
from distill.studies import _run

pytestmark = pytest.mark.usefixtures("here")
BENCH = Path(__file__).parents[2] / "scripts" / "bench"
QUIET = studies.Surroundings(wandb="disabled")


@pytest.fixture(scope="module")
def faults():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        yield importlib.import_module("faults")


def splits(seed):
    x = np.random.default_rng(seed).normal(size=(30, 4)).astype("float32")
    return ((x, (x[:, 0] > 0).astype("int64")),) * 3


def plain(run):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def large(run):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(400_000), keras.layers.Dense(2)])


def after_plain(run):
    return run.model("plain")


def diverged(run):
    model = plain(run)
    model.set_weights([np.full((4, 2), np.nan), np.zeros(2)])
    return model


def study_of(*arms):
    study = studies.Study("tiny", data=splits, seeds=1)
    for arm in arms:
        study.arm(arm, needs="plain" if arm is after_plain else ())
    return study


def run(study, folder):
    return study.run(out=folder, surroundings=QUIET, jobs=1)


def test_a_study_that_was_killed_ends_in_what_an_uninterrupted_one_in_another_process_ends_in(
    faults, tmp_path
):
    study = importlib.import_module("faults_study").study
    study.run(out=tmp_path / "here", surroundings=QUIET, seeds=1, arms=["alone", "distilled"])
    expected = faults.outcome(tmp_path / "here" / "faults")
    assert len(expected["cells"]) == 3
    out, arguments = tmp_path / "there", ("--seeds", "1", "--jobs", "1", "--arms", "alone", "distilled")
    process = faults.begin(out, *arguments)
    while len(faults.finished_cells(out / "faults")) < 1:
        assert process.poll() is None, (tmp_path / "there.log").read_text()
        time.sleep(0.02)
    faults.end(process, signal.SIGKILL)
    before = faults.finished_cells(out / "faults")
    assert 1 <= len(before) < 3
    study.run(out=out, surroundings=QUIET, seeds=1, arms=["alone", "distilled"])
    assert not faults.touched(before, out / "faults")
    assert faults.outcome(out / "faults") == expected
    one, other = (next(out.glob(f"faults/cells/{arm}-*/model.keras")) for arm in ("alone", "distilled"))
    assert faults.weights(one) == faults.weights(one) != faults.weights(other)


@pytest.mark.slow
def test_without_space_it_fails_and_goes_on_once_there_is(tmp_path, capsys):
    study = study_of(plain, large, after_plain)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, before[1]))
    try:
        assert [arm.name for arm in run(study, tmp_path).arms] == ["plain", "after_plain"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    shown = capsys.readouterr().out
    assert "Cell large-seed0-" in shown
    assert "OSError: [Errno 27] File too large" in shown
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tiny/cells/*/result.json")}
    assert len(finished) == 2
    assert [arm.name for arm in run(study, tmp_path).arms] == ["plain", "large", "after_plain"]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_answers_that_are_no_numbers_are_refused_and_the_rest_goes_on(tmp_path, capsys):
    found = run(study_of(plain, diverged), tmp_path)
    assert [arm.name for arm in found.arms] == ["plain"]
    shown = " ".join(capsys.readouterr().out.split())
    assert "NaN or infinity for 30 of 30 examples, from diverged-seed0-" in shown
    assert "use a smaller learning rate" in shown


def test_inputs_that_are_no_numbers_are_named():
    """Of several inputs, strings among them; the answer to the last example is the model's own fault."""
    number, word = np.array([[0.0], [np.nan], [1.0], [2.0]]), np.array(["a", "b", "c", "d"])
    x = {"number": number, "word": word}
    answer = lambda x: np.where(x["word"] == "d", np.inf, x["number"][:, 0])[:, None]  # noqa: E731
    message = (
        "infinity for 2 of 4 examples, from here. The inputs of 1 of them have NaN or infinity: fix the data"
    )
    with pytest.raises(ValueError, match=message):
        _run.finite_answers(answer, None, (x, np.zeros(4)), "here")
    number[1] = 0
    with pytest.raises(
        ValueError, match=r"infinity for 1 of 4 examples, from here\. If its training diverged"
    ):
        _run.finite_answers(answer, None, (x, np.zeros(4)), "here")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda cell: (cell / "model.keras").unlink(), "model.keras, is gone"),
        (lambda cell: (cell / "result.json").write_text('{"arm": "pl'), "JSONDecodeError"),
        (lambda cell: (cell / "result.json").write_text('{"arm": "plain"}'), "KeyError"),
        (lambda cell: (cell / "metrics.jsonl").unlink(), "FileNotFoundError"),
    ],
    ids=["no model", "half a result", "an edited result", "no curve"],
)
@pytest.mark.sweep(1)
def test_a_finished_cell_that_was_damaged_is_named_with_what_to_do(tmp_path, damage, words):
    study = study_of(plain)
    run(study, tmp_path)
    (cell,) = tmp_path.glob("tiny/cells/*")
    damage(cell)
    with pytest.raises(studies.BrokenStudyError, match=words) as caught:
        run(study, tmp_path)
    assert str(cell) in str(caught.value)
    assert "delete that cell's directory first" in str(caught.value)
    # What needs the cell says the same.
    if words in ("KeyError", "model.keras, is gone"):
        with pytest.raises(studies.BrokenStudyError, match=words):
            run(study_of(plain, after_plain), tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_in_a_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["tiny.py"])
    with pytest.raises(SystemExit) as ended:
        study_of(plain).main(["--out", str(tmp_path / "file" / "runs"), "--wandb", "disabled"])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "error: [Errno 20] Not a directory" in shown
    assert "Traceback" not in shown


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    study = study_of(plain, after_plain)
    cells = [arm.cells for arm in run(study, tmp_path / "straight").arms]
    clock = itertools.count(8e8, -1e5)  # each look is a day earlier
    monkeypatch.setattr("time.time", lambda: next(clock))
    found = run(study, tmp_path / "jumping")
    scores = [[(one.arm, one.test, one.dev) for one in arm.cells] for arm in found.arms]
    assert scores == [[(one.arm, one.test, one.dev) for one in arm] for arm in cells]
    assert all(one.seconds >= 0 for arm in found.arms for one in arm.cells)
