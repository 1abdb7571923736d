"""Numbers that compiled training steps read from variables, and the schedules that set them."""

import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from distill._keras import compute_output_spec, is_present
from distill._types import Tensor
from distill.losses._numbers import require_number

# A function of the training step, a float32 scalar that counts from 0. It returns a scalar.
Schedule = Callable[[Tensor], Tensor]


class Setting:
    """A number that training reads from a variable, so that it can change, or a schedule that sets it each step.

    A Python number becomes a constant when TensorFlow or JAX compile the training step. A `Setting` does not: assigning
    to `value` takes effect at the next step. A loss appends its settings to `DistillationLoss.settings`; the Distiller
    then follows their schedules, logs them and saves them.

    Args:
        name: name of the number in errors and logs.
        value: a number, or a schedule: a function of the training step (a float32 tensor, from 0) that returns a
            scalar, such as a `keras.optimizers.schedules.LearningRateSchedule`. A schedule becomes part of the
            compiled step, so it must compute with `keras.ops`.
        low: smallest allowed value.
        high: largest allowed value; no limit by default.

    Attributes:
        variable: float32 scalar with the current value; `call` reads this.
        schedule: the schedule, or `None` if the setting is a number.

    Raises:
        ValueError: the number, or the schedule's value at step 0, is not a finite number in [low, high].

    Example:
        ```python
        from keras import ops

        from distill.losses import DistillationLoss, Schedule, Setting


        class ScaledDifference(DistillationLoss):
            same_shape = True

            def __init__(self, scale: float | Schedule, *, name: str = "scaled_difference") -> None:
                super().__init__(name=name)
                self.scale = Setting("scale", scale, low=0.0)
                self.settings.append(self.scale)

            def call(self, teacher, student):
                return self.scale.variable * ops.mean(ops.abs(student - teacher), axis=-1)


        loss = ScaledDifference(2.0)
        loss.scale.value = 3.0
        growing = ScaledDifference(lambda step: 1.0 + step / 100.0)
        ```
    """

    def __init__(self, name: str, value: float | Schedule, *, low: float, high: float = math.inf) -> None:
        self.name = name
        # Called after a new value is assigned, which is taken back if one of them raises ValueError.
        self.conditions: list[Callable[[], None]] = []
        self._low, self._high = low, high
        self.schedule = value if callable(value) else None
        start = value if self.schedule is None else _first_value(name, self.schedule)
        self.variable = keras.Variable(
            require_number(name, start, low, high),
            dtype="float32",
            trainable=False,
            autocast=False,
            # All replicas of tf.distribute compute the same value.
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def value(self) -> float:
        """The current number. Assigning a new one takes effect at the next training step."""
        self._require_present()
        return float(ops.convert_to_numpy(ops.convert_to_tensor(self.variable)))

    @value.setter
    def value(self, value: float) -> None:
        value = self.check(value)
        before = self.value
        self.variable.assign(value)
        try:
            for condition in self.conditions:
                condition()
        except ValueError:
            self.variable.assign(before)
            raise

    def check(self, value: float) -> float:
        """Returns `value` as a float; raises ValueError if this setting cannot be set to it."""
        value = require_number(self.name, value, self._low, self._high)
        if self.schedule is not None:
            raise ValueError(
                f"{self.name} follows a schedule, which would overwrite any other value at the next step. "
                f"Received: {self.name}={value}. To change {self.name} by hand, start with a number."
            )
        return value

    def _require_present(self) -> None:
        if keras.backend.backend() == "jax" and not is_present(self.variable):
            raise RuntimeError(
                f"On JAX, {self.name} can only be read or set between epochs: during an epoch Keras' trainer holds its "
                "value elsewhere. Call the Distiller's jax_state_sync() first, or wait for the end of the epoch."
            )

    def restore(self, value: float) -> None:
        """Sets a saved value: a number is checked as usual, a schedule replaces it at the next step."""
        self.variable.assign(value if self.schedule is not None else self.check(value))

    def restart(self) -> None:
        """Sets a schedule's value at step 0; a number stays. Conditions of what used it before are gone."""
        self.conditions.clear()
        if self.schedule is not None:
            self.variable.assign(_first_value(self.name, self.schedule))

    def update(self, step: Tensor) -> None:
        """Sets the schedule's value at `step`. A value out of range becomes NaN, so that the loss shows it."""
        if self.schedule is not None:
            value = ops.cast(self.schedule(step), "float32")
            allowed = ops.logical_and(value >= self._low, value <= self._high)
            self.variable.assign(ops.where(allowed, value, math.nan))


def _first_value(name: str, schedule: Schedule) -> float:
    if isinstance(schedule, type):
        raise ValueError(
            f"{name} must be a number or a schedule object. Received: the class {schedule.__name__}. "
            f"Create an object: {schedule.__name__}(...)."
        )
    if keras.backend.backend() != "torch":  # torch does not compile training steps
        try:
            compute_output_spec(schedule, keras.KerasTensor((), "float32"))
        except Exception as error:
            raise ValueError(
                "A schedule must compute with keras.ops, because it becomes part of the compiled training step: use "
                "ops.where instead of if, ops.maximum instead of max. "
                f"Received: a schedule of {name} that fails: {error}"
            ) from error
    value = np.asarray(ops.convert_to_numpy(schedule(ops.convert_to_tensor(0.0, dtype="float32"))))
    if value.shape != () or not np.issubdtype(value.dtype, np.number):
        raise ValueError(
            f"A schedule must return one number for each step. Received: a schedule of {name} that returns "
            f"{value.dtype} of shape {value.shape} at step 0."
        )
    return float(value)
