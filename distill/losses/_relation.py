"""What losses on relations share: one layer or output of each side, as rows of features."""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from distill._types import Tensor
from distill.losses._base import DistillationLoss


class Relation(DistillationLoss):
    """Base class of losses that compare how the examples of a batch relate to each other.

    The two sides may have different widths. For each row of the batch, `call` returns how it relates to all
    rows.
    """

    shapes = ("features (batch, ..., width)",)

    def __init__(
        self,
        teacher_layer_name: str | None = None,
        student_layer_name: str | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        for side, layer in (("teacher", teacher_layer_name), ("student", student_layer_name)):
            if layer is not None and (not isinstance(layer, str) or not layer):
                raise ValueError(
                    f"{type(self).__name__} reads one layer of each side, given by its name, or the outputs. Received: "
                    f"{side}_layer_name={layer!r}. For several layers give the Distiller several losses."
                )
        self.teacher_layer_name = teacher_layer_name
        self.student_layer_name = student_layer_name

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "teacher_layer_name": self.teacher_layer_name,
            "student_layer_name": self.student_layer_name,
            "name": self.name,
        }


def flat(features: Tensor) -> Tensor:
    """Returns features of any rank as (batch, width)."""
    # The width is computed, because -1 is not defined for an empty shard of tf.distribute.
    return ops.reshape(features, (-1, math.prod(ops.shape(features)[1:])))


def unit(x: Tensor, squares: Tensor) -> Tensor:
    """Divides x by max(‖x‖, 1e-12) along the last axis, given ‖x‖² with that axis kept.

    A zero vector has no direction, so it gets no gradient; the formula's own would be 1e12 times what flows in.
    """
    return x * unless_zero(squares, lambda safe: ops.rsqrt(ops.maximum(safe, 1e-24)))


def unless_zero(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies `function`, and returns 0 with a gradient of 0 where x is 0."""
    # The inner `where` keeps an infinite derivative at 0 from meeting the outer one's gradient of 0, which gives NaN.
    return ops.where(x > 0, function(ops.where(x > 0, x, 1.0)), 0.0)
