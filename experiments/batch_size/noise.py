"""How noisy gradients are: the scale that says up to which batch size larger batches pay [1].

A batch of B examples has a gradient of mean G and covariance Σ / B. Where B is well below tr(Σ) / |G|², the noise
decides how far a step gets, and a batch of twice the size saves nearly half the steps; well above, it saves none.

[1] McCandlish, Kaplan, Amodei et al. 2018, arXiv:1812.06162, section 2.2 and appendix A.1.
"""

import dataclasses
from collections.abc import Container
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray


@dataclasses.dataclass(frozen=True)
class Noise:
    """Unbiased estimates of the two parts of the noise scale; their ratio is not unbiased, so average them first.

    Attributes:
        epoch: epochs trained before.
        variance: tr(Σ), the variance of one example's gradient summed over all parameters.
        squared_gradient: |G|², of the gradient over all examples; an estimate may fall below 0.
    """

    epoch: int
    variance: float
    squared_gradient: float


def estimate(gradients: ArrayLike, batch_size: int) -> tuple[float, float]:
    """tr(Σ) and |G|² from the gradients of several batches of one size.

    The mean of the gradients stands for the large batch:
    |G|² = (B |G_B|² − b |G_b|²) / (B − b) and tr(Σ) = (|G_b|² − |G_B|²) / (1 / b − 1 / B), with |G_b|² the mean
    over the batches. Both are unbiased where examples are drawn independently.

    Args:
        gradients: (batches, parameters) the mean gradient of each batch; two batches or more.
        batch_size: b, examples a batch, >= 1; B is b times the number of batches.

    Returns:
        tr(Σ) and |G|², in the squared unit of a gradient.

    Raises:
        ValueError: there are fewer than two batches, or the size is below 1.
    """
    rows = np.asarray(gradients, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2 or batch_size < 1:
        raise ValueError(
            "A noise scale compares batches with their mean, so it needs gradients of shape (batches, parameters) with "
            f"two batches or more of an example or more. Received: shape {rows.shape}, batch_size={batch_size}."
        )
    small, large = batch_size, batch_size * len(rows)
    small_square = np.square(rows).sum(axis=1).mean()
    large_square = np.square(rows.mean(axis=0)).sum()
    variance = (small_square - large_square) / (1 / small - 1 / large)
    return float(variance), float((large * large_square - small * small_square) / (large - small))


class NoiseScale(keras.callbacks.Callback):
    """Estimates the noise at the start of training and after some epochs; training itself is left as it is.

    The gradients are those of the training loss, a Distiller's included. Batches are drawn with replacement, the
    same ones at every epoch.

    Args:
        x: (n, …) inputs of the training examples.
        y: (n, …) their targets.
        epochs: after which epochs, counted from 1, to estimate.
        batch_size: examples a batch.
        batches: batches an estimate.
        seed: of the draws.

    Attributes:
        found: the estimates, in the order of the epochs.
    """

    def __init__(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        epochs: Container[int],
        *,
        batch_size: int = 50,
        batches: int = 60,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._x, self._y, self._epochs, self._batch_size = x, y, epochs, batch_size
        self._drawn = np.random.default_rng(seed).integers(len(x), size=(batches, batch_size))
        self._gradient: Any = None
        self.found: list[Noise] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Estimates before the first step."""
        # The model computes its loss in one graph; op by op it would take many times as long.
        self._gradient = tf.function(self._gradient_of_loss, autograph=False)
        self._estimate(0)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Estimates after the chosen epochs."""
        if epoch + 1 in self._epochs:
            self._estimate(epoch + 1)

    def _estimate(self, epoch: int) -> None:
        # Batch statistics, random generators, steps of schedules and metrics move along with a loss.
        states = [*self.model.variables, *self.model.metrics_variables]
        before = [variable.numpy() for variable in states]
        gradients = [self._gradient(self._x[rows], self._y[rows]).numpy() for rows in self._drawn]
        for variable, value in zip(states, before, strict=True):
            variable.assign(value)
        self.found.append(Noise(epoch, *estimate(gradients, self._batch_size)))

    def _gradient_of_loss(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """All parameters' gradients in one row."""
        with tf.GradientTape() as tape:
            # Also what a Distiller reads of its student.
            loss = self.model.compute_loss(x=x, y=y, y_pred=self.model(x, training=True))
        gradients = tape.gradient(loss, self.model.trainable_variables, unconnected_gradients="zero")
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
