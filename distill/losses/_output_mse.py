"""Losses on outputs as they are: regression heads."""

from typing import Any

import keras
from keras import ops

from distill.losses._base import DistillationLoss


@keras.saving.register_keras_serializable(package="distill")
class OutputMSE(DistillationLoss):
    """Mean squared difference between the outputs of teacher and student: distillation of a regression head.

    Row i is the mean over the last axis of (student_i − teacher_i)². It comes from no paper, so `recipe` is empty.

    Args:
        name: the key of this term in the training logs.

    Call args:
        teacher: outputs (batch, ..., values); receives no gradient.
        student: outputs, same shape.

    Returns:
        `call`: (batch, ...) float32, in squared units of the output.
        Calling the object: their mean, a scalar.

    Raises:
        ValueError: the shapes differ, or there is no axis besides the batch.
    """

    same_shape = True

    def __init__(self, name: str = "output_mse") -> None:
        super().__init__(name)

    def call(self, teacher: Any, student: Any) -> Any:
        """The mean squared difference of each row."""
        return ops.mean(ops.square(student - teacher), axis=-1)

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are of one shape (batch, ..., values)."""
        super().validate_outputs(teacher_outputs, student_outputs)
        if len(student_outputs.shape) < 2:
            raise ValueError(
                f"OutputMSE needs outputs (batch, ..., values). Received: shape {tuple(student_outputs.shape)}. "
                "Give a head with one value per example an axis of its own: (batch, 1)."
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"name": self.name}
