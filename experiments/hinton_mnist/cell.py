"""Runs one cell of the repetition: trains two dense layers, and finds the best bias for a digit that was left out."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

import distill
from distill import data
from distill.studies import Cell, Examples, Surroundings, fit_and_measure, logits
from experiments.hinton_mnist.config import ON_DEV, ON_TEST, TRAINED, Learner, Training

Answers = tuple[NDArray[np.float32], NDArray[np.int64]]  # logits and labels


def train(cell: Cell, directory: Path, *, surroundings: Surroundings) -> dict[str, Any]:
    """Trains, measures and saves one network; everything random follows from the cell's seed.

    Args:
        cell: cell whose config is a `Training`.
        directory: directory for metrics.jsonl and the saved network.
        surroundings: settings that the result does not depend on.

    Returns:
        What `distill.studies.fit_and_measure` returns; also "errors", what `errors_by_bias` returns, and
        "test_examples".
    """
    config: Training = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    dev, test = data.arrays(splits.dev), data.arrays(splits.test)
    x, y = without(config.omitted, data.arrays(splits.train))
    teacher = None
    if config.teacher is not None:
        teacher = keras.models.load_model(directory.parent / config.teacher / "teacher.keras")

    # A worker runs many cells, and would become slower with each.
    keras.backend.clear_session()
    # From here on, all students with the same seed draw the same numbers: initial weights and data order.
    keras.utils.set_random_seed(cell.seed)
    network = model = dense_net(config.learner, input_shape=splits.input_shape, classes=splits.num_classes)
    if teacher is not None:
        loss = distill.SoftTargets(config.temperature)
        model = distill.Distiller(teacher, network, loss, student_loss_weight=config.student_loss_weight)
    steps = math.ceil(len(x) / config.batch_size)
    epochs = config.learner.epochs
    schedule = keras.optimizers.schedules.CosineDecay(config.learner.learning_rate, steps * epochs)
    model.compile(
        keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps,
    )

    def errors() -> dict[str, Any]:
        answers = [(logits(network, images), labels) for images, labels in (dev, test)]
        return {"errors": errors_by_bias(*answers, omitted=config.omitted), "test_examples": len(test[1])}

    return fit_and_measure(
        model,
        network,
        batches((x, y), config.learner, batch_size=config.batch_size, seed=cell.seed),
        cell=cell,
        directory=directory,
        surroundings=surroundings,
        tags=[config.dataset],
        epochs=epochs,
        dev_batches=data.batches(dev, 500),
        dev=dev,
        test=test,
        teacher=teacher,
        file=directory / f"{'teacher' if cell.arm == 'teacher' else 'student'}.keras",
        also=errors,
    )


def dense_net(learner: Learner, *, input_shape: Sequence[int | None], classes: int) -> keras.Model:
    """Builds the network that a `Learner` describes; it returns logits."""
    layers = keras.layers
    model = keras.Sequential([keras.Input(input_shape), layers.Flatten()])
    for _ in range(2):
        model.add(layers.Dense(learner.units, activation="relu"))
        if learner.dropout:
            model.add(layers.Dropout(learner.dropout))
    model.add(layers.Dense(classes))
    return model


def without(digit: int | None, examples: Examples) -> Examples:
    """Leaves out the images and labels of a digit; with `None`, nothing."""
    x, y = examples
    return (x, y) if digit is None else (x[y != digit], y[y != digit])


def batches(examples: Examples, learner: Learner, *, batch_size: int, seed: int) -> tf.data.Dataset:
    """The shuffled batches of an epoch; images are shifted anew in each epoch if the learner has jitter."""
    plain = data.batches(examples, batch_size, seed=seed)
    if not learner.jitter:
        return plain
    keys = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
    shifted = tf.data.Dataset.zip(plain, keys).map(
        lambda xy, key: (jittered(xy[0], pixels=learner.jitter, key=key), xy[1])
    )
    return shifted.prefetch(tf.data.AUTOTUNE)


def jittered(images: tf.Tensor, *, pixels: int, key: ArrayLike) -> tf.Tensor:
    """Shifts each image by whole pixels, vertically and horizontally by −pixels to pixels; empty pixels are 0.

    Args:
        images: images (batch, height, width, channels).
        pixels: largest shift in each direction, >= 0.
        key: two integers from which all shifts are drawn.

    Returns:
        Images of the same shape.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    corners = tf.random.stateless_uniform((2, count, 1), key, 0, 2 * pixels + 1, tf.int32)
    padded = tf.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    rows = tf.gather(padded, corners[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, corners[1] + tf.range(width), axis=2, batch_dims=1)


def errors_by_bias(dev: Answers, test: Answers, *, omitted: int | None) -> dict[str, dict[str, Any]]:
    """Counts the errors of a network as it is and, if a digit was left out, with better biases for its logit.

    Args:
        dev: logits (n, classes) and labels (n,) on dev.
        test: the same on test.
        omitted: the digit that was left out, or `None`.

    Returns:
        By origin of the bias: "bias", the number that is added to the logit, and "dev" and "test", the errors of each
        class.
    """
    biases = {TRAINED: 0.0}
    if omitted is not None:
        biases |= {ON_DEV: best_bias(*dev, digit=omitted), ON_TEST: best_bias(*test, digit=omitted)}
    return {
        name: {"bias": bias, "dev": _errors(*dev, omitted, bias), "test": _errors(*test, omitted, bias)}
        for name, bias in biases.items()
    }


def _errors(
    logits: NDArray[np.float32], labels: NDArray[np.int64], digit: int | None, bias: float
) -> list[int]:
    raised = logits.astype("float64")  # a copy
    if digit is not None:
        raised[:, digit] += bias
    wrong = labels[raised.argmax(axis=1) != labels]
    return np.bincount(wrong, minlength=logits.shape[1]).tolist()


def best_bias(logits: NDArray[np.float32], labels: NDArray[np.int64], *, digit: int) -> float:
    """Finds the number that must be added to a digit's logit for the fewest errors, exactly.

    Args:
        logits: logits (n, classes).
        labels: labels (n,).
        digit: class whose logit changes.

    Returns:
        The bias, the middle one of equals; it never makes more errors than 0 does.
    """
    others = logits.astype("float64")  # a copy
    others[:, digit] = -np.inf
    # With a bias above its margin, an example is taken for the digit.
    margins = others.max(axis=1) - logits[:, digit]
    won = np.sort(margins[labels == digit])
    lost = np.sort(margins[others.argmax(axis=1) == labels])
    edges = np.unique(margins)
    biases = np.sort([0.0, edges[0] - 1, *(edges[1:] + edges[:-1]) / 2, edges[-1] + 1])
    gain = np.searchsorted(won, biases) - np.searchsorted(lost, biases)
    best = biases[gain == gain.max()]
    return float(best[len(best) // 2])
