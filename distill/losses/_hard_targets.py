"""Pseudo-labels: cross-entropy against the teacher's most likely class."""

import math

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import DistillationLoss, Recipe
from distill.losses._shapes import LOGITS
from distill.losses._sparse import TopLogits


@keras.saving.register_keras_serializable(package="distill")
class HardTargets(DistillationLoss):
    """Cross-entropy of the student against the teacher's most likely class: pseudo-labels.

    Row i is −log softmax(student_i)[argmax teacher_i]; if logits are equal, the first one counts [1].

    `recipe`: one half for the student's own loss, one half for this one.

    Args:
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32, in nats. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        ```python
        import distill

        distiller = distill.Distiller(teacher, student, distill.losses.HardTargets())
        ```

    References:
        [1] Touvron et al. 2021, arXiv:2012.12877, equation 3: DeiT's hard distillation, half of this loss and
            half of the cross-entropy with the labels. In the paper, the teacher's class has its own token and
            its own head.
    """

    shapes = (LOGITS,)
    same_shape = True
    head = "softmax"
    shift_invariant = True
    sparse = (TopLogits,)
    recipe = Recipe(student_loss_weight=0.5, distillation_weight=0.5)

    def __init__(self, *, name: str = "hard_targets") -> None:
        super().__init__(name=name)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the cross-entropy of each row."""
        # Integers, because on TensorFlow Keras' argmax of floats first searches for negative zeros, to match JAX.
        most = ops.max(teacher, axis=-1, keepdims=True)
        largest = ops.cast(teacher >= most, "int32")
        values = ops.sparse_categorical_crossentropy(ops.argmax(largest, axis=-1), student, from_logits=True)
        return ops.where(ops.isnan(most[..., 0]), math.nan, values)  # no class, rather than the first

    def call_sparse(self, teacher: TopLogits, student: Tensor) -> Tensor:
        """Returns the cross-entropy of each row, from the teacher's largest logit."""
        return ops.sparse_categorical_crossentropy(teacher.ids[..., 0], student, from_logits=True)
