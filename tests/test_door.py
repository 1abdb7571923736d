"""What Keras keeps to itself is reached through distill/_keras.py alone.

A name is private to Keras if Keras defines it, as a function or as an attribute. Sources are read, not run.
"""

import ast
import importlib
from functools import cache
from pathlib import Path

import keras
import pytest

from tests.sources import modules, tree

DOOR = "distill._keras"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def defined_by(owner):
    """The private names that a class's source defines: methods, and attributes of itself that it sets."""
    methods = {node.name for node in owner.body if isinstance(node, FUNCTIONS)}
    fields = {node.target.id for node in owner.body if isinstance(node, ast.AnnAssign)}
    attributes = {
        node.attr
        for node in ast.walk(owner)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_self(node)
    }
    return {name for name in methods | fields | attributes if is_private(name)}


def of_self(node):
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def classes(source):
    return [node for node in ast.walk(source) if isinstance(node, ast.ClassDef)]


@cache
def names_of_keras():
    """The private names of Keras: all of them, and by module and name of a class those that it defines."""
    root = Path(keras.__file__).parent
    everywhere, by_class = set(), {}
    for path in (root / "src").rglob("*.py"):
        if path.name.endswith("_test.py"):
            continue
        module = ".".join(("keras", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                by_class[module, node.name] = defined_by(node)
            elif isinstance(node, FUNCTIONS):
                everywhere.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                everywhere.add(node.attr)  # one object's on another too: tensor._keras_history = ...
    return {name for name in everywhere if is_private(name)}, by_class


def inherited(owner, space):
    """The private names that a class has from bases of Keras; a base that is known only to a running function: none."""
    bases = []
    for base in owner.bases:
        try:
            bases.append(eval(ast.unparse(base), dict(space)))
        except NameError:
            continue
    ancestors = [ancestor for base in bases if isinstance(base, type) for ancestor in base.__mro__]
    by_class = names_of_keras()[1]
    return set().union(*(by_class.get((one.__module__, one.__name__), ()) for one in ancestors))


def faults(source, space):
    """What a module reads or overrides of what is private to Keras, by line."""
    of_keras, _ = names_of_keras()
    own = set().union(*map(defined_by, classes(source)))
    found = []
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            found += [
                (node.lineno, alias.name) for alias in node.names if f"{alias.name}.".startswith("keras.src.")
            ]
        elif isinstance(node, ast.ImportFrom):
            taken = [f"{node.module}.{alias.name}" for alias in node.names]
            private = [name for name in taken if name.startswith(("keras.src", "keras._"))]
            found += [(node.lineno, name) for name in private]
        elif isinstance(node, ast.Attribute):
            named = ast.unparse(node)
            if named == "keras.src" or (node.attr in of_keras and node.attr not in own):
                found.append((node.lineno, named))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
                named = ast.literal_eval(node.args[1]) if isinstance(node.args[1], ast.Constant) else ""
                found += [(node.lineno, named)] * (named in of_keras - own)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if ast.unparse(node.value).startswith("vars(") or ast.unparse(node.value).endswith(".__dict__"):
                found += [(node.lineno, node.slice.value)] * (node.slice.value in of_keras - own)
        elif isinstance(node, ast.Constant) and f"{node.value}.".startswith("keras.src."):
            found.append((node.lineno, node.value))
        elif isinstance(node, ast.ClassDef) and (names := inherited(node, space)):
            found += [
                (inner.lineno, f"{node.name}.{name}")
                for inner in ast.walk(node)
                if (isinstance(inner, FUNCTIONS) and (name := inner.name) in names)
                or (isinstance(inner, ast.Attribute) and of_self(inner) and (name := inner.attr) in names)
            ]
    return sorted(set(found))


MODULES = [(name, path) for package in ("distill", "experiments") for name, path in modules(package).items()]


@pytest.mark.parametrize(
    ("name", "path"), [pytest.param(*one, id=one[0]) for one in MODULES if one[0] != DOOR]
)
def test_only_the_door_knows_what_is_private_to_keras(name, path):
    # A module that runs when it is imported is read with an empty name space.
    space = {} if name.endswith("__main__") else vars(importlib.import_module(name))
    assert faults(tree(path), space) == []


MUTANTS = {
    "from keras.src.ops import nn": "keras.src.ops.nn",
    "from keras import src": "keras.src",
    "import keras.src.ops": "keras.src.ops",
    "import keras\nkeras.src.ops": "keras.src",
    "import importlib\nimportlib.import_module('keras.src')": "keras.src",
    "def f(layer):\n    return layer._inbound_nodes": "layer._inbound_nodes",
    "def f(tensor):\n    return tensor._keras_history[0]": "tensor._keras_history",
    "def f(model):\n    model._compile_loss = None": "model._compile_loss",
    "def f(layer):\n    return getattr(layer, '_kernel')": "_kernel",
    "def f(layer):\n    return vars(layer)['_kernel']": "_kernel",
    "class A:\n    def f(self):\n        return self._functional": "self._functional",
    "class A(keras.Layer):\n    def _maybe_build(self, call_spec): ...": "A._maybe_build",
    "class A(keras.Layer):\n    def f(self):\n        self._losses = []": "A._losses",
    "class A(keras.layers.TFSMLayer):\n    def f(self):\n        self._reloaded_obj = 1": "A._reloaded_obj",
}


@pytest.mark.parametrize(("source", "named"), MUTANTS.items(), ids=MUTANTS.values())
def test_what_is_private_is_seen(source, named):
    assert named in [what for _, what in faults(ast.parse(source), {"keras": keras})]


def test_names_of_ones_own_are_free():
    source = """
class Own:
    def __init__(self, layer):
        self._losses = layer.losses

    def f(self):
        return self._losses, self._mine, layer._mine
"""
    assert faults(ast.parse(source), {"keras": keras}) == []


def test_every_function_of_the_door_is_used_and_says_why():
    source = tree(modules("distill")[DOOR])
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else node.name
        for path in modules("distill").values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute | ast.Name | ast.alias)
    }
    for node in source.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            assert ast.get_docstring(node), node.name
            assert node.name in used, f"{node.name} is not used"
