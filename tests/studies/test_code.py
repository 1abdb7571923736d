"""What tells an arm's code: what its function does, and what it uses of its own project."""

import functools
import importlib
import linecache
import sys

import numpy as np
import pytest

from distill.studies import _code as code
from distill.studies._code import code_of
from tests.studies.tiny import splits, study_of


def test_code_is_told_by_what_it_does():
    def one(run, width=3):
        """Says something."""
        return width + 1  # adds

    before = code_of(one)

    def one(run, width=3):
        return width + 1

    assert code_of(one) == before

    def one(run, width=4):  # a cell's settings are in its config
        return width + 1

    assert code_of(one) == before

    def one(run, width=3):
        return width + 2

    assert code_of(one) != before
    assert code_of(one, splits) != code_of(one, study_of)


def test_what_is_inside_a_function_counts_whole():
    def one(run):
        def rate(step, start=0.1):
            return start * step

        return rate(run)

    before = code_of(one)

    def one(run):
        def rate(step, start=0.2):
            return start * step

        return rate(run)

    assert code_of(one) != before


def test_code_without_a_source_is_told_by_its_constants_and_names():
    def typed(text):
        scope = {}
        exec(text, scope)
        return scope["arm"]

    first = typed("def arm(run):\n    return [run.fit(epochs=20) for _ in range(2)]")
    assert code_of(first) == code_of(
        typed("def arm(run):\n    return [run.fit(epochs=20) for _ in range(2)]")
    )
    assert code_of(first) != code_of(
        typed("def arm(run):\n    return [run.fit(epochs=30) for _ in range(2)]")
    )
    assert code_of(first) != code_of(
        typed("def arm(run):\n    return [run.fits(epochs=20) for _ in range(2)]")
    )


HELPERS = """
import dataclasses
import numpy as np

WIDTH = 8
DEPTH = 5
OTHER = 1


@dataclasses.dataclass(frozen=True)
class Network:
    units: int = 4


class Base:
    def begin(self):
        return 0


class Model(Base):
    def run(self):
        return rate() + self.begin()


def rate(start=0.1):
    # Falls.
    return start * WIDTH


def unused():
    return 1


def declared(tune):
    return lambda function: function
"""
INSTALLED = """
def size():
    return 77
"""
STUDY = """
import enum
import functools
import pathlib

import numpy as np
import tensorflow as tf
import helpers
from helpers import Model, Network, OTHER, declared
from installed import size

EPOCHS, LATE = 30, [1, 2]
NETWORK = Network(units=6)
FILE, WORDS, SHIFT = pathlib.Path("data/first.npz"), {"many", "words"}, np.array([1.0, 2.0])


class Kind(enum.Enum):
    NEAR = 1


KIND = Kind.NEAR


def halved(x):
    return x / 2


METHODS = {"plain": [halved, None], "tensor": SHIFT}


@functools.cache
def loaded():
    return 11


@tf.function
def step(x):
    return x + 12


def fit(epochs=EPOCHS, low=1, high=2):
    return np.zeros(epochs), NETWORK


def fit_again(low=2, high=1):
    return low - high


@declared(tune=(1, 2))
def arm(run, width=3):
    def late():
        return LATE[0]

    used = FILE, WORDS, SHIFT, KIND, METHODS, loaded(), step(1)
    return fit(), fit_again(), Model(), helpers.WIDTH, helpers.DEPTH, late(), size(), used
"""


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """A function that writes a study and what it uses, with a change, and returns the digest of its arm."""
    folders = {"helpers": tmp_path, "installed": tmp_path / ".venv" / "site-packages", "own_study": tmp_path}
    folders["installed"].mkdir(parents=True)
    for folder in folders.values():
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest(old="", new=""):
        assert old in HELPERS + INSTALLED + STUDY
        for name, text in (("helpers", HELPERS), ("installed", INSTALLED), ("own_study", STUDY)):
            (folders[name] / f"{name}.py").write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        linecache.checkcache()
        return code_of(importlib.import_module("own_study").arm)

    yield digest
    for name in folders:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("EPOCHS, LATE = 30", "EPOCHS, LATE = 40"),  # through a default of what the arm calls
        ("np.zeros(epochs)", "np.ones(epochs)"),
        ("(low=2, high=1)", "(low=1, high=2)"),
        ("Network(units=6)", "Network(units=7)"),
        ("WIDTH = 8", "WIDTH = 9"),  # of another module, by its name there and through what a method calls
        ("DEPTH = 5", "DEPTH = 6"),
        ("LATE = 30, [1, 2]", "LATE = 30, [2, 2]"),  # in a function within the arm
        ("start * WIDTH", "start + WIDTH"),
        ("start=0.1", "start=0.2"),
        ("rate() + self", "rate() - self"),
        ("return 0", "return 2"),  # in a base class
        ("first.npz", "second.npz"),
        ('"many", "words"', '"few", "words"'),
        ("[1.0, 2.0]", "[1.0, 3.0]"),
        ("NEAR = 1", "NEAR = 2"),
        ("x / 2", "x / 3"),  # in a container of functions
        ("return 11", "return 13"),  # behind functools.cache
        ("x + 12", "x + 14"),  # behind tf.function
    ],
)
def test_a_change_in_what_an_arm_uses_is_a_change_of_the_arm(old, new, changed):
    assert changed(old, new) != changed() == changed()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Falls.", "# Rises."),
        ("OTHER = 1", "OTHER = 2"),
        ("return 1\n", "return 5\n"),  # in a function that nobody calls
        ("width=3", "width=4"),  # a setting, which is in the config of a cell
        ("tune=(1, 2)", "tune=(1, 3)"),  # so are those that were tried
        ("return 77", "return 78"),  # in a package that is installed below the study's folder
    ],
)
def test_a_change_elsewhere_is_none(old, new, changed):
    assert changed(old, new) == changed()


def test_partials_closures_and_what_has_no_text():
    def scaled(factor):
        def arm(run):
            return run * factor

        return arm

    assert code_of(scaled(2)) == code_of(scaled(2)) != code_of(scaled(3))
    double, triple = (functools.partial(np.multiply, factor) for factor in (2, 3))
    assert code_of(double) == code_of(functools.partial(np.multiply, 2)) != code_of(triple)
    assert code_of(scaled(object())) == code_of(scaled(object()))  # of which nothing is known but its address


def test_a_memo_that_fills_up_changes_nothing():
    memo, round_trip = {}, []
    memo["self"] = memo

    def arm(run):
        return memo, round_trip

    before = code_of(arm)
    memo[3] = np.ones(4)
    assert code_of(arm) == before


def test_a_digest_is_the_same_under_another_python(monkeypatch):
    """3.12 adds a field to functions; 3.13 leaves empty ones out unless asked."""

    def one(run):
        return run

    before = code_of(one)
    dump = code.ast.dump
    code._source.cache_clear()
    monkeypatch.setattr(
        code.ast,
        "dump",
        lambda tree: dump(tree).replace("decorator_list=[]", "decorator_list=[], type_params=[]"),
    )
    assert code_of(one) == before
    code._source.cache_clear()
