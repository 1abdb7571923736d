"""A study in Weights & Biases: what its users find there, from offline runs and from a sweep."""

import json
import os
import re
import subprocess
import sys

import keras
import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from wandb_server import WandbServer

from distill import studies
from distill.studies import _main, _publishing
from distill.studies._recording import unnamed
from tests.sources import ROOT
from tests.studies.tiny import classifier, run, study_of, taught, teacher


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def teacher_with_answers(run):
    answers = run.directory / "answers"
    answers.mkdir()
    (answers / "cache.json").write_text("{}")
    (answers / "shard-0").write_text(f"of seed {run.seed}")
    return classifier(9.0 + run.seed)


def learner(run, rate=0.5):
    network = run.model("teacher_with_answers")
    network.compile(
        keras.optimizers.SGD(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    network.fit(*run.train, validation_data=run.dev, epochs=2, callbacks=run.callbacks, verbose=0)
    return network


def commit(folder):
    command = ["git", "-C", folder, "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_offline_runs_of_a_study_arrive_complete(here, tmp_path, capsys):
    before = commit(ROOT)
    study = study_of((teacher_with_answers, {}), (learner, {"needs": "teacher_with_answers"}))
    study.compare("learner", "teacher_with_answers")
    with pytest.raises(SystemExit) as ended:
        study.main(["--out", str(tmp_path / "runs"), "--tensorboard", "--jobs", "1"])
    assert ended.value.code == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("To upload the runs")]
    found = studies.read(tmp_path / "runs" / "tiny")
    with WandbServer() as server:
        server.command(line.partition("wandb ")[2], home=tmp_path / "home", cwd=tmp_path)
    by_name = {run["displayName"]: name for name, run in server.runs.items()}
    cells = {path.name for path in tmp_path.glob("runs/tiny/cells/*")}
    assert set(by_name) == {"tiny", *cells}
    assert {one["groupName"] for one in server.runs.values()} == {"tiny"}
    assert {one["commit"] for one in server.runs.values()} == {before}
    assert set(server.exit_codes.values()) == {0}
    for cell in found.arm("learner").cells:
        (name,) = [one for one in cells if one.startswith(f"learner-seed{cell.seed}-")]
        mine = by_name[name]
        assert server.runs[mine]["jobType"] == "learner"
        config = server.config(mine)
        assert (config["seed"], config["settings"], config["smoke"]) == (cell.seed, {"rate": 0.5}, False)
        rows = [row for row in server.histories[mine] if "val_accuracy" in row]
        assert [(row["epoch"], row["val_accuracy"]) for row in rows] == [
            (row["step"], row["val_accuracy"]) for row in cell.history
        ]
        summary = server.summaries[mine]
        assert summary["test/accuracy"] == cell.test["accuracy"]
        assert (summary["cost/macs"], summary["epochs"]) == (4, 2)
        assert summary["scores"]["_type"] == "table-file"
        (theirs,) = [one for one in by_name if one.startswith(f"teacher_with_answers-seed{cell.seed}-")]
        # teacher -> student, and its answers.
        made = {one["collection"] for one in server.versions.values() if one["made_by"] == by_name[theirs]}
        used = {one["collection"]: one for one in server.versions.values() if mine in one["used_by"]}
        names = {"tiny-teacher_with_answers", "tiny-teacher_with_answers-answers"}
        assert set(used) == names <= made
        assert {one["made_by"] for one in used.values()} == {by_name[theirs]}
        assert theirs in used["tiny-teacher_with_answers"]["aliases"]
    study_run = by_name["tiny"]
    assert server.runs[study_run]["jobType"] == "study"
    summary = server.summaries[study_run]
    (judged,) = studies.judge(found)
    versus = "learner vs teacher_with_answers"
    assert summary["verdicts"] == ": ".join(studies.summary.verdict(judged))
    assert summary[f"{versus}/verdict"] == judged.adjusted.verdict
    assert summary[f"{versus}/difference"] == judged.adjusted.difference
    pictures = {path.stem for path in tmp_path.glob("runs/tiny/report/*.png")}
    assert {"pareto-macs", "forest"} <= pictures
    shown = {
        name: value["_type"]
        for name, value in summary.items()
        if isinstance(value, dict) and name != "_wandb"
    }
    assert shown == {
        **dict.fromkeys(("arms", "seeds", "comparisons"), "table-file"),
        **dict.fromkeys(pictures, "image-file"),
        "report": "html-file",
    }
    report = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    assert server.files[summary["report"]["path"]].decode() == report
    table = json.loads(server.files[summary["seeds"]["path"]])
    position = table["columns"].index("test/accuracy")
    assert [row[position] for row in table["data"]] == [
        cell.test["accuracy"] for arm in found.arms for cell in arm.cells
    ]
    assert server.config(study_run)["versions"]["keras"] == keras.__version__
    assert server.unknown == []
    # TensorBoard, from the same directory.
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "runs" / "tiny")).Reload()
    tags = {name: set(found["tensors"]) for name, found in events.Runs().items()}
    assert len(tags) == 4
    assert all({"test/accuracy", "_hparams_/session_start_info"} <= found for found in tags.values())
    # Another end of the study replaces the run of this one.
    (kept,) = tmp_path.glob("runs/tiny/wandb/offline-run-*")
    studies.publish(tmp_path / "runs" / "tiny", wandb="offline")
    (replaced,) = tmp_path.glob("runs/tiny/wandb/offline-run-*")
    assert kept != replaced


