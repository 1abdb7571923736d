"""Every Python snippet of the README runs as it stands, in an empty directory."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet{i}" for i in range(len(SNIPPETS))])
def test_snippets_run(snippet, tmp_path):
    if "teacher.keras" in snippet:
        stack = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
        keras.Sequential([keras.Input((28, 28, 1)), *stack]).save(tmp_path / "teacher.keras")
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "student.keras" in snippet:
        assert "val_accuracy" in done.stdout
        student = keras.models.load_model(tmp_path / "student.keras")
        assert student.count_params() == 784 * 32 + 32 + 32 * 10 + 10


def test_commands_that_the_readme_names_exist():
    commands = set(re.findall(r"\bscripts/[\w-]+", README.read_text()))
    assert commands == {"scripts/compare", "scripts/launch", "scripts/test", "scripts/test-backends"}
    assert all((README.parent / command).stat().st_mode & 0o111 for command in commands)
