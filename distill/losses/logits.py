"""Losses on logits: the teacher's class probabilities, softened by a temperature."""

from typing import Any

import keras
from keras import ops

from distill.losses.base import DistillationLoss, require_number, require_same_shape, setting, setting_value


def _require_temperature(value: float) -> float:
    # Beyond these, T² or a logit divided by T leaves float32.
    return require_number("temperature", value, 1e-6, 1e6)


class _Softened(DistillationLoss):
    """Two distributions over classes, made from logits divided by a temperature that can be changed."""

    def __init__(self, temperature: float, name: str) -> None:
        super().__init__(name)
        self._temperature = setting("temperature", _require_temperature(temperature))
        self.variables.append(self._temperature)

    @property
    def temperature(self) -> float:
        """What logits are divided by; setting it takes effect at the next training step."""
        return setting_value(self._temperature)

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature.assign(_require_temperature(value))

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape."""
        require_same_shape(type(self).__name__, teacher_outputs, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with the temperature as it is now."""
        return {"temperature": self.temperature, "name": self.name}


@keras.saving.register_keras_serializable(package="distill")
class SoftTargets(_Softened):
    """KL divergence from the teacher's softened classes to the student's.

    Row i is T² Σ_c p_c (log p_c − log q_c) with p = softmax(teacher_i / T) and
    q = softmax(student_i / T). T² keeps the gradient's size nearly independent of T [1].

    Args:
        temperature: T from 1e-6 to 1e6, no unit; 1 leaves the logits alone. May be set again at any time.
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding, 0 only where p = q.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or there is a single class, or the temperature is out of range.

    References:
        [1] Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2.
    """

    head = "softmax"

    def __init__(self, temperature: float = 4.0, name: str = "soft_targets") -> None:
        super().__init__(temperature, name)

    def call(self, teacher: Any, student: Any) -> Any:
        """T² KL(p ‖ q) of each row."""
        self.validate_outputs(teacher, student)
        log_p = ops.log_softmax(teacher / self._temperature, axis=-1)
        log_q = ops.log_softmax(student / self._temperature, axis=-1)
        divergence = ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
        return ops.square(self._temperature) * divergence

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape with at least two classes."""
        super().validate_outputs(teacher_outputs, student_outputs)
        shape = tuple(student_outputs.shape)
        if len(shape) < 2 or shape[-1] == 1:
            raise ValueError(
                "SoftTargets needs logits (batch, ..., classes) of two classes or more: a softmax over a "
                f"single one is always 1. Received: shape {shape}. "
                "Use BernoulliSoftTargets for a head with one logit per label."
            )


@keras.saving.register_keras_serializable(package="distill")
class BernoulliSoftTargets(_Softened):
    """KL divergence between the softened yes-or-no answers of teacher and student, summed over labels.

    Row i is T² Σ_l [p_l (log p_l − log q_l) + (1 − p_l)(log(1 − p_l) − log(1 − q_l))] with
    p = sigmoid(teacher_i / T) and q = sigmoid(student_i / T): `SoftTargets` for heads whose labels do
    not exclude each other, and for binary heads with a single logit.

    Args:
        temperature: T from 1e-6 to 1e6, no unit; 1 leaves the logits alone. May be set again at any time.
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, ..., labels), labels >= 1; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding, 0 only where p = q.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or the temperature is out of range.
    """

    head = "sigmoid"

    def __init__(self, temperature: float = 4.0, name: str = "bernoulli_soft_targets") -> None:
        super().__init__(temperature, name)

    def call(self, teacher: Any, student: Any) -> Any:
        """T² times the KL of each label, summed over the labels of each row."""
        self.validate_outputs(teacher, student)
        t, s = teacher / self._temperature, student / self._temperature
        log_p, log_not_p = ops.log_sigmoid(t), ops.log_sigmoid(-t)
        log_q, log_not_q = ops.log_sigmoid(s), ops.log_sigmoid(-s)
        divergence = ops.exp(log_p) * (log_p - log_q) + ops.exp(log_not_p) * (log_not_p - log_not_q)
        return ops.square(self._temperature) * ops.sum(divergence, axis=-1)