def test_a_quiet_study_leaves_nothing_to_upload(here, tmp_path):
    run(study_of((teacher, {}), seeds=1), tmp_path)
    assert not list(tmp_path.rglob("wandb"))
    assert not (tmp_path / "tiny" / "metrics.jsonl").exists()
    assert _publishing.sync_line(tmp_path / "tiny") is None


# Sweeps


def typed(study, tmp_path, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tiny.py"])
    common = ["--out", str(tmp_path / "runs"), "--jobs", "1"]
    return _main.main(study.design, study.run, [*common, *arguments])


def tuned_study():
    return study_of((teacher, {}), (taught, {"needs": "teacher", "tune": {"slope": (1.0, 5.0)}}))


def test_a_sweep_is_the_grid_that_tuning_tries(tmp_path, capsys, monkeypatch):
    import yaml

    monkeypatch.setitem(sys.modules, "__main__", type(sys)("__main__"))
    typed_together = typed(tuned_study(), tmp_path, monkeypatch, "--sweep=taught", "--smoke")
    assert typed_together == typed(tuned_study(), tmp_path, monkeypatch, "--sweep", "taught", "--smoke") == 0
    file = tmp_path / "runs" / "tiny-smoke" / "sweep-taught.yaml"
    assert f"wandb sweep {file}" in capsys.readouterr().out
    assert yaml.safe_load(file.read_text()) == {
        "project": "distill",
        "name": "tiny taught",
        "program": "tiny.py",
        "method": "grid",
        "metric": {"name": "dev/accuracy", "goal": "maximize"},
        "parameters": {"slope": {"values": [1.0, 5.0]}, "seed": {"values": [1000, 1001, 1002]}},
        "command": [
            *("${env}", "${interpreter}", "tiny.py", "--out", str(tmp_path / "runs"), "--jobs", "1"),
            *("--sweep", "taught", "${args_json}", "--smoke", "--wandb", "online"),
        ],
    }


@pytest.mark.slow
def test_a_trial_is_a_cell_of_tuning(here, tmp_path, capsys, monkeypatch):
    study = tuned_study()
    for slope in (1.0, 5.0):
        settings = json.dumps({"slope": slope, "seed": 1001})
        assert typed(study, tmp_path, monkeypatch, "--sweep", "taught", settings, "--wandb", "disabled") == 0
    shown = capsys.readouterr().out
    trials = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/tiny/cells/*/result.json")}
    assert len(trials) == 3  # the teacher, and two trials
    result = json.loads(next(path for path in trials if "taught" in str(path)).read_text())
    assert f"dev/accuracy = {result['dev']['accuracy']}" in shown
    run(study, tmp_path / "runs", tune=True, seeds=1)
    assert {path: path.stat().st_mtime_ns for path in trials} == trials


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "A sweep is of one arm.*Received: 'nobody'; there are teacher, taught."),
        (["teacher"], "declare it with tune=.*Received: 'teacher', which has none."),
        (["taught", '{"height": 1}'], 'settings of the arm: slope, sure. Received: {"height": 1}.'),
        (["taught", '{"slope": 1, "seed": 0.5}'], "a whole seed from 0"),
        (["taught", "slope=1"], "a JSON object.*Received: slope=1."),
    ],
)
def test_sweeps_that_are_refused(tmp_path, capsys, monkeypatch, arguments, message):
    assert typed(tuned_study(), tmp_path, monkeypatch, "--sweep", *arguments) == 1
    assert re.search(message, capsys.readouterr().out)
    assert not (tmp_path / "runs").exists()


def test_only_the_trial_has_the_name_that_its_agent_gave(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with unnamed():
        assert "WANDB_RUN_ID" not in os.environ
        assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["WANDB_RUN_ID"] == "abc"


PROGRAM = """
from tests.studies.tiny import study_of, taught, teacher

study = study_of((teacher, {}), (taught, {"needs": "teacher", "tune": {"slope": (-1.0, 5.0)}}))
if __name__ == "__main__":
    study.main()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_agent_runs_a_sweep(tmp_path, monkeypatch):
    (tmp_path / "birds.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    with WandbServer() as server:
        subprocess.run([sys.executable, "birds.py", "--sweep", "taught"], cwd=tmp_path, check=True)
        server.command("sweep runs/tiny/sweep-taught.yaml", home=tmp_path, cwd=tmp_path)
        server.command("agent --count 1 me/distill/sweep0", home=tmp_path, cwd=tmp_path)
        # A sweep of its own, whose first trial has been run.
        server.command("sweep runs/tiny/sweep-taught.yaml", home=tmp_path, cwd=tmp_path)
        server.command("agent --count 1 me/distill/sweep1", home=tmp_path, cwd=tmp_path)
    assert server.unknown == []
    assert server.summaries["trial0"]["dev/accuracy"] < 0.5
    assert server.runs["trial0"]["jobType"] == "taught"
    assert server.config("trial0")["settings"]["slope"] == -1.0
    others = set(server.runs) - {"trial0"}
    assert [server.runs[one]["jobType"] for one in others] == ["teacher"]
    assert len(list(tmp_path.glob("runs/tiny/cells/taught-*/result.json"))) == 1
    assert len(list(tmp_path.glob("runs/tiny/sweeps/trial0/*"))) == 1
