"""Runs one cell of the batch-size study: trains a student with one batch size, and measures its gradient noise."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

import distill
from distill import data, training
from distill.studies import Cell, Surroundings, fit_and_measure
from experiments._networks import plain_cnn
from experiments.batch_size.noise import NoiseScale
from experiments.compare import cell as comparison
from experiments.compare.config import Training

# Steps between two looks at the clock. As in training, only few steps wait for Python.
_TIMED_STEPS = 8


def train(cell: Cell, directory: Path, *, surroundings: Surroundings) -> dict[str, Any]:
    """Trains, measures and saves one network; everything random follows from the cell's seed.

    Args:
        cell: cell whose config is a `Training`. Without a teacher, it is trained as in `experiments.compare`.
        directory: directory for metrics.jsonl and the saved network.
        surroundings: settings that the result does not depend on.

    Returns:
        What `distill.studies.fit_and_measure` returns; for students also "examples", the number in an epoch, and
        "noise", a dictionary for each `experiments.batch_size.noise.Noise`.

    Raises:
        ValueError: the batch is larger than the training split.
    """
    config: Training = cell.config
    if config.teacher is None:
        return comparison.train(cell, directory, surroundings=surroundings)
    splits = _load(config, surroundings)
    (images, labels), dev = data.arrays(splits.train), data.arrays(splits.dev)
    if config.batch_size > len(images):
        raise ValueError(
            f"A batch must not be larger than the training split, which has {len(images)} examples. "
            f"Received: batch_size={config.batch_size}. Choose smaller --sizes."
        )
    teacher = keras.models.load_model(directory.parent / config.teacher / "teacher.keras")
    # A worker runs many cells, and would become slower with each.
    keras.backend.clear_session()
    # From here on, all arms with the same seed draw the same numbers: initial weights and data order.
    keras.utils.set_random_seed(cell.seed)
    steps = math.ceil(len(images) / config.batch_size)
    model = _compiled(config, splits, teacher, steps_per_execution=steps)
    network = model if config.temperature is None else model.student
    noise = NoiseScale(images, labels, epochs=_measured_epochs(config.epochs), seed=cell.seed)
    return fit_and_measure(
        model,
        network,
        data.batches((images, labels), config.batch_size, seed=cell.seed),
        cell=cell,
        directory=directory,
        surroundings=surroundings,
        tags=[config.dataset],
        epochs=config.epochs,
        dev_batches=data.batches(dev, 500),
        dev=dev,
        test=data.arrays(splits.test),
        teacher=teacher,
        callbacks=[noise],
        also=lambda: {"examples": len(images), "noise": [dataclasses.asdict(one) for one in noise.found]},
    )


def speeds(
    cell: Cell, study_dir: Path, *, surroundings: Surroundings, sizes: Sequence[int], runs: int
) -> list[dict[str, Any]]:
    """Measures speed and memory of training with each batch size; run it in a process that does nothing else.

    Args:
        cell: cell of a student; its own batch size is ignored.
        study_dir: directory of the study, which holds the student's teacher.
        surroundings: settings that say where data sets are.
        sizes: batch sizes, ascending.
        runs: number of timed runs of each size.

    Returns:
        A dictionary for each `distill.training.BatchSize`.
    """
    config: Training = cell.config
    splits = _load(config, surroundings)
    teacher = keras.models.load_model(study_dir / "cells" / str(config.teacher) / "teacher.keras")
    model = _compiled(config, splits, teacher, steps_per_execution=_TIMED_STEPS)
    found = training.largest_batch(model, splits.train, sizes=sizes, runs=runs)
    return [dataclasses.asdict(row) for row in found.rows]


def _load(config: Training, surroundings: Surroundings) -> data.Splits:
    return data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)


def _compiled(
    config: Training, splits: data.Splits, teacher: keras.Model, *, steps_per_execution: int
) -> keras.Model:
    """The student, or the Distiller that trains it."""
    model = plain_cnn(config.network, input_shape=splits.input_shape, classes=splits.num_classes)
    if config.temperature is not None:
        loss = distill.SoftTargets(config.temperature)
        model = distill.Distiller(teacher, model, loss, student_loss_weight=config.student_loss_weight)
    steps = math.ceil(int(splits.train.cardinality()) / config.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps * config.epochs)
    model.compile(
        keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    return model


def _measured_epochs(epochs: int) -> set[int]:
    """1, 2, 4, 8, … and the last epoch, since most changes happen early."""
    return {2**power for power in range(epochs.bit_length())} | {epochs}
