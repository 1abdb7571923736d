"""Decoupled knowledge distillation: the label's probability, and how the other classes share the rest."""

import math
from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._numbers import require_number
from distill.losses._settings import Schedule
from distill.losses._shapes import LOGITS
from distill.losses._softened import Softened, kl_divergence


@keras.saving.register_keras_serializable(package="distill")
class DecoupledKD(Softened):
    """Decoupled distillation: compares how likely the label is, and separately how the other classes share the rest.

    With p = softmax(teacher_i / T), q = softmax(student_i / T) and y the label, row i is

        T² [α KL((p_y, 1 − p_y) ‖ (q_y, 1 − q_y)) + β KL(p̂ ‖ q̂)]

    where p̂ and q̂ are the softmax over the classes other than y. Plain soft targets weigh the second part by
    1 − p_y, so it counts little where the teacher is confident. With two classes the second part is 0.

    `recipe`: 1 for the student's own loss, 1 for this one. In the paper, the weight of this loss grows
    linearly from 0 over the first 20 epochs:
    `distillation_weight=keras.optimizers.schedules.PolynomialDecay(0.0, 20 * steps_per_epoch, 1.0)`.

    Args:
        alpha: weight of the first part, >= 0.
        beta: weight of the second part, >= 0. Published for each pair of models: 8 for ResNet 32x4 → 8x4, 6 for wide
            ResNets and VGG, 2 for ResNet 56 → 20.
        temperature: T from 1e-6 to 1e6, a number or a schedule of the training step.
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.
        labels: class numbers (batch, ...) or (batch, ..., 1), or one-hot labels or probabilities
            (batch, ..., classes), where the largest one counts.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding, NaN for a label that is not one of the classes.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, there is a single class, labels are missing, or an argument is out of range.

    Example:
        ```python
        import distill

        loss = distill.losses.DecoupledKD(beta=2.0)
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        Zhao et al. 2022, arXiv:2203.08679, equation 7.
    """

    shapes = (LOGITS,)
    head = "softmax"
    shift_invariant = True
    needs_labels = True
    recipe = Recipe(student_loss_weight=1.0, distillation_weight=1.0)

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float | Schedule = 4.0,
        name: str = "decoupled_kd",
    ) -> None:
        super().__init__(temperature, name=name)
        self._alpha = require_number("alpha", alpha, 0.0)
        self._beta = require_number("beta", beta, 0.0)

    def call(self, teacher: Tensor, student: Tensor, *labels: Tensor) -> Tensor:
        """Returns the weighted sum of the two divergences of each row."""
        classes = _class_numbers(labels[0], student)
        target = ops.expand_dims(classes, axis=-1) == ops.arange(student.shape[-1], dtype="int32")
        sides = [side / self._temperature.variable for side in (teacher, student)]
        (log_b_t, log_b_s), (log_o_t, log_o_s) = zip(
            *(_decouple(side, target) for side in sides), strict=True
        )
        parts = self._alpha * kl_divergence(log_b_t, log_b_s) + self._beta * kl_divergence(log_o_t, log_o_s)
        # A label that is no class has no answer.
        known = ops.logical_and(classes >= 0, classes < student.shape[-1])
        return ops.square(self._temperature.variable) * ops.where(known, parts, math.nan)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"alpha": self._alpha, "beta": self._beta, **super().get_config()}


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logarithms of (label, not label), (batch, ..., 2), and of the other classes among themselves."""
    log_p = ops.log_softmax(logits, axis=-1)
    # Finite, so that the label's class counts 0 · (x − x) = 0 among the others.
    others = ops.where(target, -1e30, logits)
    log_label = ops.sum(ops.where(target, log_p, 0.0), axis=-1)
    log_rest = ops.logsumexp(ops.where(target, -1e30, log_p), axis=-1)
    return ops.stack([log_label, log_rest], axis=-1), ops.log_softmax(others, axis=-1)


def _class_numbers(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns labels as int32 (batch, ...)."""
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == len(logits.shape):
        labels = labels[..., 0] if labels.shape[-1] == 1 else ops.argmax(labels, axis=-1)
    if len(labels.shape) != len(logits.shape) - 1:
        raise ValueError(
            "Labels must be class numbers, one for each row of logits, or one-hot. "
            f"Received: labels of shape {tuple(labels.shape)} for logits {tuple(logits.shape)}."
        )
    return ops.cast(labels, "int32")
