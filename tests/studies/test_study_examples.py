"""The examples in the docstrings of distill.studies run as they stand, next to a finished study in runs/compare."""

import doctest
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from distill import studies
from tests.studies.made_up import write_study

ROOT = Path(__file__).parents[2]
SHOWN = {
    "studies": studies,
    **{name: getattr(studies, name) for name in studies.__all__},
    **{
        f"statistics.{name}": getattr(studies.statistics, name)
        for name in ("compare", "adjust", "holm", "spread", "power", "seeds_needed", "detectable")
    },
}
TEXTS = {name: inspect.getdoc(one) or "" for name, one in SHOWN.items() if not isinstance(one, tuple)}


def fenced(text):
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)]


@pytest.fixture
def names(tmp_path, monkeypatch, teacher, student, batch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    write_study(tmp_path / "runs" / "compare")
    x, y = batch
    return {"np": np, "teacher": teacher, "student": student, "x": x, "y": y}


EXAMPLES = [(name, code) for name, text in TEXTS.items() if name != "command" for code in fenced(text)]


@pytest.mark.parametrize(("name", "code"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
@pytest.mark.sweep(3)
def test_an_example_runs(name, code, names):
    exec(compile(code, name, "exec"), names)


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if ">>>" in text])
def test_an_interactive_example_prints_what_it_says(name, names):
    test = doctest.DocTestParser().get_doctest(TEXTS[name], names, name, None, 0)
    printed = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    assert not failed, "".join(printed)


@pytest.mark.slow  # README has such a study, which is run
@pytest.mark.parametrize("name", ["Study", "command"])
def test_the_whole_study_runs(name, tmp_path):
    """An example that is a whole file."""
    (code,) = fenced(TEXTS[name])
    (tmp_path / "mine.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "mine.py", "--smoke"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"},
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Smoke run" in done.stdout
    if name == "Study":
        found = studies.read(tmp_path / "runs" / "digits-smoke")
        assert [arm.name for arm in found.arms] == ["teacher", "alone", "distilled"]
        return
    study = studies.read(tmp_path / "runs" / "mine-smoke")
    assert [arm.name for arm in study.arms] == ["plain", "smoothed"]
    assert [settings for settings, _ in study.tuning[0].choices] == [{"smoothing": 0.1}, {"smoothing": 0.2}]
