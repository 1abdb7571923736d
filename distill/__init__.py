"""Knowledge distillation and pruning for Keras 3.

You give it a trained teacher, a smaller student, and a loss that compares the two:

    import distill

    distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
    distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(x, y, epochs=10)
    distiller.save("student.keras")

The names you use most are in `distill` itself. Everything else is in a subpackage; its help has examples:

    distill.training      the Distiller, mutual learning, chains of students, several workers, batch sizes
    distill.cache         a teacher's answers on disk, recorded once and then used as the teacher
    distill.losses        every distillation loss, and the base class for your own
    distill.pruning       setting weights to zero; removing channels, heads and layers
    distill.quantization  quantization-aware training for int8
    distill.exports       LiteRT, ONNX and SavedModel files, and their runtimes
    distill.files         loading and saving models and weights, from Keras 3, Keras 2 and tf_keras
    distill.cost          parameters, multiply-adds, memory, file sizes and latency
    distill.data          data sets that need no network connection (needs the `experiments` extra)
    distill.tracking      Weights & Biases, TensorBoard and JSON lines (needs the `experiments` extra)
    distill.studies       comparisons over seeds, with statistics and a report (needs the `experiments` extra)
    distill.command       the `distill` command for model files: `distill inspect`, `distill compare`

The `litert` extra has the runtime of LiteRT files, `onnx` has ONNX, `tfmot` has tfmot's schedules, and `text`
has the text that `distill.data.load_text` reads.
"""

import contextlib
import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from distill import _quiet

# What TensorFlow says when it starts is not about the command; a library leaves it alone.
with _quiet.unheard() if _quiet.is_command() else contextlib.nullcontext():
    import keras  # noqa: F401

# isort: split
from distill import _versions  # noqa: F401  # warns of a Keras that may lack what is imported next

# isort: split
from distill import cache, cost, exports, files, losses, pruning, quantization, training
from distill.exports import export
from distill.files import load_model, load_weights, save_model, save_weights
from distill.losses import AttentionTransfer, BernoulliSoftTargets, Hint, SoftTargets
from distill.training import Distiller, Identified, MutualLearning

if TYPE_CHECKING:
    from distill import data, studies, tracking

__version__ = metadata.version("distill")

__all__ = [
    "AttentionTransfer",
    "BernoulliSoftTargets",
    "Distiller",
    "Hint",
    "Identified",
    "MutualLearning",
    "SoftTargets",
    "cache",
    "cost",
    "data",
    "export",
    "exports",
    "files",
    "load_model",
    "load_weights",
    "losses",
    "pruning",
    "quantization",
    "save_model",
    "save_weights",
    "studies",
    "tracking",
    "training",
]

# Subpackages that need packages of the `experiments` extra are imported on first use.
_ON_DEMAND = ("data", "studies", "tracking")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f"distill.{name}")
    for room in (losses, training):
        if name in room.__all__:
            raise AttributeError(f"distill has no {name!r} of its own. Use {room.__name__}.{name}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
