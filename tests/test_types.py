"""A user's editor knows the types of what a script calls, and marks a misspelt argument."""

import json
import subprocess
import sys

import pytest

from tests.sources import ROOT

SCRIPT = """
import keras
import numpy as np

import distill

x, y = np.zeros((8, 28, 28, 1), "float32"), np.zeros(8, "int64")
teacher = distill.load_model("teacher.keras")
student = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
distiller.fit(x, y, epochs=10)
distiller.save("student.keras")
distill.export(distiller.student, "student.tflite", precision="int8", examples=x)
"""
TYPES = {
    "distiller": "Distiller",
    "distiller.student": "Model",
    "teacher": "Model | InferenceOnly",
    "distill.SoftTargets()": "SoftTargets",
    "distill.losses.DIST()": "DIST",
    "distill.training.largest_batch(distiller, (x, y))": "BatchSizes",
    "distill.pruning.prune(student, 0.5)": "Sparsity",
    "distill.pruning.prune_channels(student, 0.5)": "Model",
    "distill.cost.profile(student)": "Profile",
    "distill.cost.macs(student)": "int",
    "distill.__version__": "str",
}
FAULTS = {
    "distill.Distiller(teacher, student, distill.SoftTargets(), temprature=4.0)": 'No parameter named "temprature"',
    "distill.SoftTargets(temperature='4')": "Argument of type \"Literal['4']\"",
    "distill.export(student, 'student.tflite', precision='int9')": "Argument of type \"Literal['int9']\"",
    "distill.pruning.prune(student, 0.5, layers=['hidden'])": 'No parameter named "layers"',
    "distill.losses.DIST(betta=2.0)": 'No parameter named "betta"',
    "distill.losses.SoftTarget": '"SoftTarget" is not a known attribute',
}


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    """What the language server that editors run says of each line after those of the script."""
    folder = tmp_path_factory.mktemp("user")
    lines = [f"reveal_type({expression})" for expression in TYPES] + list(FAULTS)
    (folder / "script.py").write_text(SCRIPT + "\n".join(lines) + "\n")
    # What a user without settings sees: pyright's own defaults, not the stricter ones of basedpyright.
    settings = {"typeCheckingMode": "standard", "reportUnusedExpression": "none", "extraPaths": [str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "--project", folder], cwd=folder, capture_output=True, text=True, check=False
    )
    by_line = {}
    for diagnostic in json.loads(done.stdout)["generalDiagnostics"]:
        line = diagnostic["range"]["start"]["line"] - SCRIPT.count("\n")
        by_line.setdefault(line, []).append((diagnostic["severity"], diagnostic["message"]))
    return by_line


def test_a_script_has_no_errors(diagnosed):
    assert {line: found for line, found in diagnosed.items() if line < 0} == {}


@pytest.mark.parametrize("expression", TYPES)
def test_types_are_known(expression, diagnosed):
    line = list(TYPES).index(expression)
    assert diagnosed[line] == [("information", f'Type of "{expression}" is "{TYPES[expression]}"')]


@pytest.mark.parametrize("expression", FAULTS)
def test_faults_are_marked(expression, diagnosed):
    ((severity, message),) = diagnosed[len(TYPES) + list(FAULTS).index(expression)]
    assert severity == "error"
    assert FAULTS[expression] in message
