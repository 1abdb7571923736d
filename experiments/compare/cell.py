"""Runs one cell of the comparison: trains a small CNN, alone or with a teacher, or exports one to int8."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import distill
from distill import data, pruning
from distill.exports import Exported
from distill.studies import Cell, Examples, Surroundings, costs, fit_and_measure, logits, measure
from experiments._networks import plain_cnn
from experiments.compare.config import Training

RANGES = 300  # number of training images for measuring the ranges of an int8 file


def train(cell: Cell, directory: Path, *, surroundings: Surroundings) -> dict[str, Any]:
    """Trains, measures and saves one network; everything random follows from the cell's seed.

    Args:
        cell: cell whose config is a `Training`.
        directory: directory for metrics.jsonl and the saved network.
        surroundings: settings that the result does not depend on.

    Returns:
        What `distill.studies.fit_and_measure` returns.
    """
    config: Training = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    images, labels = data.arrays(splits.train)
    dev, test = data.arrays(splits.dev), data.arrays(splits.test)
    teacher = None
    if config.teacher is not None:
        teacher = keras.models.load_model(directory.parent / config.teacher / "teacher.keras")
    if config.int8_of is not None:
        source = directory.parent / config.int8_of
        return _export_int8(source, directory, teacher=teacher, examples=images[:RANGES], dev=dev, test=test)

    # A worker runs many cells, and would become slower with each.
    keras.backend.clear_session()
    # From here on, all arms with the same seed draw the same numbers: initial weights and data order.
    keras.utils.set_random_seed(cell.seed)
    network = _initial(config, teacher, splits, images)
    callbacks = []
    steps = math.ceil(len(images) / config.batch_size)
    ramp = config.epochs // 2
    if config.sparsity:
        # Masks are updated once per epoch, which is how often Keras calls callbacks here.
        schedule = pruning.PolynomialDecay(0.0, config.sparsity, 0, ramp * steps, frequency=steps)
        callbacks.append(pruning.GradualPruning(schedule, scope="global"))
    model = network
    if config.temperature is not None:
        model = distill.Distiller(
            teacher,
            network,
            distill.SoftTargets(config.temperature),
            student_loss_weight=config.student_loss_weight,
        )
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps * config.epochs)
    model.compile(
        keras.optimizers.Adam(rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps,
    )
    return fit_and_measure(
        model,
        network,
        _training_batches(config, cell.seed, (images, labels), teacher, splits.num_classes),
        cell=cell,
        directory=directory,
        surroundings=surroundings,
        tags=[config.dataset],
        epochs=config.epochs,
        dev_batches=data.batches((dev[0], _one_hot(dev[1], splits.num_classes)), 500),
        dev=dev,
        test=test,
        teacher=teacher,
        callbacks=callbacks,
        first_epoch=ramp if config.sparsity else 0,
    )


def _export_int8(
    source: Path,
    directory: Path,
    *,
    teacher: keras.Model | None,
    examples: NDArray[np.float32],
    dev: Examples,
    test: Examples,
) -> dict[str, Any]:
    """Exports a finished cell's network to int8, and measures the file in LiteRT; nothing is trained."""
    network = keras.models.load_model(source / ("teacher.keras" if teacher is None else "student.keras"))
    file = distill.export(network, directory / "int8.tflite", precision="int8", examples=examples)
    exported = Exported(file)
    # A teacher has no teacher: its int8 file is compared with the network itself.
    scores = measure(lambda x, training: exported.predict(x), dev=dev, test=test, teacher=teacher or network)
    (directory / "metrics.jsonl").touch()
    return {
        "epochs": 0,
        "selected_epoch": 0,
        **{split: {"last": scores[split], "selected": scores[split]} for split in ("dev", "test")},
        "cost": costs(network, file),
    }


def _initial(
    config: Training, teacher: keras.Model | None, splits: data.Splits, images: NDArray[np.float32]
) -> keras.Model:
    """The network before its training: a new one, a copy of the teacher, or what remains of the teacher."""
    if config.macs < 1:
        return pruning.prune_channels(teacher, macs=config.macs)
    if config.layers:
        return pruning.prune_layers(teacher, config.layers, pruning.output_change(teacher, images[:500]))
    network = plain_cnn(config.network, input_shape=splits.input_shape, classes=splits.num_classes)
    if config.sparsity:
        network.set_weights(teacher.get_weights())
    return network


def _training_batches(
    config: Training, seed: int, examples: Examples, teacher: keras.Model | None, classes: int
) -> tf.data.Dataset:
    """The batches of an epoch, equally many in every arm; with few labels, the labelled examples are repeated."""
    x, y = examples
    seen = np.arange(len(x)) if config.labels is None else _seen(y, config.labels, seed)
    if config.temperature is not None and config.student_loss_weight == 0:
        labelled = data.batches((x, _one_hot(y, classes)), config.batch_size, seed=seed)
        return labelled.map(lambda images, _: images)
    if config.pseudo_labels:
        answers = logits(teacher, x).argmax(axis=1)
        answers[seen] = y[seen]
        targets = _one_hot(answers, classes)
    else:
        again = np.resize(seen, len(x))
        x, targets = x[again], _one_hot(y[again], classes)
    smooth = (1 - config.label_smoothing) * targets + config.label_smoothing / classes
    return data.batches((x, smooth), config.batch_size, seed=seed)


def _seen(y: NDArray[np.int64], labels: int, seed: int) -> NDArray[np.int64]:
    """Indices of the examples whose labels may be seen, drawn by seed, equally many of each class."""
    classes = np.unique(y)
    each = labels // len(classes)
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(y == label))[:each] for label in classes])


def _one_hot(y: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    return np.eye(classes, dtype="float32")[y]
