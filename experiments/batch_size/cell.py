"""What one cell of `experiments.batch_size` does: train a student with one batch size and measure gradient noise."""

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

# Steps between two looks at the clock: as in training, few of them wait for Python.
_TIMED_STEPS = 8


def train(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    """Trains, measures and saves one network; all that is drawn comes from the cell's seed.

    Args:
        surroundings: what the result does not depend on.
        cell: its config is a `Training`.
        directory: where metrics.jsonl and the model are written.

    Returns:
        What `experiments.compare.cell.train` returns; of students also "examples", those of an epoch, and "noise", a
        dictionary for each `experiments.batch_size.noise.Noise`.

    Raises:
        ValueError: the batch is larger than the training split.
    """
    config: Training = cell.config
    if config.teacher is None:
        return comparison.train(surroundings, cell, directory)
    splits = _load(config, surroundings)
    train, dev, test = (data.arrays(split) for split in (splits.train, splits.dev, splits.test))
    if config.batch_size > len(train[0]):
        raise ValueError(
            f"A batch is a part of the training split, here of {len(train[0])} examples. "
            f"Received: batch_size={config.batch_size}. Choose smaller --sizes."
        )
    teacher = keras.models.load_model(directory.parent / config.teacher / "teacher.keras")
    # A worker runs many cells: without this each one is slower than the one before.
    keras.backend.clear_session()
    # From here on all arms of a seed draw the same numbers: the same start, the same order.
    keras.utils.set_random_seed(cell.seed)
    steps = math.ceil(len(train[0]) / config.batch_size)
    model = _compiled(config, splits, teacher, steps)
    network = model if config.temperature is None else model.student
    noise = NoiseScale(*train, epochs=_noted(config.epochs), seed=cell.seed)
    return fit_and_measure(
        model,
        network,
        data.batches(splits.train, config.batch_size, seed=cell.seed),
        cell=cell,
        directory=directory,
        surroundings=surroundings,
        tags=[config.dataset],
        epochs=config.epochs,
        dev_batches=data.batches(splits.dev, 500),
        dev=dev,
        test=test,
        teacher=teacher,
        callbacks=[noise],
        also=lambda: {
            "examples": len(train[0]),
            "noise": [dataclasses.asdict(found) for found in noise.found],
        },
    )


def speeds(
    surroundings: Surroundings, cell: Cell, study_dir: Path, sizes: Sequence[int], rounds: int
) -> list[dict[str, Any]]:
    """Speed and memory of training with each batch size, in a process that does nothing else.

    Args:
        surroundings: where data lie.
        cell: a student; its batch size does not count.
        study_dir: where its teacher is.
        sizes: batch sizes, ascending.
        rounds: see `distill.training.largest_batch`.

    Returns:
        A dictionary for each `distill.training.BatchSize`.
    """
    config: Training = cell.config
    splits = _load(config, surroundings)
    teacher = keras.models.load_model(study_dir / "cells" / str(config.teacher) / "teacher.keras")
    model = _compiled(config, splits, teacher, _TIMED_STEPS)
    found = training.largest_batch(model, splits.train, sizes=sizes, rounds=rounds)
    return [dataclasses.asdict(row) for row in found.rows]


def _load(config: Training, surroundings: Surroundings) -> data.Splits:
    return data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)


def _compiled(
    config: Training, splits: data.Splits, teacher: keras.Model, steps_per_execution: int
) -> keras.Model:
    """The student, or the Distiller that trains it."""
    model = plain_cnn(config.network, splits.input_shape, splits.num_classes)
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


def _noted(epochs: int) -> set[int]:
    """1, 2, 4, 8, … and the last epoch: most happens early."""
    return {2**power for power in range(epochs.bit_length())} | {epochs}
