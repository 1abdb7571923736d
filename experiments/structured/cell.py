"""Runs one cell of the study of channels: trains a CNN, or removes channels from one and trains the rest."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

import distill
from distill import data, pruning
from distill.pruning.structured import importance
from distill.pruning.weights import importance as of_single
from distill.studies import Cell, Surroundings, fit_and_measure, logits
from experiments._networks import normalized_cnn
from experiments.structured.config import Shrinking


def train(cell: Cell, directory: Path, *, surroundings: Surroundings) -> dict[str, Any]:
    """Trains, measures and saves one network; everything random follows from the cell's seed.

    Args:
        cell: cell whose config is a `Shrinking`.
        directory: directory for metrics.jsonl and the saved network.
        surroundings: settings that the result does not depend on.

    Returns:
        What `distill.studies.fit_and_measure` returns; also "untrained", the dev accuracy before the training, and
        "widths", the outputs of each layer with a kernel.
    """
    config: Shrinking = cell.config
    splits = data.load(config.dataset, data_dir=surroundings.data_dir, manual_dir=surroundings.manual_dir)
    whole = None
    if config.whole is not None:
        whole = keras.models.load_model(directory.parent / config.whole / "teacher.keras")
    # A worker runs many cells, and would become slower with each.
    keras.backend.clear_session()
    # From here on, all arms with the same seed draw the same numbers: initial weights and data order.
    keras.utils.set_random_seed(cell.seed)
    if whole is None:
        shape, classes = splits.input_shape, splits.num_classes
        network = normalized_cnn(config.network, input_shape=shape, classes=classes, name="whole")
    else:
        network = _smaller(whole, config, splits, seed=cell.seed)
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
    x, y = dev = data.arrays(splits.dev)
    untrained = float(np.mean(logits(network, x).argmax(axis=1) == y))
    widths = {layer.name: layer.weights[0].shape[-1] for layer in network.layers if hasattr(layer, "kernel")}
    return fit_and_measure(
        model,
        network,
        data.batches(data.arrays(splits.train), config.batch_size, seed=cell.seed),
        cell=cell,
        directory=directory,
        surroundings=surroundings,
        tags=[config.dataset],
        epochs=config.epochs,
        dev_batches=data.batches(dev, 500),
        dev=dev,
        test=data.arrays(splits.test),
        teacher=whole,
        also=lambda: {"untrained": untrained, "widths": widths},
    )


def _smaller(whole: keras.Model, config: Shrinking, splits: data.Splits, *, seed: int) -> keras.Model:
    """The whole network without channels, or the same small network with new weights."""
    small = pruning.prune_channels(
        whole, macs=1 - config.removed, importance=_importance(config.method, splits, seed=seed), round_to=1
    )
    if config.method.startswith("scratch"):
        return keras.Model.from_config(small.get_config())
    return small


def _importance(method: str, splits: data.Splits, *, seed: int) -> importance.Importance:
    x, y = data.arrays(splits.train)
    match method:
        case "random":
            return importance.random(seed)
        case "fpgm":
            return importance.fpgm
        case "taylor" | "obd":
            scores = of_single.taylor if method == "taylor" else of_single.obd
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            return importance.of_weights(scores((x, y), loss))
        case "activation":
            return importance.activation_mean(x)
        case _:
            return importance.l2
