"""Soft targets for labels that do not exclude each other: KL divergence of one yes-or-no answer per label."""

from collections.abc import Sequence

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._settings import Schedule
from distill.losses._softened import Softened, kl_terms, log_mean


@keras.saving.register_keras_serializable(package="distill")
class BernoulliSoftTargets(Softened):
    """KL divergence between the softened yes-or-no answers of teacher and student, summed over labels.

    Row i is T² Σ_l [p_l (log p_l − log q_l) + (1 − p_l)(log(1 − p_l) − log(1 − q_l))] with
    p = sigmoid(teacher_i / T) and q = sigmoid(student_i / T). This is `SoftTargets` for heads whose labels do
    not exclude each other, and for binary heads with a single logit.

    `recipe`: empty, because the loss comes from no paper.

    Args:
        temperature: T from 1e-6 to 1e6, no unit; 1 leaves the logits unchanged. A number, which you can
            change at any time, or a schedule of the training step.
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, ..., labels), labels >= 1; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding, 0 only where p = q.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or the temperature is out of range.

    Example:
        ```python
        import keras

        import distill

        # Five labels per example, any number of which may hold.
        teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5, "sigmoid")])
        student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5, "sigmoid")])
        distiller = distill.Distiller(teacher, student, distill.BernoulliSoftTargets(temperature=2.0))
        distiller.compile("adam", loss="binary_crossentropy")
        ```
    """

    shapes = ("logits (batch, ..., labels)",)
    head = "sigmoid"

    def __init__(self, temperature: float | Schedule = 4.0, *, name: str = "bernoulli_soft_targets") -> None:
        super().__init__(temperature, name=name)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns T² times the KL divergence of each label, summed over the labels of each row."""
        t, s = teacher / self._temperature.variable, student / self._temperature.variable
        log_p, log_not_p = ops.log_sigmoid(t), ops.log_sigmoid(-t)
        log_q, log_not_q = ops.log_sigmoid(s), ops.log_sigmoid(-s)
        divergence = kl_terms(log_p, log_q) + kl_terms(log_not_p, log_not_q)
        return ops.square(self._temperature.variable) * ops.sum(divergence, axis=-1)

    def average_predictions(self, teachers: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """Returns logits z with sigmoid(z / T) = Σ_k w_k sigmoid(teacher_k / T)."""
        softened = [teacher / self._temperature.variable for teacher in teachers]
        log_p = log_mean([ops.log_sigmoid(z) for z in softened], weights)
        log_not_p = log_mean([ops.log_sigmoid(-z) for z in softened], weights)
        return self._temperature.variable * (log_p - log_not_p)
