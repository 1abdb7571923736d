"""Examples in docstrings run as they stand, given the names that they may use."""

import doctest
import inspect
import re
import textwrap

import keras
import numpy as np
import pytest
from backend import BACKEND

import distill
from distill import cost, data, exports, files, losses, pruning, quantization, tracking, training

ROOMS = (cost, data, exports, files, losses, losses.projectors, pruning, pruning.structured, pruning.weights)
ROOMS += (pruning.structured.importance, pruning.weights.importance, quantization, tracking, training)


def documented(room):
    """The docstrings of a room and of its public objects, by name."""
    found = {room.__name__: room, **{f"{room.__name__}.{name}": getattr(room, name) for name in room.__all__}}
    return {name: inspect.getdoc(one) or "" for name, one in found.items()}


def fenced_examples(room):
    return [
        pytest.param(textwrap.dedent(code), id=f"{name}-{i}")
        for name, text in documented(room).items()
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    ]


def interactive_examples(room):
    return [pytest.param(text, id=name) for name, text in documented(room).items() if ">>>" in text]


@pytest.fixture
def names(tmp_path, monkeypatch, teacher, student, batch):
    """The names that an example may use, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    x, y = batch
    found = {"distill": distill, "keras": keras, "np": np, "teacher": teacher, "student": student}
    return {**found, "model": student, "x": x, "y": y}


@pytest.mark.parametrize("code", [example for room in ROOMS for example in fenced_examples(room)])
def test_an_example_runs(code, names):
    if BACKEND != "tensorflow" and re.search(r"export\(|exports\(|LiteRT|TFFunction|largest_batch\(", code):
        pytest.skip("TensorFlow only: it writes and runs these files")
    exec(compile(code, "an example", "exec"), names)


@pytest.mark.parametrize("text", [example for room in ROOMS for example in interactive_examples(room)])
def test_an_interactive_example_prints_what_it_says(text, names):
    if BACKEND != "tensorflow" and re.search(r"export\(|sizes\(|latenc|quantize_aware", text):
        pytest.skip("TensorFlow only: it writes and runs these files")
    test = doctest.DocTestParser().get_doctest(text, names, "an example", None, 0)
    printed = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    assert not failed, "".join(printed)
