"""What cells have in common: training with a tracker, choosing the best epoch, measuring and saving."""

import dataclasses
import gzip
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from distill import cost, tracking
from distill._types import Tensor
from distill.studies import _metrics
from distill.studies._declarations import Cell, Surroundings

# Inputs and integer labels.
Examples = tuple[NDArray[np.float32], NDArray[np.int64]]
# Scores by name, as `metrics.measure` returns them.
Scores = dict[str, float | None]


class BestOnDev(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best accuracy on dev, the earliest of several equal ones.

    Args:
        network: network whose weights are kept.
        key: name of the accuracy in the logs.
        first: first epoch that may be chosen, counted from 0.

    Attributes:
        epoch: the chosen epoch, counted from 0.
        weights: the network's weights after it.
    """

    def __init__(self, network: keras.Model, *, key: str = "val_accuracy", first: int = 0) -> None:
        super().__init__()
        self._first = first
        self._network = network
        self._key = key
        self._accuracy = -1.0
        self.epoch = -1
        self.weights: list[NDArray[np.float32]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Compares one epoch with the best one so far."""
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
    epochs: int,
    dev_batches: tf.data.Dataset,
    dev: Examples,
    test: Examples,
    teacher: keras.Model | None,
    tags: Sequence[str] = (),
    file: Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    accuracy: str = "val_accuracy",
    first_epoch: int = 0,
    also: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:
    """Trains a compiled model, and measures the network in it after the last epoch and after the best one on dev.

    The network is left as it is after the last epoch.

    Args:
        model: compiled model to fit: the network itself, or a model that trains it, such as a Distiller.
        network: network to measure and save.
        batches: batches of one epoch.
        cell: the cell that is being run.
        directory: directory for metrics.jsonl and the saved network.
        surroundings: settings of W&B and TensorBoard.
        epochs: number of passes over `batches`.
        dev_batches: the dev split in batches, for validation after each epoch.
        dev: the dev split as arrays, to be measured.
        test: the test split as arrays; it is read only here.
        teacher: model to measure agreement with; `None` for a network without a teacher.
        tags: tags of the W&B run, besides its seed.
        file: path for the saved network; by default student.keras in `directory`, or teacher.keras without a teacher.
        callbacks: further callbacks.
        accuracy: name of the dev accuracy in the logs.
        first_epoch: first epoch that may be chosen on dev, counted from 0.
        also: function that is called after the last epoch; what it returns is added to the result.

    Returns:
        The content of result.json: scores on dev and test, after the last epoch and after the one that was best on
        dev, and the costs of the network.

    The example of `command` shows how it is called.
    """
    best = BestOnDev(network, key=accuracy, first=first_epoch)
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
        measured = {"last": measure(network, dev=dev, test=test, teacher=teacher)}
        last = network.get_weights()
        network.set_weights(best.weights)
        measured["selected"] = measure(network, dev=dev, test=test, teacher=teacher)
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


def measure(
    network: Callable[..., Tensor], *, dev: Examples, test: Examples, teacher: keras.Model | None = None
) -> dict[str, Scores]:
    """Scores a network on dev and on test.

    Args:
        network: model that returns logits, or a function that is called in the same way.
        dev: the dev split.
        test: the test split.
        teacher: model to measure agreement with.

    Returns:
        "dev" and "test", each with what `metrics.measure` returns.

    Example:
        ```python
        from distill import studies

        scores = studies.measure(student, dev=(x, y), test=(x, y), teacher=teacher)
        print(scores["test"]["accuracy"], scores["test"]["agreement"])
        ```
    """
    return {
        split: _metrics.measure(
            logits(network, x), y, teacher_logits=None if teacher is None else logits(teacher, x)
        )
        for split, (x, y) in (("dev", dev), ("test", test))
    }


def logits(model: Callable[..., Tensor], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns a model's outputs for all examples.

    It does what `predict` does. For a small network, that spends more time on compiling than on computing.

    Example:
        ```python
        from distill import studies

        predicted = studies.logits(student, x).argmax(axis=1)
        ```
    """
    parts = [model(x[start : start + 500], training=False) for start in range(0, len(x), 500)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def costs(network: keras.Model, file: Path) -> dict[str, int]:
    """Returns what a network costs, as result.json has it.

    Args:
        network: the network.
        file: the saved network.

    Returns:
        "parameters", of which "nonzero" are not 0, "macs" for one example, and the bytes of the file, "file_bytes", and
        of its compressed content, "gzip_bytes".

    Example:
        ```python
        from pathlib import Path
        from distill import studies

        student.save("student.keras")
        print(studies.costs(student, Path("student.keras"))["macs"])
        ```
    """
    return {
        "parameters": cost.parameters(network),
        "nonzero": sum(int(np.count_nonzero(weights)) for weights in network.get_weights()),
        "macs": cost.macs(network),
        "file_bytes": file.stat().st_size,
        "gzip_bytes": len(gzip.compress(_content(file))),
    }


def _content(file: Path) -> bytes:
    """What a file holds; of an archive of Keras, without the times of saving, by which equal models would differ."""
    if not zipfile.is_zipfile(file):
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return b"".join(archive.read(name) for name in archive.namelist() if name != "metadata.json")


def milliseconds(timed: Mapping[str, cost.Latency]) -> dict[str, dict[str, float]]:
    """Returns latencies by arm as study.json has them: "median", "low" and "high" in milliseconds, and "runs".

    Example:
        ```python
        from distill import cost, studies

        latency_ms = studies.milliseconds(cost.latencies({"student": student}))
        ```
    """
    return {
        arm: {"median": one.median_ms, "low": one.low_ms, "high": one.high_ms, "runs": one.runs}
        for arm, one in timed.items()
    }


def latencies(files: Mapping[str, Path]) -> dict[str, dict[str, float]]:
    """Times one example through each saved network, in turns.

    Args:
        files: arm -> its network as a `.keras` file.

    Returns:
        What `milliseconds` returns.

    Example:
        ```python
        from pathlib import Path

        from distill import studies

        student.save("student.keras")
        latency_ms = studies.latencies({"student": Path("student.keras")})
        ```
    """
    return milliseconds(cost.latencies({arm: keras.models.load_model(file) for arm, file in files.items()}))


def save(network: keras.Model, file: Path) -> None:
    """Saves a network without the optimizer that it has only if it was trained alone, so that file sizes compare."""
    clean = type(network).from_config(network.get_config())  # clone_model would also compile the copy
    clean.set_weights(network.get_weights())
    clean.save(file)


def _final_table(measured: dict[str, dict[str, Scores]]) -> tuple[list[str], list[list[Any]]]:
    rows = [
        [split, epoch, *scores[split].values()]
        for epoch, scores in measured.items()
        for split in ("dev", "test")
    ]
    return ["split", "epoch", *measured["last"]["test"]], rows
