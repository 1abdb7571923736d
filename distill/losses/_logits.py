"""Losses on logits: the teacher's class probabilities, softened by a temperature."""

from typing import Any, ClassVar

import keras
from keras import ops

from distill.losses._base import DistillationLoss
from distill.losses._settings import Schedule, Setting


class Softened(DistillationLoss):
    """Base class of losses on logits that are divided by a temperature, which can be changed."""

    same_shape = True

    def __init__(self, temperature: float | Schedule, name: str) -> None:
        super().__init__(name)
        # Beyond these, T² or a logit divided by T leaves float32.
        self._temperature = Setting("temperature", temperature, 1e-6, 1e6)
        self.settings.append(self._temperature)

    @property
    def temperature(self) -> float:
        """What logits are divided by; setting it takes effect at the next training step."""
        return self._temperature.value

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature.value = value

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with the temperature as it is now, or its schedule."""
        schedule = self._temperature.schedule
        temperature = self.temperature if schedule is None else keras.saving.serialize_keras_object(schedule)
        return {"temperature": temperature, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Softened":
        """The loss that `get_config` describes."""
        return cls(**{**config, "temperature": keras.saving.deserialize_keras_object(config["temperature"])})


@keras.saving.register_keras_serializable(package="distill")
class SoftTargets(Softened):
    """KL divergence from the teacher's softened classes to the student's.

    Row i is T² Σ_c p_c (log p_c − log q_c) with p = softmax(teacher_i / T) and
    q = softmax(student_i / T). T² keeps the gradient's size nearly independent of T [1].

    Args:
        temperature: T from 1e-6 to 1e6, no unit; 1 leaves the logits alone. A number, which may be set again
            at any time, or a schedule of the training step.
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
        [1] Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2; p and q are its equation 1. The paper takes the
            cross-entropy with p, which differs by p's own entropy; the divergence, summed over classes and averaged
            over the batch, is that of the reference code of [2]. `recipe` holds the weights that became usual beside
            a cross-entropy.
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    head = "softmax"
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 0.1, "distillation_weight": 0.9}

    def __init__(self, temperature: float | Schedule = 4.0, name: str = "soft_targets") -> None:
        super().__init__(temperature, name)

    def call(self, teacher: Any, student: Any) -> Any:
        """T² KL(p ‖ q) of each row."""
        log_p = ops.log_softmax(teacher / self._temperature.variable, axis=-1)
        log_q = ops.log_softmax(student / self._temperature.variable, axis=-1)
        return ops.square(self._temperature.variable) * kl_divergence(log_p, log_q)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape with at least two classes."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)

    def average_predictions(self, teachers: list[Any], weights: list[Any]) -> Any:
        """Logits z with softmax(z / T) = Σ_k w_k softmax(teacher_k / T)."""
        log_p = [ops.log_softmax(teacher / self._temperature.variable, axis=-1) for teacher in teachers]
        return self._temperature.variable * _log_mean(log_p, weights)


