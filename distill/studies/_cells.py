"""What the cells of all studies do alike: train with a tracker, keep the best epoch, measure, save."""

import dataclasses
import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from distill import cost, tracking
from distill.studies import _metrics as metrics
from distill.studies._declarations import Cell, Surroundings

Examples = tuple[NDArray[np.float32], NDArray[np.int64]]


class BestOnDev(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best accuracy on dev, the earliest of equals.

    Args:
        network: whose weights.
        key: of the accuracy in the logs.
        first: the first epoch that counts, from 0.
    """

    def __init__(self, network: keras.Model, key: str = "val_accuracy", first: int = 0) -> None:
        super().__init__()
        self._first = first
        self._network = network
        self._key = key
        self._accuracy = -1.0
        self.epoch = -1
        self.weights: list[NDArray[np.float32]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compares one epoch with the best before."""
        accuracy = (logs or {})[self._key]
        if epoch >= self._first and accuracy > self._accuracy:
            self._accuracy, self.epoch, self.weights = accuracy, epoch, self._network.get_weights()


def fit_and_measure(
    model: keras.Model,
    network: keras.Model,
    batches: tf.data.Dataset,
    *,
    cell: Cell,
    directory: Path,
    surroundings: Surroundings,
    tags: Sequence[str],
    epochs: int,
    dev_batches: tf.data.Dataset,
    dev: Examples,
    test: Examples,
    teacher: keras.Model | None,
    file: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    accuracy: str = "val_accuracy",
    first_epoch: int = 0,
    also: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:
    """Trains a compiled model and measures the network in it, after the last epoch and after the best one on dev.

    The network is left as the last epoch left it.

    Args:
        model: what is fitted: the network itself, or a model that trains it.
        network: what is measured and saved.
        batches: of one epoch.
        cell: what is trained.
        directory: where metrics.jsonl and the network are written.
        surroundings: where numbers go besides.
        tags: of the run in W&B, with its seed.
        epochs: passes over `batches`.
        dev_batches: for validation.
        dev: the same, to be measured.
        test: read once, here.
        teacher: whom the network should agree with; `None` for a teacher.
        file: where the network is saved; teacher.keras or student.keras in the directory by default.
        callbacks: others.
        accuracy: the key of the accuracy on dev in the logs.
        first_epoch: the first epoch that may be the best one on dev, from 0.
        also: called after the last epoch; what it returns is added to the result.

    Returns:
        The content of result.json: measures on dev and test, after the last epoch and after the epoch
        that was best on dev, and what the network costs.
    """
    best = BestOnDev(network, accuracy, first_epoch)
    file = file or directory / ("teacher.keras" if teacher is None else "student.keras")
    with tracking.Tracker(
        directory,
        study=cell.study,
        arm=cell.arm,
        config={"seed": cell.seed, **dataclasses.asdict(cell.config)},
        tags=[*tags, f"seed {cell.seed}"],
        wandb=surroundings.wandb,
        tensorboard=surroundings.tensorboard,
    ) as tracker:
        model.fit(
            batches,
            epochs=epochs,
            validation_data=dev_batches,
            callbacks=[best, *callbacks, tracking.EpochLogger(tracker)],
            verbose=0,
            shuffle=False,
        )
        save(network, file)
        others = dict(also())
        measured = {"last": measure(network, teacher, dev, test)}
        last = network.get_weights()
        network.set_weights(best.weights)
        measured["selected"] = measure(network, teacher, dev, test)
        network.set_weights(last)
        result = {
            "epochs": epochs,
            "selected_epoch": best.epoch,
            **others,
            "test": {epoch: scores["test"] for epoch, scores in measured.items()},
            "dev": {epoch: scores["dev"] for epoch, scores in measured.items()},
            "cost": costs(network, file),
        }
        tracker.finish(result, table=_final_table(measured), model_file=file)
    return result


def costs(network: keras.Model, file: Path) -> dict[str, int]:
    """Parameters, those that are not zero, MACs of one example, and bytes of the saved network, compressed too."""
    return {
        "parameters": cost.parameters(network),
        "nonzero": sum(int(np.count_nonzero(weights)) for weights in network.get_weights()),
        "macs": cost.macs(network),
        "file_bytes": file.stat().st_size,
        "gzip_bytes": len(gzip.compress(file.read_bytes())),
    }


def latencies(files: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Times of one example through each saved network, as `study.json` has them; the networks take turns."""
    networks = {name: keras.models.load_model(file) for name, file in files.items()}
    return {
        name: {"median": timed.median_ms, "low": timed.low_ms, "high": timed.high_ms, "runs": timed.runs}
        for name, timed in cost.latencies(networks).items()
    }


def measure(
    network: keras.Model, teacher: keras.Model | None, dev: Examples, test: Examples
) -> dict[str, dict[str, float | None]]:
    """The scores of a network on dev and on test."""
    return {
        split: metrics.measure(logits(network, x), y, None if teacher is None else logits(teacher, x))
        for split, (x, y) in (("dev", dev), ("test", test))
    }


def logits(model: keras.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """As `predict`, which spends longer on compiling than a small network on computing."""
    parts = [model(x[start : start + 500], training=False) for start in range(0, len(x), 500)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def save(network: keras.Model, file: Path) -> None:
    """Saves a network without the optimizer that training alone leaves in it, so that sizes compare."""
    clean = type(network).from_config(network.get_config())  # clone_model would compile the copy as well
    clean.set_weights(network.get_weights())
    clean.save(file)


def _final_table(
    measured: dict[str, dict[str, dict[str, float | None]]],
) -> tuple[list[str], list[list[Any]]]:
    rows = [
        [split, epoch, *scores[split].values()]
        for epoch, scores in measured.items()
        for split in ("dev", "test")
    ]
    return ["split", "epoch", *measured["last"]["test"]], rows
