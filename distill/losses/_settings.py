"""Numbers that compiled training steps read anew each time, and schedules of the step that set them."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._keras import compute_output_spec, is_present

# Keras exports no name for its symbolic call.

Schedule = Callable[[Any], Any]


class Setting:
    """A number in a variable, so that changing it takes effect in a compiled step, or a schedule that sets it.

    Args:
        name: how errors and logs call it.
        value: a number, or a schedule: a function of the training step (a float32 tensor from 0) that
            returns a scalar, such as a `keras.optimizers.schedules.LearningRateSchedule`. It becomes part of
            the compiled step, so it computes with `keras.ops`.
        low: the smallest value allowed.
        high: the largest value allowed.

    Attributes:
        variable: holds the value now; a float32 scalar.
        schedule: the schedule, or `None` for a number.

    Raises:
        ValueError: the number, or the schedule's value at step 0, is not a finite number in [low, high].
    """

    def __init__(self, name: str, value: float | Schedule, low: float, high: float = math.inf) -> None:
        self.name = name
        self._low, self._high = low, high
        self.schedule = value if callable(value) else None
        start = value if self.schedule is None else _first_value(name, self.schedule)
        self.variable = keras.Variable(
            require_number(name, start, low, high),
            dtype="float32",
            trainable=False,
            autocast=False,
            # Replicas of tf.distribute all compute the same value.
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def value(self) -> float:
        """The number now; setting it takes effect at the next training step."""
        self._require_present()
        return float(ops.convert_to_numpy(ops.convert_to_tensor(self.variable)))

    @value.setter
    def value(self, value: float) -> None:
        value = self.check(value)
        self._require_present()
        self.variable.assign(value)

    def check(self, value: float) -> float:
        """`value` as a float, or ValueError unless it may be set."""
        value = require_number(self.name, value, self._low, self._high)
        if self.schedule is not None:
            raise ValueError(
                f"{self.name} follows a schedule, which is part of the compiled step and would set it again. "
                f"Received: {self.name}={value}. Start with a number to change it by hand."
            )
        return value

    def _require_present(self) -> None:
        # Keras has no public word for a variable whose value its JAX trainer holds elsewhere.
        if keras.backend.backend() == "jax" and not is_present(self.variable):
            raise RuntimeError(
                f"On JAX, {self.name} is not in its variable between the batches of an epoch. Received: a use of it "
                "there. Call the Distiller's jax_state_sync() first, or change it between epochs."
            )

    def restore(self, value: float) -> None:
        """Sets what was saved; a number is checked as any other, a schedule goes on from the step."""
        self.variable.assign(value if self.schedule is not None else self.check(value))

    def update(self, step: Any) -> None:
        """Sets the schedule's value at `step`; beyond the allowed range it is NaN, so that no loss hides it."""
        if self.schedule is not None:
            value = ops.cast(self.schedule(step), "float32")
            allowed = ops.logical_and(value >= self._low, value <= self._high)
            self.variable.assign(ops.where(allowed, value, math.nan))


def require_number(name: str, value: Any, low: float, high: float = math.inf) -> float:
    """`value` as a float, or ValueError unless it is a finite number in [low, high]."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        rule = f"a finite number >= {low:g}" if high == math.inf else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{name} must be {rule}. Received: {name}={value!r}.")
    return float(value)


def _first_value(name: str, schedule: Schedule) -> float:
    if isinstance(schedule, type):
        raise ValueError(
            f"{name} is a number or a schedule of the step. Received: the class {schedule.__name__}. "
            "Make an object of it."
        )
    if keras.backend.backend() != "torch":  # whose steps are not compiled
        try:
            compute_output_spec(schedule, keras.KerasTensor((), "float32"))
        except Exception as error:
            raise ValueError(
                "A schedule becomes part of the compiled step, so it computes with keras.ops, such as ops.where for an "
                f"if and ops.maximum for a max. Received: a schedule of {name} that fails there: {error}"
            ) from error
    value = np.asarray(ops.convert_to_numpy(schedule(ops.convert_to_tensor(0.0, dtype="float32"))))
    if value.shape != () or not np.issubdtype(value.dtype, np.number):
        raise ValueError(
            f"A schedule returns one number for each step. Received: a schedule of {name} that returns "
            f"{value.dtype} of shape {value.shape} at step 0."
        )
    return float(value)
