"""What one cell of `experiments.structured` does: train a CNN, or take channels out of one and train what is left."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

import distill
from distill import data, pruning
from distill.pruning import criteria
from distill.pruning.structured import importance
from distill.studies import Cell, Surroundings, fit_and_measure, logits
from experiments._networks import normalized_cnn
from experiments.structured.config import Shrinking


def train(surroundings: Surroundings, cell: Cell, directory: Path) -> dict[str, Any]:
    """Trains, measures and saves one network; all that is drawn comes from the cell's seed.

    Args:
        surroundings: what the result does not depend on.
        cell: its config is a `Shrinking`.
        directory: where metrics.jsonl and the model are written.

    Returns:
        What `distill.studies.fit_and_measure` returns; also "untrained", the accuracy on dev before the training, and
        "widths", the outputs of each layer with a kernel.
    """
    config: Shrinking = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    whole = None
    if config.whole is not None:
        whole = keras.models.load_model(directory.parent / config.whole / "teacher.keras")
    # A worker runs many cells: without this each one is slower than the one before.
    keras.backend.clear_session()
    # From here on all arms of a seed draw the same numbers: the same start, the same order.
    keras.utils.set_random_seed(cell.seed)
    if whole is None:
        network = normalized_cnn(config.network, splits.input_shape, splits.num_classes, "whole")
    else:
        network = _smaller(whole, config, cell.seed, splits)
    model = network
    if config.temperature:
        loss = distill.SoftTargets(config.temperature)
        model = distill.Distiller(whole, network, loss, student_loss_weight=config.student_loss_weight)
    steps = math.ceil(int(splits.train.cardinality()) / config.batch_size)
    model.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(config.learning_rate, steps * config.epochs),
            weight_decay=0.0,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps,
    )
    dev = data.arrays(splits.dev)
    untrained = float(np.mean(logits(network, dev[0]).argmax(axis=1) == dev[1]))
    widths = {layer.name: layer.weights[0].shape[-1] for layer in network.layers if hasattr(layer, "kernel")}
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
        test=data.arrays(splits.test),
        teacher=whole,
        also=lambda: {"untrained": untrained, "widths": widths},
    )


def _smaller(whole: keras.Model, config: Shrinking, seed: int, splits: data.Splits) -> keras.Model:
    """The whole network without channels; with weights of its own where the method starts from new ones."""
    small = pruning.prune_channels(
        whole, macs=1 - config.removed, importance=_importance(config.method, seed, splits), round_to=1
    )
    if config.method.startswith("scratch"):
        return keras.Model.from_config(small.get_config())
    return small


def _importance(method: str, seed: int, splits: data.Splits) -> importance.Importance:
    x, y = data.arrays(splits.train)
    match method:
        case "random":
            return importance.random(seed)
        case "fpgm":
            return importance.fpgm
        case "taylor" | "obd":
            criterion = criteria.taylor if method == "taylor" else criteria.obd
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            return importance.of_weights(criterion((x, y), loss))
        case "activation":
            return importance.activation_mean(x)
        case _:
            return importance.l2
