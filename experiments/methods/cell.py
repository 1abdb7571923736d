"""Runs one cell of the study of methods: trains a small CNN by one method."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import distill
from distill import data, losses, training
from distill.studies import STAGES, Cell, Surroundings
from experiments.methods import schemes
from experiments.methods.config import ENSEMBLE, Learning
from experiments.methods.losses import distiller, loss_of, weight_of
from experiments.methods.task import Task


def train(cell: Cell, directory: Path, *, surroundings: Surroundings) -> dict[str, Any]:
    """Trains, measures and saves one network; everything random follows from the cell's seed.

    Args:
        cell: cell whose config is a `Learning`.
        directory: directory for metrics.jsonl and the saved network, and for the stages of a method that trains
            several networks.
        surroundings: settings that the result does not depend on.

    Returns:
        What `distill.studies.fit_and_measure` returns.
    """
    config: Learning = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    siblings = directory.parent
    teachers = [keras.models.load_model(siblings / name / "teacher.keras") for name in config.teachers]
    # A worker runs many cells, and would become slower with each.
    keras.backend.clear_session()
    task = Task(cell, splits, teachers, directory, surroundings)
    # From here on, all methods with the same seed draw the same numbers: initial weights and data order.
    keras.utils.set_random_seed(cell.seed)
    if config.method == ENSEMBLE:
        return schemes.ensemble(task, siblings / str(config.generations) / STAGES)
    return _learn(task)


def _learn(task: Task) -> dict[str, Any]:
    """Trains by the method that the config names."""
    setting = task.setting
    match task.config.method:
        case "teacher" | "alone":
            return _alone(task, None)
        case "smoothing":
            smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=setting)
            classes = task.splits.num_classes
            return _alone(task, lambda y_true, y_pred: smoothed(_one_hot(y_true, classes), y_pred))
        case "virtual-teacher":
            return _alone(task, losses.VirtualTeacher(weight=setting, from_logits=True))
        case "function-matching":
            model = distill.Distiller(
                task.teachers[0], task.network(), losses.SoftTargets(1.0), student_loss_weight=0
            )
            return _distilled(task, model, data.mixup(task.batches(), seed=task.cell.seed, alpha=setting))
        case "unlabelled":
            loss = losses.SoftTargets(setting)
            model = distill.Distiller(task.teachers[0], task.network(), loss, student_loss_weight=0)
            return _distilled(task, model, task.batches().map(lambda x, _: (x,)))
        case "three-teachers":
            loss = losses.SoftTargets(4.0)
            return _distilled(task, distiller(task.teachers, task.network(), loss, weight=setting))
        case "mutual":
            return schemes.mutual(task)
        case "born-again" | "assistant":
            return schemes.chain(task)
        case "crd":
            _, labels = data.arrays(task.splits.train)
            loss = losses.ContrastiveRepresentation(labels, "embedding", "embedding")
            model = distiller(task.teachers[0], task.network(), loss, weight=setting)
            return _distilled(task, model, _identified(task))
        case _:
            model = distiller(task.teachers[0], task.network(), loss_of(task), weight=weight_of(task))
            return _distilled(task, model)


def _alone(task: Task, loss: Any) -> dict[str, Any]:
    network = task.network()
    task.compile(network, loss)
    return task.finish(network, network, task.batches())


def _distilled(
    task: Task, model: distill.Distiller, batches: tf.data.Dataset | None = None
) -> dict[str, Any]:
    task.compile(model)
    return task.finish(model, model.student, task.batches() if batches is None else batches)


def _identified(task: Task) -> tf.data.Dataset:
    """The batches of an epoch; their inputs carry the number of each example."""
    x, y = data.arrays(task.splits.train)
    examples = (training.Identified(x, np.arange(len(x))), y)
    return data.batches(examples, task.config.batch_size, seed=task.cell.seed)


def _one_hot(labels: tf.Tensor, classes: int) -> tf.Tensor:
    return keras.ops.one_hot(keras.ops.cast(labels, "int32"), classes)
