"""RigL: sparse training that exchanges the smallest weights for those with the largest gradients."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._keras import call_takes_training, compute_loss
from distill._types import Data, Tensor
from distill._untouched import recurrent_states
from distill.pruning._numbers import require_whole
from distill.pruning.weights import _exchanges as exchanges
from distill.pruning.weights._kernels import Kernel
from distill.pruning.weights._mask_callback import MaskCallback
from distill.pruning.weights._masks import kept_by
from distill.pruning.weights._patterns import Elements
from distill.pruning.weights._selectors import Selectors
from distill.pruning.weights._sparse_training import Distribution, Plan, require_trained


class RigL(MaskCallback):
    """The rigged lottery: from time to time, drops the smallest weights and adds those with the largest gradients.

    Works like `SET`, apart from three things:

    - The share of weights that is dropped at step t falls: drop_fraction / 2 · (1 + cos(π t / end_step)).
    - The new weights are those for which the gradient of the training loss is largest in magnitude, on the next batch
      of `data`. The gradient is taken for all weights, including pruned ones.
    - A weight that has just been dropped may come back at once. Then nothing happens to it: it keeps its value and the
      optimizer's memory, as in the authors' code.

    The loss is the one that the model was compiled with, penalties included; for a `distill.Distiller`, its whole loss.
    The model runs as in training, with the batch's own statistics in BatchNormalization. Whatever a training step
    changes besides weights is put back: moving statistics, random generators, metrics. In the paper, a step that
    exchanges weights does not train; here it does, after the exchange.

    Put this callback after `keras.callbacks.EarlyStopping(restore_best_weights=True)` in the list: when older weights
    are restored, the masks move back with them.

    Args:
        sparsity: share of zeros in all kernels together, 0 <= sparsity < 1.
        data: batches for the gradients, one per exchange, starting over after the last: a `tf.data.Dataset` of batches
            as `fit` takes them, or a tuple of arrays (x, y) or (x, y, sample_weight). If the data set has a fixed
            order, a resumed run continues where an uninterrupted run would be.
        frequency: steps from one exchange to the next, >= 1.
        end_step: step before which all exchanges happen, > `frequency`.
        drop_fraction: share of a kernel's weights that is exchanged at first, 0 < drop_fraction < 1.
        distribution: how the zeros are shared among the kernels, "uniform" or "erdos-renyi". See `SET`.
        seed: seed of the first masks, an integer >= 0.
        batch_size: size of the batches that arrays are split into; more examples make a gradient less noisy.
        include: layers to train sparse, in the forms that `find_kernels` takes; all by default.
        exclude: layers to leave alone, in the same forms.
        log_layers: `True` also logs each kernel's share of zeros, as "sparsity/encoder/dense/kernel".

    Attributes:
        updates: for every change of the masks, its step and the sparsity of each kernel by name.

    Raises:
        ValueError: as for `SET`, or the data is empty; at the start of training, the model has several replicas;
            later, a gradient is not finite.
        TypeError: the data is neither a data set nor a tuple.
        RuntimeError: Keras runs on a backend other than TensorFlow.

    Example:
    ```python
    from distill import pruning

    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.fit(x, y, epochs=20, callbacks=[pruning.RigL(0.8, (x, y), frequency=2, end_step=15, seed=0)])
    ```

    References:
        Evci et al. 2020, arXiv:1911.11134, section 3.
    """

    def __init__(
        self,
        sparsity: float,
        data: Data,
        *,
        frequency: int = 100,
        end_step: int,
        drop_fraction: float = 0.3,
        distribution: Distribution = "uniform",
        seed: int,
        batch_size: int = 128,
        include: Selectors = None,
        exclude: Selectors = None,
        log_layers: bool = False,
    ) -> None:
        super().__init__(Elements(), include, exclude, log_layers)
        self._plan = Plan(sparsity, frequency, end_step, drop_fraction, distribution, seed)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "RigL needs Keras' TensorFlow backend for its gradients. Received: Keras on "
                f"{keras.backend.backend()!r}. Use SET, or set KERAS_BACKEND=tensorflow."
            )
        self._batches = _Batches(data, batch_size)
        self._gradients: Callable[..., list[Tensor]] | None = None

    def set_model(self, model: keras.Model) -> None:
        """Finds the kernels and gives them masks."""
        if (replicas := model.distribute_strategy.num_replicas_in_sync) > 1:
            raise ValueError(
                f"RigL takes its gradients on one device. Received: a model on {replicas} replicas. Use SET, or train "
                "on one device."
            )
        super().set_model(model)
        self._gradients = gradients_of(model, [kernel.variable for kernel in self.kernels])

    def require_fit(self, kernels: Sequence[Kernel]) -> None:
        """Raises ValueError if a kernel is frozen."""
        require_trained(self.model, kernels)

    def move(self, step: int) -> None:
        """Draws the first masks, or makes the exchange that is due."""
        plan = self._plan
        due = plan.follow(self, step)
        if due is None or self._gradients is None:
            return
        fraction = plan.drop_fraction / 2 * (1 + math.cos(math.pi * due / plan.end_step))
        kept = [kept_by(mask) for mask in self.masks]
        dropped = exchanges.smallest(self, kept, fraction, [mask.sum() for mask in kept])
        batch = self._batches.at(due // plan.frequency - 1)
        scores = [np.abs(gradient) for gradient in finite_gradients(self.model, self._gradients, batch)]
        free = [~mask | gone for mask, gone in zip(kept, dropped, strict=True)]
        exchanges.exchange(self, step, kept, dropped, exchanges.largest(scores, free, dropped))


def gradients_of(model: keras.Model, variables: Sequence[keras.Variable]) -> Callable[..., list[Tensor]]:
    """Returns a function of x, y, sample_weight and scale: the gradients of the scaled training loss."""
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def gradients(x: Any, y: Any, sample_weight: Any, scale: Tensor) -> list[Tensor]:
        with tf.GradientTape() as tape:
            values = [variable.value for variable in variables]
            tape.watch(values)
            y_pred = model(x, training=True) if call_takes_training(model) else model(x)
            loss = compute_loss(model, x, y, y_pred, sample_weight, True)
            loss = loss * tf.cast(scale, loss.dtype)
        found = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]  # an embedding's is sparse

    return gradients


def finite_gradients(
    model: keras.Model, gradients: Callable[..., list[Tensor]], batch: Any
) -> list[np.ndarray]:
    """Returns the gradients for all weights, up to a common factor. Leaves the model as it was."""
    import tensorflow as tf

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    weights = {id(variable) for variable in model.trainable_variables}
    others = [variable for variable in model.variables if id(variable) not in weights]
    others += [*model.metrics_variables, *recurrent_states(model)]
    before = [ops.copy(variable) for variable in others]
    scale = float(ops.convert_to_numpy(model.optimizer.scale_loss(1.0)))
    while True:
        try:
            found = [g.numpy() for g in gradients(x, y, sample_weight, tf.constant(scale))]
        finally:
            for variable, value in zip(others, before, strict=True):
                variable.assign(value)
        if all(np.isfinite(gradient).all() for gradient in found):
            return found
        if scale <= 1:
            raise ValueError(
                "RigL needs finite gradients to choose weights. Received: a gradient with inf or NaN. Check the loss "
                "and the data: training may have diverged."
            )
        scale = max(1.0, scale / 16)  # half precision overflows until the optimizer has found its scale


class _Batches:
    """Batches by number, from the beginning again after the last.

    Args:
        data: data set of batches, or a tuple of arrays.
        batch_size: size of the batches that arrays are cut into.
    """

    def __init__(self, data: Data, batch_size: int) -> None:
        import tensorflow as tf

        if isinstance(data, tuple):
            data = tf.data.Dataset.from_tensor_slices(data).batch(require_whole("batch_size", batch_size, 1))
        if not isinstance(data, tf.data.Dataset):
            raise TypeError(
                "data must be a tf.data.Dataset of batches, or a tuple of arrays (x, y). Received: "
                f"{type(data).__name__}."
            )
        size = int(data.cardinality())
        if size == 0 or (size < 0 and next(iter(data.take(1)), None) is None):
            raise ValueError(
                "RigL needs at least one batch of data for its gradients. Received: data without any batch."
            )
        self._data = data.repeat()
        self._iterator: Iterator[Any] = iter(())
        self._next: int | None = None

    def at(self, number: int) -> Any:
        """Returns the batch of that number. Fast for the batches after the one that was last asked for."""
        if self._next is None or self._next > number:
            self._iterator, self._next = iter(self._data.skip(number)), number
        for _ in range(self._next, number):
            next(self._iterator)
        self._next = number + 1
        return next(self._iterator)
