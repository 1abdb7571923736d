"""Every Python snippet of the README runs as it stands, in an empty directory."""

import re
from pathlib import Path

import keras
import pytest

README = Path(__file__).parents[2] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


# Keras 3.15 says so at every fit of a data set.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet{i}" for i in range(len(SNIPPETS))])
def test_snippets_run(snippet, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})
    if "student.keras" in snippet:
        assert "val_accuracy" in capsys.readouterr().out
        student = keras.models.load_model(tmp_path / "student.keras")
        assert student.count_params() == 784 * 32 + 32 + 32 * 10 + 10


def test_commands_that_the_readme_names_exist():
    commands = set(re.findall(r"\bscripts/[\w/-]*\w", README.read_text()))
    assert {"scripts/compare", "scripts/test"} <= commands
    assert all((README.parent / command).stat().st_mode & 0o111 for command in commands)
