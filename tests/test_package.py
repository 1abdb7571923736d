"""What importing costs and touches, which way the arrows between rooms point, and what each room shows."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from importlib import metadata

import pytest

import distill
from tests.sources import ROOT, circles, edges, imported, modules, tree

IMPORT = """
import os, sys
before = dict(os.environ)
import keras, tensorflow as tf
loaded_before = set(sys.modules)  # Keras itself imports matplotlib and pandas where they are installed
keras_before = tf.keras.__name__, tf.keras.__version__
import distill
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
assert (tf.keras.__name__, tf.keras.__version__) == keras_before
heavy = ("tensorflow_model_optimization", "tensorflow_datasets", "wandb", "matplotlib", "tf_keras", "scipy", "rich")
loaded = [name for name in (*heavy, "distill.studies") if name in set(sys.modules) - loaded_before]
assert not loaded, loaded
"""


def test_import_brings_no_extras_and_leaves_the_environment_alone():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


# Arrows. A room may import what stands above it here, and no other room of its own line.
LEVELS = (
    {
        "_atomic",
        "_extras",
        "_folding",
        "_graphs",
        "_keras",
        "_models",
        "_quiet",
        "_replicas",
        "_rewriting",
        "_tables",
        "_types",
        "_untouched",
        "_versions",
    },
    {"losses", "files", "data", "tracking", "quantization"},
    {"training", "exports"},
    {"cost", "cache"},
    {"pruning"},
    {"studies"},
    {"command"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# A room is entered by its face. These modules behind one are shared with other rooms all the same.
SHARED = {
    "distill.files._exported",  # what files hold, for `distill inspect`
    "distill.files._stored",
    "distill.losses._base",
    "distill.losses._batch_loss",  # what the Distiller takes
    "distill.losses._sparse",  # what a cache keeps of logits
    "distill.losses._settings",  # numbers and schedules that the Distiller reads
    "distill.quantization._aware",
    "distill.training._answering",  # what a cache records of a teacher, and is to a Distiller
    "distill.training._look_up",
    "distill.training._preparing",
    "distill.training._recorded",
    "distill.training._heads",  # what a model ends in, for `shrink`
}

# Modules that users import by name; every other module of a room begins with an underscore.
PUBLIC = {
    "distill.losses.projectors",
    "distill.pruning.structured.importance",
    "distill.training.launch",
}

MODULES = sorted(modules("distill").keys() - {"distill"})
FACES = sorted(name for name, path in modules("distill").items() if path.name == "__init__.py")


def room_of(module):
    return module.split(".")[1]


def crossings():
    """Pairs of modules, of which the first imports the second out of another room."""
    for module in MODULES:
        for target in edges("distill")[module] - {"distill"}:
            if room_of(module) != room_of(target):
                yield module, target


def test_arrows_between_rooms_point_one_way():
    wrong = [
        f"{module} imports {target}"
        for module, target in crossings()
        if 0 < LEVEL[room_of(target)] >= LEVEL[room_of(module)]  # modules of the base know each other
    ]
    assert wrong == []


def test_other_rooms_are_entered_by_their_faces():
    behind = {
        target: module
        for module, target in crossings()
        if any(part.startswith("_") for part in target.split(".")[2:])
    }
    assert {target: module for target, module in behind.items() if target not in SHARED} == {}
    assert behind.keys() >= SHARED, "no room needs it any more"


def test_private_names_stay_in_their_module():
    taken = [
        f"{module} imports {source}.{name}"
        for module in MODULES
        for source, name in imported(modules("distill")[module])
        if source.startswith("distill.") and (name or "").startswith("_")
        if f"{source}.{name}" not in modules("distill")
    ]
    assert taken == []


@pytest.mark.parametrize("package", ["distill", "experiments"])
def test_no_imports_go_in_a_circle(package):
    assert circles(edges(package)) == set()


def test_no_rooms_go_in_a_circle():
    rooms = {}
    for module, targets in edges("distill").items():
        if module != "distill":
            rooms.setdefault(room_of(module), set()).update(
                room_of(target) for target in targets - {"distill"} if room_of(target) != room_of(module)
            )
    assert circles(rooms) == set()


def test_the_drawing_of_the_house_is_true():
    """CONTRIBUTING.md draws every arrow between rooms, and no other."""
    drawing = re.search(r"```mermaid\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)[1]
    drawn = {
        (source, target)
        for source, targets in re.findall(r"(\w+) --> ([\w &]+)", drawing)
        for target in targets.split(" & ")
    }
    found = {(room_of(module), room_of(target)) for module, target in crossings()}
    assert drawn == {(source, target) for source, target in found if LEVEL[target] > 0}


def test_circles_are_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == {("b", "c")}
    assert circles({"a": {"a"}}) == {("a",)}
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == set()


def test_the_library_imports_nothing_that_is_built_on_it():
    for path in modules("distill").values():
        sources = {source.split(".")[0] for source, _ in imported(path)}
        assert not sources & {"experiments", "scripts", "tests", "tf_keras"}, path


def test_experiments_use_what_is_public():
    for path in modules("experiments").values():
        for source, name in imported(path):
            parts = [*source.split("."), name or ""]
            private = any(part.startswith("_") for part in parts[1:])
            assert parts[0] != "distill" or not private, f"{path} imports {source}.{name}"


def test_no_test_imports_another():
    for path in modules("tests").values():
        for source, name in imported(path):
            parts = [*source.split("."), name or ""]
            assert parts[0] != "tests" or not any(part.startswith("test_") for part in parts), path


@pytest.mark.parametrize("name", ["_report", "_results", "_tables", "_plots", "_statistics"])
def test_reports_read_files_only(name):
    sources = {source for source, _ in imported(modules("distill")[f"distill.studies.{name}"])}
    assert not any(source.split(".")[0] in ("keras", "tensorflow") for source in sources)
    assert all(source.startswith("distill.studies.") for source in sources if source.startswith("distill"))


# Faces.


def test_only_faces_and_modules_for_users_have_public_names():
    public = {module for module in MODULES if not module.split(".")[-1].startswith("_")}
    assert public - set(FACES) == PUBLIC


@pytest.mark.parametrize("name", FACES)
def test_a_face_names_all_that_it_shows(name):
    face = importlib.import_module(name)
    assert len(set(face.__all__)) == len(face.__all__)
    assert all(hasattr(face, exported) for exported in face.__all__)
    body = [node for node in tree(modules("distill")[name]).body if isinstance(node, ast.ImportFrom)]
    shown = {
        alias.asname or alias.name
        for node in body
        for alias in node.names
        if node.module.startswith("distill") and not alias.name.startswith("_")
    }
    assert shown <= set(face.__all__)


@pytest.mark.parametrize("name", FACES)
def test_a_face_says_what_it_is_for_and_shows_an_example(name):
    documented = inspect.getdoc(importlib.import_module(name)) or ""
    summary, *rest = documented.splitlines()
    assert summary.endswith(".")
    assert any("(" in line for line in rest), "no example"


def test_help_is_a_page():
    page = inspect.getdoc(distill).splitlines()
    assert len(page) <= 60
    rooms = {face for face in FACES if face.count(".") == 1}
    assert {room for room in rooms if not any(room in line for line in page)} == set()


def test_the_top_holds_what_is_typed_daily():
    daily = {name for name in distill.__all__ if not inspect.ismodule(getattr(distill, name))}
    assert len(daily) <= 15
    assert {"Distiller", "Identified", "MutualLearning", "SoftTargets", "export", "load_model"} <= daily
    assert distill.Identified is distill.training.Identified
    assert distill.__version__ == metadata.version("distill")


def test_a_name_that_moved_into_a_room_is_said():
    with pytest.raises(AttributeError, match="Use distill.losses.DIST"):
        distill.DIST  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        distill.nothing  # noqa: B018


def public():
    """Every function and class that a face or a module for users exports, once, by its name there."""
    found = {}
    for name in sorted({*FACES, *PUBLIC}):
        module = importlib.import_module(name)
        for exported in getattr(module, "__all__", ()):
            value = getattr(module, exported)
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith(
                "distill"
            ):
                found.setdefault(value, f"{name}.{exported}")
    return found


def example(value):
    """The lines of code in a docstring."""
    documented = inspect.getdoc(value) or ""
    fenced = re.findall(r"```python\n(.*?)```", documented, flags=re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"^ *>>> .*", documented, flags=re.MULTILINE)])


def test_all_that_is_public_is_shown_in_an_example():
    # What a function with an example returns needs none of its own.
    shown = "\n".join(example(value) for value in public())
    returned = " ".join(
        str(inspect.signature(value).return_annotation)
        for value in public()
        if inspect.isfunction(value) and example(value)
    )
    missing = [
        name
        for value, name in public().items()
        if not example(value)
        if not re.search(rf"\b{value.__name__}\b", shown + (returned if inspect.isclass(value) else ""))
    ]
    assert missing == []


def test_all_that_is_public_is_documented():
    missing = [
        name
        for value, name in public().items()
        if not (vars(value)["__doc__"] if inspect.isclass(value) else value.__doc__)
    ]
    assert missing == []
