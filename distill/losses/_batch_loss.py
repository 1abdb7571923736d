"""An adapter for the losses of `keras.distillation`."""

import keras
from keras import ops

from distill._keras import to_snake_case
from distill._types import Tensor, Tensors
from distill.losses._base import DistillationLoss
from distill.losses._shapes import shape_error


class BatchLoss(DistillationLoss):
    """Wraps a `keras.distillation` loss, which returns one number for a whole batch.

    Args:
        loss: a `keras.distillation.DistillationLoss`. It reads the layers named by its attributes
            `teacher_layer_name` and `student_layer_name` if it has them, otherwise the outputs.
    """

    def __init__(self, loss: keras.distillation.DistillationLoss) -> None:
        super().__init__(name=to_snake_case(type(loss).__name__).strip("_"))
        self._loss = loss
        # Keras does not define these attributes on the base class; its own Distiller also uses getattr.
        self.teacher_layer_name = getattr(loss, "teacher_layer_name", None)
        self.student_layer_name = getattr(loss, "student_layer_name", None)

    def __call__(
        self,
        teacher: Tensors,
        student: Tensors,
        sample_weight: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Returns the number of the batch. The wrapped loss knows neither labels nor masks."""
        unmasked = keras.tree.map_structure(ops.copy, student)  # a copy has no Keras mask
        return super().__call__(teacher, unmasked, sample_weight)

    def call(self, teacher: Tensors, student: Tensors, *extra: Tensor) -> Tensor:
        """Returns the batch's number once per example, so that their mean is that number."""
        value = self._loss.compute_loss(teacher, student)
        batch = ops.shape(keras.tree.flatten(student)[0])[0]
        return ops.broadcast_to(ops.cast(value, "float32"), (batch,))

    def validate_model_compatibility(self, teacher: keras.Model, student: keras.Model) -> None:
        """Calls the wrapped loss's own check."""
        # The check of FeatureDistillation looks for layers at the top level only. `Taps` finds nested ones too.
        if not isinstance(self._loss, keras.distillation.FeatureDistillation):
            self._loss.validate_model_compatibility(teacher, student)

    def validate_outputs(self, teacher_outputs: Tensors, student_outputs: Tensors) -> None:
        """Calls the wrapped loss's own check, and refuses shapes that it would broadcast."""
        self._loss.validate_outputs(teacher_outputs, student_outputs)
        sides = (keras.tree.flatten(outputs) for outputs in (teacher_outputs, student_outputs))
        for teacher, student in zip(*sides, strict=False):
            left, right = tuple(teacher.shape), tuple(student.shape)
            if len(left) != len(right) or any(
                a != b and 1 in (a, b) for a, b in zip(left[1:], right[1:], strict=True)
            ):
                raise shape_error(
                    f"{self.name} compares element by element, so teacher and student must have the same shape",
                    left,
                    right,
                    "Read layers of the same shape, or use a loss of distill.losses with a projector, such as Hint.",
                )
