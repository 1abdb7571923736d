"""What one cell of `experiments.sparsity` does: train a CNN, or prune one and train it on."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import distill
from distill import cost, data, pruning
from distill.pruning import criteria
from distill.studies import Cell, Surroundings, fit_and_measure
from experiments._networks import plain_cnn
from experiments.sparsity.config import Pruning

_BINS = 60


def train(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    """Trains, measures and saves one network; all that is drawn comes from the cell's seed.

    Args:
        surroundings: what the result does not depend on.
        cell: its config is a `Pruning`.
        directory: where metrics.jsonl and the model are written.

    Returns:
        What `distill.studies.fit_and_measure` returns; also "kernels", the zeros of each; "updates", the steps at
        which masks moved with the kernels' sparsities; and of seed 0 "sizes", as `distill.cost.sizes`, and
        "histogram", the counts and edges of the weights that are not zero.
    """
    config: Pruning = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    dense = None
    if config.dense is not None:
        dense = keras.models.load_model(directory.parent / config.dense / "teacher.keras")
    # A worker runs many cells: without this each one is slower than the one before.
    keras.backend.clear_session()
    # From here on all arms of a seed draw the same numbers: the same start, the same order.
    keras.utils.set_random_seed(cell.seed)
    network = plain_cnn(config.network, splits.input_shape, splits.num_classes)
    steps = math.ceil(int(splits.train.cardinality()) / config.batch_size)
    updates: list[tuple[int, dict[str, float]]] = []

    def compile(model: keras.Model, rate: float, epochs: int) -> keras.Model:
        model.compile(
            keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps * epochs)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=steps,
        )
        return model

    def finish(
        model: keras.Model,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        first_epoch: int = 0,
    ) -> dict[str, Any]:
        return fit_and_measure(
            model,
            network,
            data.batches(splits.train, config.batch_size, seed=cell.seed),
            cell=cell,
            directory=directory,
            surroundings=surroundings,
            tags=[config.dataset],
            epochs=epochs,
            dev_batches=data.batches(splits.dev, 500),
            dev=data.arrays(splits.dev),
            test=data.arrays(splits.test),
            teacher=dense,
            callbacks=callbacks,
            first_epoch=first_epoch,
            also=lambda: _also(network, updates, with_sizes=cell.seed == 0),
        )

    if config.method == "dense":
        return finish(compile(network, config.learning_rate, config.epochs), config.epochs)
    if config.method == "lottery":
        return _lottery(
            config, compile(network, config.learning_rate, config.epochs), finish, splits, steps, cell.seed
        )

    network.set_weights(dense.get_weights())
    if config.method == "distilled":
        loss = distill.SoftTargets(config.temperature)
        model = distill.Distiller(dense, network, loss, student_loss_weight=config.student_loss_weight)
    else:
        model = network
    compile(model, config.further_rate, config.further_epochs)
    if config.method in ("one-shot", "random"):
        chosen = criteria.random(cell.seed) if config.method == "random" else criteria.magnitude
        pruning.prune(network, config.sparsity, criterion=chosen, scope=config.scope)
    if config.method not in ("gradual", "distilled"):
        return finish(model, config.further_epochs)
    schedule = pruning.PolynomialDecay(
        0.0, config.sparsity, begin_step=0, end_step=steps * config.ramp_epochs, frequency=steps
    )
    callback = pruning.GradualPruning(schedule, scope=config.scope, log_layers=True)
    updates = callback.updates
    return finish(model, config.further_epochs, [callback], first_epoch=config.ramp_epochs)


def _lottery(
    config: Pruning, network: keras.Model, finish: Any, splits: data.Splits, steps: int, seed: int
) -> dict[str, Any]:
    """Trains as the unpruned network was, prunes, rewinds to the end of the first epoch, and trains again."""
    result: dict[str, Any] = {}

    def train(model: keras.Model, callbacks: list[keras.callbacks.Callback]) -> None:
        if pruning.measure_sparsity(model).zeros:
            result.update(finish(model, config.epochs, callbacks))
        else:
            batches = data.batches(splits.train, config.batch_size, seed=seed)
            model.fit(batches, epochs=config.epochs, callbacks=callbacks, verbose=0, shuffle=False)

    pruning.iterative(network, train, [config.sparsity], rewind="weights", to_step=steps, scope=config.scope)
    return result


def _also(
    network: keras.Model, updates: Sequence[tuple[int, dict[str, float]]], with_sizes: bool
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
