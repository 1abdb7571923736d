"""Generalized Jensen-Shannon divergence, between forward and reverse KL."""

from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._numbers import require_number
from distill.losses._settings import Schedule
from distill.losses._shapes import LOGITS
from distill.losses._softened import Softened, kl_divergence
from distill.losses._sparse import SampledLogits, SparseLogits, TopLogits


@keras.saving.register_keras_serializable(package="distill")
class GeneralizedJSD(Softened):
    """Generalized Jensen-Shannon divergence, from forward KL (β = 0) to reverse KL (β = 1).

    With p = softmax(teacher_i / T), q = softmax(student_i / T) and m = β p + (1 − β) q, row i is
    β KL(p ‖ m) + (1 − β) KL(q ‖ m) for 0 < β < 1. It is KL(p ‖ q) for β = 0 and KL(q ‖ p) for β = 1: these
    are the limits of the divergence divided by β, or by 1 − β. There is no factor T².

    `recipe`: 0 for the student's own loss, 1 for this one. It was published without labels, and partly on
    sequences that the student writes itself; which sequences to use is up to your data.

    Args:
        beta: number from 0 to 1. At 0 the student covers everything that the teacher considers possible; at 1 it
            seeks what the teacher considers likeliest.
        temperature: T from 1e-6 to 1e6, a number or a schedule of the training step.
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape. If they have a mask, the mean is over the tokens that it keeps.

    Returns:
        `call`: (batch, ...) float32, in nats; >= 0 up to rounding. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, there is a single class, or an argument is out of range.

    Example:
        ```python
        import distill

        reverse_kl = distill.losses.GeneralizedJSD(beta=1.0)
        distiller = distill.Distiller(teacher, student, reverse_kl)
        ```

    References:
        Agarwal et al. 2023, arXiv:2306.13649, equation 1, with its limits as in the official code.
    """

    shapes = (LOGITS,)
    head = "softmax"
    shift_invariant = True
    recipe = Recipe(student_loss_weight=0.0, distillation_weight=1.0)

    def __init__(
        self, *, beta: float = 0.5, temperature: float | Schedule = 1.0, name: str = "generalized_jsd"
    ) -> None:
        super().__init__(temperature, name=name)
        self._beta = require_number("beta", beta, 0.0, 1.0)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the divergence of each row."""
        return self._between(
            *(ops.log_softmax(side / self._temperature.variable, axis=-1) for side in (teacher, student))
        )

    @property
    def sparse(self) -> tuple[type[SparseLogits], ...]:  # type: ignore[override]
        """Draws estimate only what is linear in the teacher's probabilities: that is forward KL alone."""
        return (TopLogits, SampledLogits) if self._beta == 0 else (TopLogits,)

    def call_sparse(self, teacher: TopLogits | SampledLogits, student: Tensor) -> Tensor:
        """Returns the divergence of each row; for `TopLogits`, all unknown classes count as one."""
        if isinstance(teacher, SampledLogits):
            return self.divergence(teacher, student)
        return self._between(*teacher.softened(student, self._temperature.variable))

    def _between(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if self._beta == 0:
            return kl_divergence(log_p, log_q)
        if self._beta == 1:
            return kl_divergence(log_q, log_p)
        return ops.sum(self._terms(log_p, log_q), axis=-1)

    def _terms(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Returns β p (log p − log m) + (1 − β) q (log q − log m) of each class; 0 where both sides mask it."""

        @ops.custom_gradient
        def terms(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Any]:
            p, q = ops.exp(log_p), ops.exp(log_q)
            log_m = ops.log(ops.maximum(self._beta * p + (1.0 - self._beta) * q, 1.1754944e-38))
            of_p = self._beta * p * (ops.maximum(log_p, -1e30) - log_m)
            of_q = (1.0 - self._beta) * q * (ops.maximum(log_q, -1e30) - log_m)

            # What comes through log m cancels what comes through log p and log q: each part is its own derivative.
            def gradient(*arguments: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
                upstream = arguments[0] if upstream is None else upstream
                return upstream * of_p, upstream * of_q

            return of_p + of_q, gradient

        return terms(log_p, log_q)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"beta": self._beta, **super().get_config()}
