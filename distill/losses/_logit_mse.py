"""Mean squared difference of logits."""

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import DistillationLoss, Recipe
from distill.losses._shapes import LOGITS


@keras.saving.register_keras_serializable(package="distill")
class LogitMSE(DistillationLoss):
    """Mean squared difference of logits.

    Row i is the mean over classes of (student_i − teacher_i)² [1]. Adding one number to all logits of a row
    does not change their softmax, but it changes this loss. If you tell the Distiller that a side returns
    probabilities (`from_logits=False`), that number is not known: both sides then get the mean 0 over the
    classes.

    `recipe`: 0 for the student's own loss, 1 for this one. In the paper, the student learns from logits
    alone, without labels.

    Args:
        name: key of this loss in the training logs.

    Call args:
        teacher: logits (batch, ..., classes), classes >= 2; receives no gradient.
        student: logits, same shape.

    Returns:
        `call`: (batch, ...) float32. Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or there is a single class.

    Example:
        ```python
        import distill

        loss = distill.losses.LogitMSE()
        distiller = distill.Distiller(teacher, student, loss)
        ```

    References:
        [1] Ba, Caruana 2014, arXiv:1312.6184, equation 1, with the mean over classes as in today's implementations.
    """

    shapes = (LOGITS,)
    same_shape = True
    head = "softmax"
    recipe = Recipe(student_loss_weight=0.0, distillation_weight=1.0)

    def __init__(self, *, name: str = "logit_mse") -> None:
        super().__init__(name=name)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the mean squared difference of each row."""
        return ops.mean(ops.square(student - teacher), axis=-1)
