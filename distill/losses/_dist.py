"""DIST: correlation of probabilities within examples and within classes."""

from typing import Any

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import Recipe
from distill.losses._numbers import require_number
from distill.losses._settings import Schedule
from distill.losses._shapes import ROWS_OF_LOGITS
from distill.losses._softened import Softened


@keras.saving.register_keras_serializable(package="distill")
class DIST(Softened):
    """Correlation of probabilities within each example and, over the batch, within each class.

    With P = softmax(teacher / T), Q = softmax(student / T) and ρ Pearson's correlation, row i is

        T² [β (1 − ρ(P_i, Q_i)) + γ (1 − mean_c ρ(P_·c, Q_·c))]

    The second part is one number for the batch. It is 0 for a batch of one example, because there is no other
    example to correlate with. Correlation does not prescribe how confident the student is.

    `recipe`: 1 for the student's own loss, 2 for this one.

    Args:
        beta: weight of the correlation within examples, >= 0.
        gamma: weight of the correlation within classes, >= 0.
        temperature: T from 1e-6 to 1e6; the published values are 1 on ImageNet and 4 on CIFAR. A number or a
            schedule of the training step.
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch,) float32, from 0 to 2 T² (β + γ). Calling the object: their mean, a scalar. Under
        `tf.distribute`, each replica computes the second part over its own batch.

    Raises:
        ValueError: the shapes differ or do not have two axes, or an argument is out of range.

    Example:
        ```python
        import distill

        loss = distill.losses.DIST(temperature=4.0)
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        Huang et al. 2022, arXiv:2205.10536, equations 8 to 11, with the official code's 1e-8 in the denominator.
    """

    shapes = (ROWS_OF_LOGITS,)
    head = "softmax"
    shift_invariant = True
    recipe = Recipe(student_loss_weight=1.0, distillation_weight=2.0)

    def __init__(
        self,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        temperature: float | Schedule = 1.0,
        name: str = "dist",
    ) -> None:
        super().__init__(temperature, name=name)
        self._beta = require_number("beta", beta, 0.0)
        self._gamma = require_number("gamma", gamma, 0.0)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns how far each row and the batch are from full correlation."""
        p, q = (ops.softmax(side / self._temperature.variable, axis=-1) for side in (teacher, student))
        rows = 1.0 - _pearson(p, q, axis=1)
        columns = ops.where(ops.shape(p)[0] > 1, 1.0 - ops.mean(_pearson(p, q, axis=0)), 0.0)
        return ops.square(self._temperature.variable) * (self._beta * rows + self._gamma * columns)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"beta": self._beta, "gamma": self._gamma, **super().get_config()}


def _pearson(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Returns Pearson's correlation along an axis; 0 where a side is constant."""
    a, b = (side - ops.mean(side, axis=axis, keepdims=True) for side in (a, b))
    return ops.sum(a * b, axis=axis) / (_norm(a, axis) * _norm(b, axis) + 1e-8)


def _norm(x: Tensor, axis: int) -> Tensor:
    # The root of 0 has no finite gradient.
    square = ops.sum(ops.square(x), axis=axis)
    return ops.where(square > 0, ops.sqrt(ops.where(square > 0, square, 1.0)), 0.0)
