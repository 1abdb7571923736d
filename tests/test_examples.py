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
from distill import cache, cost, data, exports, files, losses, pruning, quantization, tracking, training

ROOMS = (
    cache,
    cost,
    data,
    exports,
    files,
    losses,
    losses.projectors,
    pruning,
    pruning.structured,
    pruning.weights,
)
ROOMS += (pruning.structured.importance, pruning.weights.importance, quantization, tracking, training)


def documented():
    """The docstrings of the rooms and of their public objects, by name: of what has two, under the last."""
    found = {}
    for room in ROOMS:
        found[room.__name__] = room
        found.update({f"{room.__name__}.{name}": getattr(room, name) for name in room.__all__})
    names = {id(one): name for name, one in found.items()}
    return {name: inspect.getdoc(found[name]) or "" for name in names.values()}


def fenced_examples():
    return [
        pytest.param(textwrap.dedent(code), id=f"{name}-{i}")
        for name, text in documented().items()
        for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    ]


def interactive_examples():
    return [pytest.param(text, id=name) for name, text in documented().items() if ">>>" in text]


@pytest.fixture
def names(tmp_path, monkeypatch, teacher, student, batch):
    """The names that an example may use, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    x, y = batch
    found = {"distill": distill, "keras": keras, "np": np, "teacher": teacher, "student": student}
    return {**found, "model": student, "x": x, "y": y}


@pytest.mark.parametrize("code", fenced_examples())
@pytest.mark.sweep(42)
def test_an_example_runs(code, names):
    if BACKEND != "tensorflow" and re.search(r"export\(|exports\(|LiteRT|TFFunction|largest_batch\(", code):
        pytest.skip("TensorFlow only: it writes and runs these files")
    exec(compile(code, "an example", "exec"), names)


@pytest.mark.parametrize("text", interactive_examples())
def test_an_interactive_example_prints_what_it_says(text, names):
    if BACKEND != "tensorflow" and re.search(r"export\(|sizes\(|latenc|quantize_aware", text):
        pytest.skip("TensorFlow only: it writes and runs these files")
    test = doctest.DocTestParser().get_doctest(text, names, "an example", None, 0)
    printed = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=printed.append)
    assert not failed, "".join(printed)
