"""Measures how noisy gradients are: the scale that says up to which size larger batches pay off [1].

The gradient of one example has mean G and covariance Σ, that of a batch of B examples G and Σ / B. While B is well
below tr(Σ) / |G|², noise limits how far a step gets, and twice the batch size needs nearly half the steps. Well above
it, a larger batch saves no steps.

[1] McCandlish, Kaplan, Amodei et al. 2018, arXiv:1812.06162, section 2.2 and appendix A.1.
"""

from collections.abc import Callable, Container

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray


def estimate(gradients: ArrayLike, *, batch_size: int) -> tuple[float, float]:
    """Estimates tr(Σ) and |G|² from the gradients of several batches of the same size.

    The mean of the gradients serves as the gradient of a large batch:
    |G|² = (B |G_B|² − b |G_b|²) / (B − b) and tr(Σ) = (|G_b|² − |G_B|²) / (1 / b − 1 / B), with |G_b|² the mean
    over the batches. Both are unbiased if examples are drawn independently.

    Args:
        gradients: gradients (batches, parameters), each the mean over a batch; at least two batches.
        batch_size: b, examples per batch, >= 1; B is b times the number of batches.

    Returns:
        tr(Σ) and |G|², in the squared unit of a gradient.

    Raises:
        ValueError: there are fewer than two batches, or the batch size is below 1.
    """
    rows = np.asarray(gradients, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2 or batch_size < 1:
        raise ValueError(
            "A noise scale needs gradients of shape (batches, parameters) from at least two batches, and a batch size "
            f"of at least 1. Received: shape {rows.shape}, batch_size={batch_size}."
        )
    small, large = batch_size, batch_size * len(rows)
    small_square = np.square(rows).sum(axis=1).mean()
    large_square = np.square(rows.mean(axis=0)).sum()
    variance = (small_square - large_square) / (1 / small - 1 / large)
    return float(variance), float((large * large_square - small * small_square) / (large - small))


class NoiseScale(keras.callbacks.Callback):
    """Estimates gradient noise after some epochs, without changing the training.

    The logs of these epochs get "noise_variance", tr(Σ), and "noise_gradient", |G|², which may be negative. Their ratio
    is biased: average each over several trainings first. Put this callback before those that read the logs.

    Gradients are those of the training loss, of a Distiller too. Batches are drawn with replacement, and are the same
    ones every time.

    Args:
        x: inputs (n, …) of the training examples.
        y: targets (n, …) of the training examples.
        epochs: epochs after which to estimate, counted from 1.
        batch_size: examples per batch.
        batches: number of batches per estimate.
        seed: seed of the draws.
    """

    def __init__(
        self,
        x: NDArray[np.generic],
        y: NDArray[np.generic],
        *,
        epochs: Container[int],
        batch_size: int = 50,
        batches: int = 60,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._x, self._y, self._epochs, self._batch_size = x, y, epochs, batch_size
        self._drawn = np.random.default_rng(seed).integers(len(x), size=(batches, batch_size))
        self._gradient: Callable[..., tf.Tensor]

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Prepares a graph, like that of the training; op by op it would take many times as long."""
        self._gradient = tf.function(self._gradient_of_loss, autograph=False)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Estimates after the chosen epochs."""
        if epoch + 1 in self._epochs:
            logs["noise_variance"], logs["noise_gradient"] = self._estimate()

    def _estimate(self) -> tuple[float, float]:
        # Computing a loss changes batch statistics, random generators, steps of schedules and metrics.
        states = [*self.model.variables, *self.model.metrics_variables]
        before = [variable.numpy() for variable in states]
        gradients = [self._gradient(self._x[rows], self._y[rows]).numpy() for rows in self._drawn]
        for variable, value in zip(states, before, strict=True):
            variable.assign(value)
        return estimate(gradients, batch_size=self._batch_size)

    def _gradient_of_loss(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The gradients of all parameters in one row."""
        with tf.GradientTape() as tape:
            # The model's output is also what a Distiller's taps read from its student.
            loss = self.model.compute_loss(x=x, y=y, y_pred=self.model(x, training=True))
        gradients = tape.gradient(loss, self.model.trainable_variables, unconnected_gradients="zero")
        return tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
