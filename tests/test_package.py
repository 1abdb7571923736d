"""What importing costs and touches, and which way the arrows between modules point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

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
loaded = [name for name in heavy if name in set(sys.modules) - loaded_before]
assert not loaded, loaded
"""


def test_import_brings_no_extras_and_leaves_the_environment_alone():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


# Who may import whom.
ALLOWED = {
    "settings": set(),
    "outputs": set(),
    "replicas": set(),
    "multiworker": set(),
    "losses.base": {"settings"},
    "losses.logits": {"losses.base", "settings"},
    "losses.outputs": {"losses.base"},
    "losses.divergences": {"losses.base", "losses.logits", "settings"},
    "projectors": set(),
    "losses.stages": {"losses.base"},
    "losses.features": {"losses.base", "losses.stages", "projectors", "settings"},
    "losses.relations": {"losses.base", "settings"},
    "losses.contrastive": {"losses.relations", "projectors", "settings"},
    "losses.virtual_teacher": {"settings"},
    "identified": set(),
    "losses": {
        "losses.features",
        "losses.base",
        "losses.contrastive",
        "losses.divergences",
        "losses.logits",
        "losses.outputs",
        "losses.relations",
        "losses.virtual_teacher",
    },
    "graphs": {"losses.base", "outputs", "quantized_layers"},
    "taps": {"graphs", "losses.base", "outputs"},
    "teacher": {"taps"},
    "arguments": {"losses.base", "outputs", "settings"},
    "objective": {"losses.base", "outputs", "replicas", "settings", "taps"},
    "distiller": {
        "arguments",
        "files.saving",
        "graphs",
        "identified",
        "losses.base",
        "multiworker",
        "objective",
        "outputs",
        "replicas",
        "settings",
        "taps",
        "teacher",
    },
    "schemes": {
        "arguments",
        "distiller",
        "files.saving",
        "graphs",
        "losses.base",
        "losses.logits",
        "replicas",
        "teacher",
    },
    "pruning.kernels": set(),
    "pruning.structured.labels": set(),
    "pruning.structured.structure": {"pruning.structured.labels"},
    "pruning.structured.costs": {"cost.calls", "pruning.structured.structure"},
    "pruning.structured.sequence_rules": {
        "pruning.structured.labels",
        "pruning.structured.structure",
        "pruning.structured.tracing",
        "pruning.structured.tying",
    },
    "pruning.structured.tracing": {"graphs", "pruning.structured.labels", "pruning.structured.structure"},
    "pruning.structured.tying": {
        "pruning.structured.labels",
        "pruning.structured.structure",
        "pruning.structured.tracing",
    },
    "pruning.structured.layer_rules": {
        "pruning.structured.labels",
        "pruning.structured.sequence_rules",
        "pruning.structured.structure",
        "pruning.structured.tracing",
        "pruning.structured.tying",
    },
    "pruning.structured.operation_rules": {
        "pruning.structured.labels",
        "pruning.structured.tracing",
        "pruning.structured.tying",
    },
    "pruning.structured.configs": set(),
    "pruning.structured.compiling": {"pruning.structured.configs"},
    "pruning.structured.rebuild": {
        "graphs",
        "pruning.structured.configs",
        "pruning.structured.labels",
        "pruning.structured.structure",
    },
    "pruning.structured.verification": {
        "graphs",
        "pruning.structured.labels",
        "pruning.structured.rebuild",
        "pruning.structured.running",
        "pruning.structured.structure",
        "pruning.structured.tracing",
    },
    "pruning.structured.groups": {"pruning.structured.structure"},
    "pruning.structured.running": {"graphs", "pruning.structured.structure"},
    "pruning.structured.importance": {
        "pruning.criteria.batches",
        "pruning.criteria.weights",
        "pruning.kernels",
        "pruning.structured.groups",
        "pruning.structured.operation_rules",
        "pruning.structured.running",
        "pruning.structured.structure",
    },
    "pruning.structured.selection": {
        "pruning.structured.costs",
        "pruning.structured.groups",
        "pruning.structured.structure",
    },
    "pruning.structured.hub_rules": {
        "pruning.structured.labels",
        "pruning.structured.tracing",
        "pruning.structured.tying",
    },
    "pruning.structured.rules": {
        "pruning.structured.hub_rules",
        "pruning.structured.layer_rules",
        "pruning.structured.operation_rules",
        "pruning.structured.tracing",
    },
    "pruning.structured.explanation": {
        "pruning.structured.groups",
        "pruning.structured.rules",
        "pruning.structured.tracing",
        "tables",
    },
    "pruning.structured.channels": {
        "cost.timing",
        "pruning.kernels",
        "pruning.patterns",
        "pruning.structured.compiling",
        "pruning.structured.costs",
        "pruning.structured.groups",
        "pruning.structured.importance",
        "pruning.structured.rebuild",
        "pruning.structured.rules",
        "pruning.structured.selection",
        "pruning.structured.structure",
        "pruning.structured.tracing",
        "pruning.structured.verification",
    },
    "pruning.structured": {
        "pruning.structured",
        "pruning.structured.channels",
        "pruning.structured.depth",
        "pruning.structured.explanation",
        "pruning.structured.recovery",
        "pruning.structured.tracing",
        "pruning.structured.verification",
    },
    "pruning.structured.recovery": {
        "distiller",
        "losses.logits",
        "pruning.patterns",
        "pruning.structured.channels",
        "pruning.structured.importance",
        "pruning.structured.rebuild",
        "pruning.structured.rules",
        "pruning.structured.tracing",
    },
    "pruning.structured.depth": {
        "graphs",
        "pruning.criteria.batches",
        "pruning.patterns",
        "pruning.structured.compiling",
        "pruning.structured.operation_rules",
        "pruning.structured.rebuild",
        "pruning.structured.rules",
        "pruning.structured.tracing",
    },
    "pruning.patterns": {"pruning.kernels"},
    "pruning.sparsity": {"pruning.kernels"},
    "pruning.criteria.batches": set(),
    "pruning.criteria.weights": {"pruning.kernels"},
    "pruning.criteria.differentiation": {"pruning.criteria.batches", "pruning.kernels"},
    "pruning.criteria.gradients": {
        "pruning.criteria.batches",
        "pruning.criteria.differentiation",
        "pruning.criteria.weights",
        "pruning.kernels",
    },
    "pruning.criteria.curvature": {
        "pruning.criteria.batches",
        "pruning.criteria.differentiation",
        "pruning.criteria.weights",
        "pruning.kernels",
        "pruning.patterns",
    },
    "pruning.criteria.activations": {
        "pruning.criteria.batches",
        "pruning.criteria.weights",
        "pruning.kernels",
    },
    "pruning.criteria": {
        "pruning.criteria.activations",
        "pruning.criteria.curvature",
        "pruning.criteria.gradients",
        "pruning.criteria.weights",
    },
    "pruning.masks": {
        "distiller",
        "pruning.criteria",
        "pruning.criteria.weights",
        "pruning.kernels",
        "pruning.patterns",
        "pruning.sparsity",
        "replicas",
    },
    "pruning.callbacks": {
        "pruning.criteria.weights",
        "pruning.kernels",
        "pruning.masks",
        "pruning.patterns",
        "pruning.sparsity",
        "replicas",
    },
    "pruning.dynamic": {
        "pruning.callbacks",
        "pruning.criteria.weights",
        "pruning.kernels",
        "pruning.masks",
        "pruning.patterns",
    },
    "pruning.rewinding": {
        "pruning.criteria.weights",
        "pruning.kernels",
        "pruning.masks",
        "pruning.patterns",
        "pruning.sparsity",
    },
    "pruning.tfmot_names": {"pruning.callbacks", "pruning.kernels", "pruning.masks", "pruning.patterns"},
    "pruning": {
        "pruning",  # its module criteria
        "pruning.callbacks",
        "pruning.dynamic",
        "pruning.kernels",
        "pruning.masks",
        "pruning.patterns",
        "pruning.rewinding",
        "pruning.sparsity",
        "pruning.structured",
        "pruning.tfmot_names",
    },
    "files.atomic": set(),
    "files.bounds": set(),
    "files.parts": set(),
    "files.legacy": set(),
    "files.saved_model": set(),
    "files.saving": {"files.atomic"},
    "files.archive": {"files.bounds"},
    "files.hdf5": {"files.bounds", "files.parts"},
    "files.fitting": {"files.parts", "tables"},
    "files.stored": {"files", "files.legacy", "files.parts"},  # archive and hdf5
    "files.safety": {"files.bounds", "files.legacy"},
    "files.settings": {"files.fitting", "files.legacy"},
    "files.architectures": {"files.bounds", "files.legacy", "files.stored"},
    "files.presets": {
        "files",  # hdf5
        "files.architectures",
        "files.fitting",
        "files.legacy",
        "files.parts",
        "files.safety",
        "files.stored",
    },
    "files.loading": {
        "files",  # saved_model
        "files.architectures",
        "files.bounds",
        "files.fitting",
        "files.parts",
        "files.presets",
        "files.safety",
        "files.stored",
    },
    "files.weights": {
        "files.architectures",
        "files.fitting",
        "files.parts",
        "files.settings",
        "files.stored",
    },
    "files": {
        "files.fitting",
        "files.loading",
        "files.saved_model",
        "files.saving",
        "files.weights",
    },
    "cost.hub": set(),
    "cost.products": {"cost.hub"},
    "cost.following": set(),
    "cost.calls": {"cost.following", "cost.products", "graphs"},
    "cost.memory": {"cost.calls", "cost.products"},
    "cost.storage": {"exporting", "graphs"},
    "cost.timing": {"cost.products", "cost.storage"},
    "cost.layers": {"cost.calls", "cost.memory"},
    "cost.profiling": {
        "cost.calls",
        "cost.layers",
        "cost.memory",
        "cost.storage",
        "cost.timing",
        "tables",
    },
    "cost": {
        "cost.calls",
        "cost.layers",
        "cost.memory",
        "cost.profiling",
        "cost.storage",
        "cost.timing",
    },
    "tables": set(),
    "quantized_layers": set(),
    "rewriting": {"graphs"},
    "rounding": {"graphs", "quantized_layers", "rewriting"},
    "quantization": {"graphs", "quantized_layers", "rewriting", "rounding"},
    "exporting": {"files.atomic", "graphs", "quantization"},
    "runtimes": set(),
    "export_check": {"cost", "exporting", "runtimes", "tables"},
    "tuning": set(),
    "data": {"embedded"},
    "embedded": set(),
    "tracking": {"wandb_process"},
    "wandb_process": set(),
    "__init__": {
        "distiller",
        "export_check",
        "exporting",
        "files",
        "identified",
        "losses",
        "multiworker",
        "pruning",
        "quantization",
        "schemes",
        "teacher",
    },
}


def module_of(path):
    parts = path.relative_to(ROOT / "distill").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path):
    """The modules of distill that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "distill":
            inside = node.module.removeprefix("distill").lstrip(".")
            found |= {inside} if inside else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("distill.") for a in node.names if a.name.startswith("distill.")}
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "distill").rglob("*.py")), ids=module_of)
def test_arrows_point_one_way(path):
    assert imports(path) <= ALLOWED.get(module_of(path), set())


def test_the_library_knows_nothing_of_experiments_and_scripts():
    for path in (ROOT / "distill").rglob("*.py"):
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else []
            )
        }
        assert not names & {"experiments", "scripts", "tests", "tf_keras"}, path


def test_report_reads_files_only():
    for name in ("report", "results", "tables", "plots", "statistics"):
        path = ROOT / "experiments" / f"{name}.py"
        text = path.read_text()
        assert "import keras" not in text
        assert "import tensorflow" not in text
        assert not imports(path)
