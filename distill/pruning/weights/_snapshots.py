"""The state of training that `iterative` keeps and goes back to, and the callback that ends a round."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._keras import iterations_of, learning_rate_of
from distill._types import Tensor
from distill.pruning.weights._kernels import Kernel
from distill.pruning.weights._mask_callback import updates_made
from distill.pruning.weights._masks import forget_traces, mask_of, pruned_part


class Snapshot(keras.callbacks.Callback):
    """Keeps the state of a training after a number of updates.

    Args:
        to_step: number of updates after which the state is kept.
        began: the optimizer's count of updates when the training begins.

    Attributes:
        made: updates made when the state was kept; `None` before that.
    """

    def __init__(self, to_step: int, began: int) -> None:
        super().__init__()
        self.made: int | None = None
        self._to_step = to_step
        self._began = began
        self._state: list[tuple[keras.Variable, np.ndarray]] = []
        self._optimizer: list[tuple[keras.Variable, np.ndarray]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Keeps the state, at the first batch after `to_step` updates."""
        made = updates_made(self.model.optimizer) - self._began
        if self.made is not None or made < self._to_step:
            return
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self.made = made
        self._state = _values(self.model.variables)
        self._optimizer = _values(self.model.optimizer.variables)

    def put_back(self, *, weights: bool) -> None:
        """Restores the optimizer's state, and the model's if `weights` is true."""
        own = {id(variable) for variable in pruned_part(self.model).variables}
        for variable, value in self._state:
            # A Distiller counts the steps of its schedules itself.
            if weights or (id(variable) not in own and variable.name == "step"):
                variable.assign(value)
        for variable, value in self._optimizer:
            variable.assign(value)


class Stop(keras.callbacks.Callback):
    """Stops a training after a number of updates.

    Args:
        updates: number of updates to make.
        began: the optimizer's count of updates when the training begins.
        kernels: what is pruned, whose zeros are set again at the end.

    Attributes:
        updates: number of updates to make.
        seen: whether Keras has called this callback.
    """

    def __init__(self, updates: int, began: int, kernels: Sequence[Kernel]) -> None:
        super().__init__()
        self.updates = updates
        self.seen = False
        self._began = began
        self._kernels = kernels

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops the training once the updates have been made."""
        self.seen = True
        if updates_made(self.model.optimizer) - self._began >= self.updates:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Sets zeros again, where an optimizer's averages, which know no masks, have replaced the weights."""
        for kernel in self._kernels:
            if mask := mask_of(kernel):
                mask.apply(kernel.variable)


@contextmanager
def last_learning_rate(model: keras.Model) -> Iterator[None]:
    """Holds a learning rate schedule at its last value inside the context."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    schedule = learning_rate_of(optimizer)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        yield
        return
    # This counts batches where gradients are accumulated, and so does the schedule.
    last = ops.convert_to_numpy(schedule(iterations_of(optimizer) - 1))
    optimizer.learning_rate = _Constant(float(last))
    try:
        yield
    finally:
        optimizer.learning_rate = schedule
        forget_traces(model)


class _Constant(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: Tensor) -> Tensor:
        return ops.convert_to_tensor(self.value, "float32")

    def get_config(self) -> dict[str, float]:
        return {"value": self.value}


def _values(variables: Sequence[keras.Variable]) -> list[tuple[keras.Variable, np.ndarray]]:
    return [(variable, np.array(ops.convert_to_numpy(variable))) for variable in variables]
