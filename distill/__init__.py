"""Knowledge distillation and pruning for Keras 3.

A trained teacher, a smaller student, and the loss between them:

    import distill

    distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
    distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    distiller.fit(x, y, epochs=10)
    distiller.save("student.keras")

What is used daily is here. The rest is in rooms, and each room's own help says what it is for:

    distill.training      who learns from whom: several teachers, networks in turn, several workers, batch sizes
    distill.losses        every distillation loss, and what a loss of your own needs
    distill.pruning       weights set to zero; channels, heads and layers removed
    distill.quantization  students that learn while they are rounded to int8
    distill.exports       files for LiteRT, ONNX and TensorFlow, and what runs them
    distill.files         models and weights from whatever wrote them
    distill.cost          parameters, multiply-adds, memory, bytes and latency
    distill.data          data sets that need no network (needs the `experiments` extra)
    distill.tracking      Weights & Biases, TensorBoard and JSON lines (needs the `experiments` extra)
    distill.studies       honest comparisons of models over seeds: cells, statistics, tables, reports (needs the extra)
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from distill import exports, files, losses, pruning, quantization, training
from distill.exports import export
from distill.files import load_model, load_weights, save_model, save_weights
from distill.losses import AttentionTransfer, BernoulliSoftTargets, Hint, SoftTargets
from distill.training import Distiller, MutualLearning

if TYPE_CHECKING:
    from distill import cost, data, studies, tracking

__version__ = metadata.version("distill")

__all__ = [
    "AttentionTransfer",
    "BernoulliSoftTargets",
    "Distiller",
    "Hint",
    "MutualLearning",
    "SoftTargets",
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

# Rooms that are imported when they are first asked for: they need packages of the `experiments` extra.
_ON_DEMAND = ("cost", "data", "studies", "tracking")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f"distill.{name}")
    for room in (losses, training):
        if name in room.__all__:
            raise AttributeError(f"distill has no {name!r} of its own. Use {room.__name__}.{name}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
