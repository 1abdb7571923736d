"""Curriculum temperature: soft targets at a temperature that is trained against the student."""

import math
from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import DistillationLoss
from distill.losses._numbers import require_number
from distill.losses._settings import Setting
from distill.losses._shapes import LOGITS
from distill.losses._soft_targets import SoftTargets
from distill.losses._softened import kl_divergence


@keras.saving.register_keras_serializable(package="distill")
class CurriculumTemperature(DistillationLoss):
    """Soft targets at a temperature that is trained against the student, more and more as training goes on.

    Row i is the value of `SoftTargets` at T = 1 + 20 sigmoid(θ). θ is one trained number, and starts at 1.
    Its gradient is multiplied by λ = −(1 − cos(π min(step / steps, 1))) / 2, which falls from 0 to −1: while
    the optimizer lowers the loss through the student, it raises the loss through the temperature.

    `recipe`: 0.1 for the student's own loss, 0.9 for this one, as for `SoftTargets`.

    Args:
        steps: training steps until λ reaches −1; the published choice is the steps of 10 epochs.
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, there is a single class, or `steps` is not a number >= 1.

    Example:
        ```python
        import distill

        steps_per_epoch = 500
        loss = distill.losses.CurriculumTemperature(10 * steps_per_epoch)
        distiller = distill.Distiller(teacher, student, loss)
        print(loss.temperature)  # 15.6 before training
        ```

    References:
        Li et al. 2023, arXiv:2211.16231, equations 6 to 8, with a global temperature. There λ moves once per epoch.
    """

    shapes = (LOGITS,)
    same_shape = True
    head = "softmax"
    shift_invariant = True
    recipe = SoftTargets.recipe

    def __init__(self, steps: float, *, name: str = "curriculum_temperature") -> None:
        super().__init__(name=name)
        self._steps = require_number("steps", steps, 1.0)
        self._reversal = Setting("gradient_factor", self._factor, low=-1.0, high=0.0)
        self.settings.append(self._reversal)
        self._theta = _Scalar(name=f"{name}_theta")
        self.layers.append(self._theta)

    def _factor(self, step: Tensor) -> Tensor:
        done = ops.minimum(ops.convert_to_tensor(step, dtype="float32") / self._steps, 1.0)
        return -0.5 * (1.0 - ops.cos(math.pi * done))

    @property
    def temperature(self) -> float:
        """The current temperature."""
        theta = float(ops.convert_to_numpy(ops.convert_to_tensor(self._theta.value)))
        return 1.0 + 20.0 / (1.0 + math.exp(-theta))

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns T² KL(p ‖ q) of each row."""
        theta, factor = ops.cast(self._theta.value, "float32"), self._reversal.variable
        # The value of θ, with its gradient times the factor.
        theta = factor * theta + ops.stop_gradient(theta - factor * theta)
        temperature = 1.0 + 20.0 * ops.sigmoid(theta)
        log_p, log_q = (ops.log_softmax(side / temperature, axis=-1) for side in (teacher, student))
        return ops.square(temperature) * kl_divergence(log_p, log_q)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, but not the trained θ, which the Distiller's `save_weights` keeps."""
        return {"steps": self._steps, "name": self.name}


class _Scalar(keras.Layer):
    """One trained number that starts at 1."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.value = self.add_weight(shape=(), initializer="ones", name="value")
        self.built = True
