"""Mean squared difference of outputs, for regression heads."""

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import DistillationLoss


@keras.saving.register_keras_serializable(package="distill")
class OutputMSE(DistillationLoss):
    """Mean squared difference between the outputs of teacher and student: distillation of a regression head.

    Row i is the mean over the last axis of (student_i − teacher_i)².

    `recipe`: empty, because the loss comes from no paper.

    Args:
        name: key of this loss in the training logs.

    Call args:
        teacher: outputs (batch, ..., values); receives no gradient.
        student: outputs, same shape.

    Returns:
        `call`: (batch, ...) float32, in squared units of the output.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or there is no axis besides the batch.

    Example:
        ```python
        import distill

        distiller = distill.Distiller(teacher, student, distill.losses.OutputMSE())
        distiller.compile("adam", loss="mse")
        ```
    """

    shapes = ("outputs (batch, ..., values)",)
    same_shape = True

    def __init__(self, *, name: str = "output_mse") -> None:
        super().__init__(name=name)

    def call(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the mean squared difference of each row."""
        return ops.mean(ops.square(student - teacher), axis=-1)
