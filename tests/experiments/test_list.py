"""The list of studies."""

import re
from pathlib import Path

from experiments.__main__ import listed

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def test_every_study_has_a_question_and_its_command():
    names = sorted(path.stem for path in EXPERIMENTS.glob("[a-z]*.py"))
    assert re.findall(r"^(\w+)$", listed(), flags=re.MULTILINE) == names
    assert len(re.findall(r"^    Command: scripts/", listed(), flags=re.MULTILINE)) == len(names)
    assert "Does a small student learn more from a teacher" in listed()
