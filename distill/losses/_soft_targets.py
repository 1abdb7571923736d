"""Soft targets: KL divergence between class probabilities that a temperature softens."""

from collections.abc import Sequence

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._settings import Schedule
from distill.losses._shapes import LOGITS
from distill.losses._softened import Softened, kl_divergence, log_mean
from distill.losses._sparse import SampledLogits, TopLogits


@keras.saving.register_keras_serializable(package="distill")
class SoftTargets(Softened):
    """KL divergence from the teacher's softened class probabilities to the student's.

    Row i is T² Σ_c p_c (log p_c − log q_c) with p = softmax(teacher_i / T) and
    q = softmax(student_i / T). T² keeps the gradient's size nearly independent of T [1].

    `recipe`: 0.1 for the student's own loss, 0.9 for this one. These weights have become the usual ones
    alongside a cross-entropy.

    Args:
        temperature: T from 1e-6 to 1e6, no unit; 1 leaves the logits unchanged. A number, which you can
            change at any time, or a schedule of the training step.
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding, 0 only where p = q.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, there is a single class, or the temperature is out of range.

    Example:
        ```python
        import distill

        loss = distill.SoftTargets(temperature=4.0)
        distiller = distill.Distiller(teacher, student, loss)
        loss.temperature = 2.0  # takes effect at the next step
        ```

    References:
        [1] Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2; p and q are its equation 1. The paper uses the
            cross-entropy with p, which differs from the divergence by the entropy of p. The divergence, summed over
            classes and averaged over the batch, follows the reference code of [2].
        [2] Tian, Krishnan, Isola 2019, arXiv:1910.10699 (RepDistiller).
    """

    shapes = (LOGITS,)
    head = "softmax"
    shift_invariant = True
    sparse = (TopLogits, SampledLogits)
    recipe = Recipe(student_loss_weight=0.1, distillation_weight=0.9)

    def __init__(self, temperature: float | Schedule = 4.0, *, name: str = "soft_targets") -> None:
        super().__init__(temperature, name=name)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns T² KL(p ‖ q) of each row."""
        log_p = ops.log_softmax(teacher / self._temperature.variable, axis=-1)
        log_q = ops.log_softmax(student / self._temperature.variable, axis=-1)
        return ops.square(self._temperature.variable) * kl_divergence(log_p, log_q)

    def call_sparse(self, teacher: TopLogits | SampledLogits, student: Tensor) -> Tensor:
        """Returns T² KL(p ‖ q) of each row; for `TopLogits`, all unknown classes count as one."""
        return ops.square(self._temperature.variable) * self.divergence(teacher, student)

    def average_predictions(self, teachers: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """Returns logits z with softmax(z / T) = Σ_k w_k softmax(teacher_k / T)."""
        log_p = [ops.log_softmax(teacher / self._temperature.variable, axis=-1) for teacher in teachers]
        return self._temperature.variable * log_mean(log_p, weights)
