"""What one cell of `experiments.hinton_mnist` does: train two dense layers, and find the bias of an unseen digit."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

import distill
from distill import data
from distill.studies import Cell, Surroundings, fit_and_measure, logits
from experiments.hinton_mnist.config import ON_DEV, ON_TEST, TRAINED, Learner, Training

Answers = tuple[NDArray[np.float32], NDArray[np.int64]]  # logits and labels


def train(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    """Trains, measures and saves one network; all that is drawn comes from the cell's seed.

    Args:
        surroundings: what the result does not depend on.
        cell: its config is a `Training`.
        directory: where metrics.jsonl and the model are written.

    Returns:
        The content of result.json: what `distill.studies.read` reads, and under "errors" what
        `errors_by_bias` returns.
    """
    config: Training = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    (x, y), dev, test = (data.arrays(split) for split in (splits.train, splits.dev, splits.test))
    x, y = without(config.omitted, x, y)
    teacher = None
    if config.teacher is not None:
        teacher = keras.models.load_model(directory.parent / config.teacher / "teacher.keras")

    # A worker runs many cells: without this each one is slower than the one before.
    keras.backend.clear_session()
    # From here on all students of a seed draw the same numbers: the same start, the same order.
    keras.utils.set_random_seed(cell.seed)
    network = model = build(config.learner, splits.input_shape, splits.num_classes)
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
        return {"errors": errors_by_bias(*answers, config.omitted), "test_examples": len(test[1])}

    return fit_and_measure(
        model,
        network,
        batches(x, y, config.learner, config.batch_size, cell.seed),
        cell=cell,
        directory=directory,
        surroundings=surroundings,
        tags=[config.dataset],
        epochs=epochs,
        dev_batches=data.batches(splits.dev, 500),
        dev=dev,
        test=test,
        teacher=teacher,
        file=directory / f"{'teacher' if cell.arm == 'teacher' else 'student'}.keras",
        also=errors,
    )


def build(learner: Learner, input_shape: tuple[int | None, ...], classes: int) -> keras.Model:
    """The network that `Learner` describes; returns logits."""
    layers = keras.layers
    model = keras.Sequential([keras.Input(input_shape), layers.Flatten()])
    for _ in range(2):
        model.add(layers.Dense(learner.units, activation="relu"))
        if learner.dropout:
            model.add(layers.Dropout(learner.dropout))
    model.add(layers.Dense(classes))
    return model


def without(digit: int | None, x: NDArray[np.float32], y: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """The images and labels but for those of a digit; all of them for `None`."""
    return (x, y) if digit is None else (x[y != digit], y[y != digit])


def batches(
    x: NDArray[np.float32], y: NDArray[np.int64], learner: Learner, size: int, seed: int
) -> tf.data.Dataset:
    """The shuffled batches of an epoch, jittered anew in each if the learner asks for it."""
    plain = data.batches(tf.data.Dataset.from_tensor_slices((x, y)), size, seed=seed)
    if not learner.jitter:
        return plain
    keys = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
    shifted = tf.data.Dataset.zip(plain, keys).map(
        lambda xy, key: (jittered(xy[0], learner.jitter, key), xy[1])
    )
    return shifted.prefetch(tf.data.AUTOTUNE)


def jittered(images: tf.Tensor, pixels: int, key: ArrayLike) -> tf.Tensor:
    """Shifts each image by whole pixels, down and to the right by −pixels to pixels each; what enters is 0.

    Args:
        images: (batch, height, width, channels).
        pixels: >= 0.
        key: (2,) integers that all shifts are drawn from.

    Returns:
        The shape of `images`.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    corners = tf.random.stateless_uniform((2, count, 1), key, 0, 2 * pixels + 1, tf.int32)
    padded = tf.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    rows = tf.gather(padded, corners[0] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(rows, corners[1] + tf.range(width), axis=2, batch_dims=1)


def errors_by_bias(dev: Answers, test: Answers, omitted: int | None) -> dict[str, dict[str, Any]]:
    """Errors of a network as it is and, if a digit was left out, with the better biases of its logit.

    Args:
        dev: logits (n, classes) and labels (n,).
        test: the same.
        omitted: the digit, or `None`.

    Returns:
        By how the bias came about: "bias", what is added to the logit, "dev" and "test", the errors of each class.
    """
    biases = {TRAINED: 0.0}
    if omitted is not None:
        biases |= {ON_DEV: best_bias(*dev, omitted), ON_TEST: best_bias(*test, omitted)}
    return {
        name: {"bias": bias, "dev": _errors(*dev, omitted, bias), "test": _errors(*test, omitted, bias)}
        for name, bias in biases.items()
    }


def _errors(logits: NDArray[Any], labels: NDArray[Any], digit: int | None, bias: float) -> list[int]:
    raised = logits.astype("float64")  # a copy
    if digit is not None:
        raised[:, digit] += bias
    wrong = labels[raised.argmax(axis=1) != labels]
    return np.bincount(wrong, minlength=logits.shape[1]).tolist()


def best_bias(logits: NDArray[Any], labels: NDArray[Any], digit: int) -> float:
    """What to add to a digit's logit for the fewest errors, exactly; of equals, the middle one.

    Args:
        logits: (n, classes).
        labels: (n,).
        digit: a class.

    Returns:
        The bias; never with more errors than 0.
    """
    others = logits.astype("float64")  # a copy
    others[:, digit] = -np.inf
    # Above its margin, a bias turns the answer to an example into the digit.
    margins = others.max(axis=1) - logits[:, digit]
    won = np.sort(margins[labels == digit])
    lost = np.sort(margins[others.argmax(axis=1) == labels])
    edges = np.unique(margins)
    biases = np.sort([0.0, edges[0] - 1, *(edges[1:] + edges[:-1]) / 2, edges[-1] + 1])
    gain = np.searchsorted(won, biases) - np.searchsorted(lost, biases)
    best = biases[gain == gain.max()]
    return float(best[len(best) // 2])
