"""A study's command line."""

import importlib.machinery
import json
import shutil
import sys
import types

import pytest

from distill import studies
from distill.studies import _main, _study
from tests.studies.tiny import study_of, teacher, trained


def test_a_process_that_imports_the_file_does_not_begin_the_study_again(monkeypatch):
    monkeypatch.setattr(_study.multiprocessing.current_process(), "_name", "SpawnProcess-1")
    assert study_of((teacher, {})).main(["--seeds", "1"]) is None


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
    with pytest.raises(SystemExit) as ended:
        study.main(["--out", str(tmp_path), "--data", "dataset"])
    assert ended.value.code == 1
    assert "NAME=VALUE. Received: --data dataset." in capsys.readouterr().out
    for engine, option in (("local", "--cpus"), ("local", "--memory"), ("ray", "--jobs")):
        with pytest.raises(SystemExit) as ended:
            study.main(["--out", str(tmp_path), "--engine", engine, option, "2"])
        assert ended.value.code == 1
        assert f"Received: {option} 2 with --engine {engine}." in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(ValueError, match=r"Received: jobs=2, engine=Ray\(cpus=1"):
        study.run(jobs=2, engine=studies.Ray())
    assert [_main.setting(text) for text in ("a=1.5", "b=x=y", "c=true")] == [
        ("a", 1.5),
        ("b", "x=y"),
        ("c", True),
    ]
    assert [_main.minutes(text) for text in ("90s", "20m", "2h")] == [1.5, 20.0, 120.0]
    shutil.rmtree(tmp_path / "tiny-smoke")


def failing(run):
    raise ZeroDivisionError("as told")


@pytest.mark.parametrize("option", ["--smoke", "--seeds=1"])
def test_a_cell_that_fails_is_a_failure_of_the_command(option, here, bare, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        study_of((teacher, {}), (failing, {})).main(["--out", str(tmp_path), "--wandb", "disabled", option])
    assert ended.value.code == 1
    shown = capsys.readouterr().out
    assert "Report: " in shown  # of what was finished
    assert "error: some cells failed; see " in shown


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
