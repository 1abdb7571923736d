"""What the methods have in common: networks, data, optimizer, and training with measurement."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from distill import data
from distill.studies import Cell, Surroundings, fit_and_measure
from experiments._networks import Network, normalized_cnn
from experiments.methods.config import Learning


@dataclasses.dataclass(frozen=True)
class Task:
    """A cell with everything that its method needs.

    Attributes:
        cell: cell whose config is a `Learning`.
        splits: data set of the cell.
        teachers: trained teachers.
        directory: directory of the cell.
        surroundings: settings that the result does not depend on.
    """

    cell: Cell
    splits: data.Splits
    teachers: list[keras.Model]
    directory: Path
    surroundings: Surroundings

    @property
    def config(self) -> Learning:
        """Config of the cell."""
        return self.cell.config

    @property
    def setting(self) -> float:
        """Value of the method's setting."""
        return float(self.config.setting)

    @property
    def epoch_steps(self) -> int:
        """Number of steps in an epoch."""
        return math.ceil(int(self.splits.train.cardinality()) / self.config.batch_size)

    @property
    def steps(self) -> int:
        """Number of steps in the whole training of a network."""
        return self.epoch_steps * self.config.epochs

    def network(self, *, name: str = "student", kind: Network | None = None) -> keras.Model:
        """Builds a new network, by default the student."""
        return normalized_cnn(
            kind or self.config.network,
            input_shape=self.splits.input_shape,
            classes=self.splits.num_classes,
            name=name,
        )

    def batches(self) -> tf.data.Dataset:
        """The shuffled batches of an epoch."""
        return data.batches(data.arrays(self.splits.train), self.config.batch_size, seed=self.cell.seed)

    def compile(self, model: keras.Model, loss: Any = None) -> None:
        """Compiles a model with AdamW and a falling learning rate, which are the same for all methods."""
        schedule = keras.optimizers.schedules.CosineDecay(self.config.learning_rate, self.steps)
        decay = self.setting if self.config.method == "alone" else 0.0
        model.compile(
            keras.optimizers.AdamW(schedule, weight_decay=decay),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True) if loss is None else loss,
            metrics=["accuracy"],
            steps_per_execution=self.epoch_steps,
        )

    def finish(
        self, model: keras.Model, network: keras.Model, batches: tf.data.Dataset, **options: Any
    ) -> dict[str, Any]:
        """Trains a compiled model, and measures and saves the network in it.

        Args:
            model: compiled model to fit.
            network: network to measure.
            batches: batches of one epoch.
            **options: further options of `distill.studies.fit_and_measure`.
        """
        dev = data.arrays(self.splits.dev)
        return fit_and_measure(
            model,
            network,
            batches,
            cell=self.cell,
            directory=self.directory,
            surroundings=self.surroundings,
            tags=[self.config.dataset],
            epochs=self.config.epochs,
            dev_batches=data.batches(dev, 500),
            dev=dev,
            test=data.arrays(self.splits.test),
            teacher=self.teachers[0] if self.teachers else None,
            **options,
        )
