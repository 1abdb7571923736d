"""Runs one cell of the study of sparsities: trains a CNN, or prunes one and trains it further."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import distill
from distill import cost, data, pruning
from distill.pruning.weights import importance
from distill.studies import Cell, Surroundings, fit_and_measure
from experiments._networks import plain_cnn
from experiments.sparsity.config import Pruning

_BINS = 60


def train(cell: Cell, directory: Path, *, surroundings: Surroundings) -> dict[str, Any]:
    """Trains, measures and saves one network; everything random follows from the cell's seed.

    Args:
        cell: cell whose config is a `Pruning`.
        directory: directory for metrics.jsonl and the saved network.
        surroundings: settings that the result does not depend on.

    Returns:
        What `distill.studies.fit_and_measure` returns; also "kernels", the zeros of each kernel, and "updates", the
        steps at which masks were updated with the kernels' sparsities. For seed 0 also "sizes", what
        `distill.cost.sizes` returns, and "histogram", counts and edges of the weights that are not zero.
    """
    config: Pruning = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    dense = None
    if config.dense is not None:
        dense = keras.models.load_model(directory.parent / config.dense / "teacher.keras")
    # A worker runs many cells, and would become slower with each.
    keras.backend.clear_session()
    # From here on, all arms with the same seed draw the same numbers: initial weights and data order.
    keras.utils.set_random_seed(cell.seed)
    network = plain_cnn(config.network, input_shape=splits.input_shape, classes=splits.num_classes)
    steps = math.ceil(int(splits.train.cardinality()) / config.batch_size)
    updates: list[tuple[int, dict[str, float]]] = []

    def compile(model: keras.Model, *, rate: float, epochs: int) -> None:
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps * epochs)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=steps,
        )

    def finish(
        model: keras.Model,
        *,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        first_epoch: int = 0,
    ) -> dict[str, Any]:
        dev = data.arrays(splits.dev)
        return fit_and_measure(
            model,
            network,
            data.batches(data.arrays(splits.train), config.batch_size, seed=cell.seed),
            cell=cell,
            directory=directory,
            surroundings=surroundings,
            tags=[config.dataset],
            epochs=epochs,
            dev_batches=data.batches(dev, 500),
            dev=dev,
            test=data.arrays(splits.test),
            teacher=dense,
            callbacks=callbacks,
            first_epoch=first_epoch,
            also=lambda: _also(network, updates, with_sizes=cell.seed == 0),
        )

    if config.method in ("dense", "lottery"):
        compile(network, rate=config.learning_rate, epochs=config.epochs)
        if config.method == "dense":
            return finish(network, epochs=config.epochs)
        return _lottery(config, network, finish, splits=splits, steps=steps, seed=cell.seed)

    network.set_weights(dense.get_weights())
    model = network
    if config.method == "distilled":
        loss = distill.SoftTargets(config.temperature)
        model = distill.Distiller(dense, network, loss, student_loss_weight=config.student_loss_weight)
    compile(model, rate=config.further_rate, epochs=config.further_epochs)
    if config.method in ("one-shot", "random"):
        scores = importance.random(cell.seed) if config.method == "random" else importance.magnitude
        pruning.prune(network, config.sparsity, importance=scores, scope=config.scope)
    if config.method not in ("gradual", "distilled"):
        return finish(model, epochs=config.further_epochs)
    schedule = pruning.PolynomialDecay(
        0.0, config.sparsity, begin_step=0, end_step=steps * config.ramp_epochs, frequency=steps
    )
    callback = pruning.GradualPruning(schedule, scope=config.scope, log_layers=True)
    updates = callback.updates
    return finish(model, epochs=config.further_epochs, callbacks=[callback], first_epoch=config.ramp_epochs)


def _lottery(
    config: Pruning,
    network: keras.Model,
    finish: Callable[..., dict[str, Any]],
    *,
    splits: data.Splits,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Trains like the unpruned network, prunes, rewinds to the end of the first epoch, and trains again."""
    result: dict[str, Any] = {}

    def train(model: keras.Model, callbacks: list[keras.callbacks.Callback]) -> None:
        if pruning.measure_sparsity(model).zeros:
            result.update(finish(model, epochs=config.epochs, callbacks=callbacks))
        else:
            batches = data.batches(data.arrays(splits.train), config.batch_size, seed=seed)
            model.fit(batches, epochs=config.epochs, callbacks=callbacks, verbose=0, shuffle=False)

    pruning.iterative(network, train, [config.sparsity], rewind="weights", to_step=steps, scope=config.scope)
    return result


def _also(
    network: keras.Model, updates: Sequence[tuple[int, dict[str, float]]], *, with_sizes: bool
) -> dict[str, Any]:
    kernels = pruning.find_kernels(network).found
    found = {
        "kernels": [dataclasses.asdict(row) for row in pruning.measure_sparsity(network).kernels],
        "updates": list(updates),
    }
    if with_sizes:
        weights = np.concatenate([np.ravel(kernel.variable) for kernel in kernels])
        counts, edges = np.histogram(weights[weights != 0], _BINS)
        found["histogram"] = {"counts": counts.tolist(), "edges": edges.tolist()}
        found["sizes"] = dataclasses.asdict(cost.sizes(network))
    return found