@keras.saving.register_keras_serializable(package="distill")
class BernoulliSoftTargets(Softened):
    """KL divergence between the softened yes-or-no answers of teacher and student, summed over labels.

    Row i is T² Σ_l [p_l (log p_l − log q_l) + (1 − p_l)(log(1 − p_l) − log(1 − q_l))] with
    p = sigmoid(teacher_i / T) and q = sigmoid(student_i / T): `SoftTargets` for heads whose labels do
    not exclude each other, and for binary heads with a single logit. It comes from no paper, so `recipe` is empty.

    Args:
        temperature: T from 1e-6 to 1e6, no unit; 1 leaves the logits alone. A number, which may be set again
            at any time, or a schedule of the training step.
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

    def __init__(self, temperature: float | Schedule = 4.0, name: str = "bernoulli_soft_targets") -> None:
        super().__init__(temperature, name)

    def call(self, teacher: Any, student: Any) -> Any:
        """T² times the KL of each label, summed over the labels of each row."""
        t, s = teacher / self._temperature.variable, student / self._temperature.variable
        log_p, log_not_p = ops.log_sigmoid(t), ops.log_sigmoid(-t)
        log_q, log_not_q = ops.log_sigmoid(s), ops.log_sigmoid(-s)
        divergence = kl_terms(log_p, log_q) + kl_terms(log_not_p, log_not_q)
        return ops.square(self._temperature.variable) * ops.sum(divergence, axis=-1)

    def average_predictions(self, teachers: list[Any], weights: list[Any]) -> Any:
        """Logits z with sigmoid(z / T) = Σ_k w_k sigmoid(teacher_k / T)."""
        softened = [teacher / self._temperature.variable for teacher in teachers]
        log_p = _log_mean([ops.log_sigmoid(z) for z in softened], weights)
        log_not_p = _log_mean([ops.log_sigmoid(-z) for z in softened], weights)
        return self._temperature.variable * (log_p - log_not_p)


@keras.saving.register_keras_serializable(package="distill")
class LogitMSE(DistillationLoss):
    """Mean squared difference of logits.

    Row i is the mean over classes of (student_i − teacher_i)² [1].

    Args:
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    References:
        [1] Ba, Caruana 2014, arXiv:1312.6184, equation 1, with the mean over classes of today's implementations.
            The paper's student learns from logits alone, without labels: `recipe`.
    """

    head = "softmax"
    same_shape = True
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 0.0, "distillation_weight": 1.0}

    def __init__(self, name: str = "logit_mse") -> None:
        super().__init__(name)

    def call(self, teacher: Any, student: Any) -> Any:
        """The mean squared difference of each row."""
        return ops.mean(ops.square(student - teacher), axis=-1)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape with at least two classes."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name}


@keras.saving.register_keras_serializable(package="distill")
class HardTargets(DistillationLoss):
    """Cross-entropy of the student against the class that the teacher finds most likely: pseudo-labels.

    Row i is −log softmax(student_i)[argmax teacher_i]; of equal logits the first counts [1].

    Args:
        name: the key of this term in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    References:
        [1] Touvron et al. 2021, arXiv:2012.12877, equation 3 (DeiT's hard distillation), half of it and half of the
            labels' cross-entropy: `recipe`. The paper gives the teacher's class a token and a head of their own.
    """

    head = "softmax"
    same_shape = True
    recipe: ClassVar[dict[str, float]] = {"student_loss_weight": 0.5, "distillation_weight": 0.5}

    def __init__(self, name: str = "hard_targets") -> None:
        super().__init__(name)

    def call(self, teacher: Any, student: Any) -> Any:
        """The cross-entropy of each row."""
        # Of integers: on TensorFlow, Keras first looks for negative zeros among floats, for JAX's sake.
        largest = ops.cast(teacher >= ops.max(teacher, axis=-1, keepdims=True), "int32")
        return ops.sparse_categorical_crossentropy(ops.argmax(largest, axis=-1), student, from_logits=True)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are logits of one shape with at least two classes."""
        super().validate_outputs(teacher_outputs, student_outputs)
        require_classes(type(self).__name__, student_outputs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name}


def kl_divergence(log_p: Any, log_q: Any) -> Any:
    """KL(p ‖ q) over the last axis, from logarithms, so that neither is ever clipped."""
    return ops.sum(kl_terms(log_p, log_q), axis=-1)


@ops.custom_gradient
def kl_terms(log_p: Any, log_q: Any) -> tuple[Any, Any]:
    """Terms p (log p − log q) of a divergence; finite where both are −∞, as of a class masked out on both sides."""
    p = ops.exp(log_p)
    ratio = ops.maximum(log_p, -1e30) - ops.maximum(log_q, -1e30)

    # Through the maxima, TensorFlow without XLA would take half as long again as without them.
    def gradient(*arguments: Any, upstream: Any = None) -> tuple[Any, Any]:
        upstream = arguments[0] if upstream is None else upstream
        flow = upstream * p
        return flow * (ratio + 1.0), -flow

    return p * ratio, gradient


def require_classes(what: str, logits: Any) -> None:
    """Raises ValueError unless logits have two classes or more."""
    shape = tuple(logits.shape)
    if len(shape) < 2 or shape[-1] == 1:
        raise ValueError(
            f"{what} needs logits (batch, ..., classes) of two classes or more: a softmax over a "
            f"single one is always 1. Received: shape {shape}. "
            "Use BernoulliSoftTargets for a head with one logit per label."
        )


def _log_mean(logarithms: list[Any], weights: list[Any]) -> Any:
    """The logarithm of Σ_k w_k exp(logarithms_k); a weight of 0 drops its term."""
    weighted = [x + ops.log(weight) for x, weight in zip(logarithms, weights, strict=True)]
    return ops.logsumexp(ops.stack(weighted), axis=0)
