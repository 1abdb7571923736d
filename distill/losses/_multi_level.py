"""Multi-level logit distillation: several temperatures, and the relations of examples and of classes."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import DistillationLoss, Recipe
from distill.losses._numbers import require_number
from distill.losses._shapes import ROWS_OF_LOGITS
from distill.losses._softened import kl_divergence
from distill.losses._standardization import standardize


@keras.saving.register_keras_serializable(package="distill")
class MultiLevelKD(DistillationLoss):
    """Soft targets at several temperatures, with the similarities among examples and among classes.

    At each temperature T, with P = softmax(teacher / T) and Q = softmax(student / T), row i adds

        T² KL(P_i ‖ Q_i) + Σ_j (P Pᵀ − Q Qᵀ)²_ij + ‖Pᵀ P − Qᵀ Q‖² / C

    The last part is one number for the batch. It is computed from batch² products of rows, so a step takes
    memory for batch · (batch + C) floats, not for C².

    `recipe`: 0.1 for the student's own loss, 9 for this one, as for `Standardized`.

    Args:
        temperatures: one or more T from 1e-6 to 1e6.
        standardize: whether to standardize the logits of the divergence, as `Standardized` does, and nothing
            else [2].
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch,) float32; >= 0 up to rounding. Calling the object: their mean, a scalar. Under
        `tf.distribute`, each replica relates the examples of its own batch.

    Raises:
        ValueError: the shapes differ or do not have two axes, or temperatures are missing or out of range.

    Example:
        ```python
        import distill

        loss = distill.losses.MultiLevelKD(standardize=True)
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        [1] Jin, Wang, Lin 2023, Multi-level logit distillation, CVPR: its alignment of instances, batch and classes,
            without its two augmented views.
        [2] Sun et al. 2024, arXiv:2403.01427. All three parts at each temperature, T², the sums over entries,
            and the divisions by B and C follow its official code. The released configurations weigh
            cross-entropy by 0.1 and distillation by 0.9 for [1], and by 1 and 9 for [2].
    """

    shapes = (ROWS_OF_LOGITS,)
    same_shape = True
    head = "softmax"
    shift_invariant = True
    recipe = Recipe(student_loss_weight=0.1, distillation_weight=9.0)

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        standardize: bool = False,
        name: str = "multi_level_kd",
    ) -> None:
        super().__init__(name=name)
        if not isinstance(temperatures, (list, tuple)) or not temperatures:
            raise ValueError(
                f"temperatures must be a list of one or more numbers. Received: temperatures={temperatures!r}."
            )
        self._temperatures = tuple(
            require_number(f"temperatures[{i}]", t, 1e-6, 1e6) for i, t in enumerate(temperatures)
        )
        self._standardize = bool(standardize)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the three parts of each row, summed over temperatures."""
        total = ops.zeros_like(student[:, 0])
        sides = (
            [standardize(side) for side in (teacher, student)] if self._standardize else (teacher, student)
        )
        for temperature in self._temperatures:
            log_p, log_q = (ops.log_softmax(side / temperature, axis=-1) for side in sides)
            total += temperature**2 * kl_divergence(log_p, log_q)
            if self._standardize:  # the divergence is the only part that compares standardized logits
                log_p, log_q = (ops.log_softmax(side / temperature, axis=-1) for side in (teacher, student))
            p, q = ops.exp(log_p), ops.exp(log_q)
            examples = ops.matmul(p, ops.transpose(p)) - ops.matmul(q, ops.transpose(q))
            total += ops.sum(ops.square(examples), axis=-1) + _between_classes(p, q) / p.shape[-1]
        return total

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "temperatures": list(self._temperatures),
            "standardize": self._standardize,
            "name": self.name,
        }


def _between_classes(p: Tensor, q: Tensor) -> Tensor:
    """Returns ‖PᵀP − QᵀQ‖² without a matrix of classes by classes."""
    # With D = P − Q and S = P + Q it is ‖DᵀS + SᵀD‖² / 4. Of D and S themselves, because in products of P and Q alone
    # the digits of near rows would cancel.
    d, s = p - q, p + q
    mixed = ops.matmul(s, ops.transpose(d))
    products = ops.matmul(d, ops.transpose(d)) * ops.matmul(s, ops.transpose(s))
    return (ops.sum(products) + ops.sum(mixed * ops.transpose(mixed))) / 2.0
