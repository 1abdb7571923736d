"""What tells an arm's code: what its function does, and what it uses of its own project."""

import functools
import importlib
import linecache
import os
import subprocess
import sys
import types

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
NETS = """
def built():
    return 16


class Unused:
    pass
"""
LATER = """
def late_one():
    return 17
"""
INSTALLED = """
def size():
    return 77
"""
STUDY = """
import dataclasses
import enum
import functools
import logging
import pathlib
import types

import keras
import numpy as np
import tensorflow as tf
import helpers
import packed.nets
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


RECIPES = {"small": (halved, 8), "large": (halved, 64)}
LOSS, SPACE = keras.losses.CategoricalCrossentropy(label_smoothing=0.375), types.SimpleNamespace(rate=0.125)
LAYER = keras.layers.Dense(4)  # whose name counts the layers of a process
ACTIVATION = np.tanh
HERE = pathlib.Path(__file__).parent / "data.npz"


def sized(width):
    return width


SMALL, MIDDLE, LARGE = (functools.partial(sized, width) for width in (8, 16, 16))


def doubled(x):
    return x * 2


class Trainer:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, x):
        return doubled(x)

    @staticmethod
    def still():
        return tripled()

    @property
    def width(self):
        return quadrupled()


def tripled():
    return 3 + 18


def quadrupled():
    return 4 + 19


TRAINER = Trainer(0.75)


@dataclasses.dataclass(frozen=True)
class Skipping:
    skip: frozenset = frozenset({"a", "b", "c", "d", "e"})

    def made(self):
        return 20


SKIPPING = Skipping()


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

    from later import late_one

    logging.getLogger(__name__).info(__file__)
    used = FILE, WORDS, SHIFT, KIND, METHODS, loaded(), step(1)
    more = RECIPES, LOSS, SPACE, LAYER, ACTIVATION, HERE, SMALL, MIDDLE, LARGE, TRAINER, SKIPPING
    more = more, packed.nets.built(), late_one()
    return fit(), fit_again(), Model(), helpers.WIDTH, helpers.DEPTH, late(), size(), used
"""


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """A function that writes a study and what it uses, with a change, and returns the digest of its arm."""
    folders = {"helpers": tmp_path, "installed": tmp_path / ".venv" / "site-packages", "own_study": tmp_path}
    folders |= {"packed.nets": tmp_path, "later": tmp_path}
    folders["installed"].mkdir(parents=True)
    (tmp_path / "packed").mkdir()  # a package without an __init__
    for folder in folders.values():
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest(old="", new=""):
        texts = {
            "helpers": HELPERS,
            "installed": INSTALLED,
            "own_study": STUDY,
            "packed.nets": NETS,
            "later": LATER,
        }
        assert any(old in text for text in texts.values())
        for name, text in texts.items():
            file = folders[name] / f"{name.replace('.', '/')}.py"
            file.write_text(text.replace(old, new) if old else text)
            sys.modules.pop(name, None)
        sys.modules.pop("packed", None)
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
        ("(halved, 64)", "(halved, 32)"),  # beside a function in a container
        ("smoothing=0.375", "smoothing=0.5"),
        ("rate=0.125", "rate=0.25"),
        ("np.tanh", "np.sin"),
        ("(8, 16, 16)", "(8, 8, 16)"),
        ("Trainer(0.75)", "Trainer(0.5)"),
        ("x * 2", "x * 3"),  # through what an object does when it is called
        ("3 + 18", "3 - 18"),  # through a static method
        ("4 + 19", "4 - 19"),  # through a property
        ('"e"})', '"f"})'),
        ("return 20", "return 21"),  # of a dataclass
        ("return 16", "return 15"),  # in a module of a package
        ("return 17", "return 19"),  # in a module that the arm itself imports
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
        ("class Unused:", "class Uncalled:"),
    ],
)
def test_a_change_elsewhere_is_none(old, new, changed):
    assert changed(old, new) == changed()


def test_a_digest_is_the_same_in_another_process_and_another_folder(changed, tmp_path):
    """With another order of sets, under the name of a program, with more layers made before, and moved."""
    here = changed()
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("helpers.py", "own_study.py", "later.py", "packed", ".venv"):
        (tmp_path / name).rename(moved / name)
    program = (
        "import keras, runpy, sys; keras.layers.Dense(1); sys.argv = ['x']\n"
        "from distill.studies._code import code_of\n"
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('__mp_main__', {str(moved / 'x' / '..' / 'own_study.py')!r})\n"
        "module = u.module_from_spec(spec); sys.modules['__mp_main__'] = module; spec.loader.exec_module(module)\n"
        "print(code_of(module.arm))"
    )
    (moved / "x").mkdir()
    path = os.pathsep.join(map(str, (moved, moved / ".venv" / "site-packages")))
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": path}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-600:]
    assert done.stdout.split() == [here]


def test_what_is_typed_in_a_notebook(tmp_path, monkeypatch):
    """Its functions name files that do not exist, and its classes none; helpers lie in the working directory."""
    (tmp_path / "beside_it.py").write_text("def fit():\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    typed = (
        "from beside_it import fit\n\n\nclass Net:\n    def run(self):\n        return fit()\n\n\n"
        "def arm(run):\n    return Net()\n"
    )

    def digest():
        sys.modules.pop("beside_it", None)
        importlib.invalidate_caches()
        linecache.checkcache()
        scope = {"__name__": "__main__"}
        exec(compile(typed, "/tmp/ipykernel_1/2.py", "exec"), scope)
        assert code.file_of(scope["arm"]) is None
        return code_of(scope["arm"])

    before = digest()
    assert digest() == before
    (tmp_path / "beside_it.py").write_text("def fit():\n    return 2\n")
    assert digest() != before
    sys.modules.pop("beside_it", None)


def test_a_method_is_its_function_and_its_object():
    class Trainer:
        def __init__(self, rate):
            self.rate = rate

        def fit(self, run, width=3):
            return run

    assert code_of(Trainer(1).fit) == code_of(Trainer(1).fit) != code_of(Trainer(2).fit)


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
