"""Examples in docstrings run as they stand, given the names that they may use."""

import inspect
import re
import textwrap

import keras
import numpy as np
import pytest
from backend import BACKEND

import distill
from distill import files

ROOMS = (files,)


def examples_of(room):
    """(name, code) of each example in a room's docstring and in those of its public objects."""
    documented = {room.__name__: room, **{name: getattr(room, name) for name in room.__all__}}
    return [
        pytest.param(textwrap.dedent(code), id=f"{name}-{i}")
        for name, found in documented.items()
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", inspect.getdoc(found), flags=re.DOTALL))
    ]


@pytest.mark.parametrize("code", [example for room in ROOMS for example in examples_of(room)])
def test_an_example_runs(code, tmp_path, monkeypatch, teacher, student, batch):
    if BACKEND != "tensorflow" and ".export(" in code:
        pytest.skip("TensorFlow only: a SavedModel is TensorFlow's")
    monkeypatch.chdir(tmp_path)
    x, y = batch
    names = {"distill": distill, "keras": keras, "np": np, "teacher": teacher, "student": student}
    exec(compile(code, "an example", "exec"), {**names, "model": student, "x": x, "y": y})
