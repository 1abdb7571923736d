"""The distillation side of a Distiller's loss: one term for each loss, and what each reads and weighs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from distill.losses.base import BatchLoss, DistillationLoss
from distill.outputs import Output, pick
from distill.settings import Setting
from distill.taps import Read


class Term(NamedTuple):
    """One distillation loss in the total.

    Attributes:
        name: its key in the logs.
        output: the student's output that it is for, or `None` for the only one, or all.
        loss: the loss.
        weight: its weight.
        tracker: its mean over the epoch.
        teacher_read: what it reads of a teacher.
        student_read: what it reads of the student.
    """

    name: str
    output: Output
    loss: DistillationLoss
    weight: Setting
    tracker: keras.metrics.Mean
    teacher_read: Read
    student_read: Read

    def settings(self) -> dict[str, Setting]:
        """Its numbers and schedules, by their names in the logs."""
        own = {f"{self.name}_{setting.name}": setting for setting in self.loss.settings}
        return {f"{self.name}_weight": self.weight, **own}

    def value(
        self,
        taught: Sequence[Any],
        learned: Any,
        teacher_weights: Sequence[Setting],
        teacher_mean: str | None,
        sample_weight: Any,
    ) -> Any:
        """The loss of a batch, a float32 scalar.

        Args:
            taught: what the term reads of each teacher.
            learned: what it reads of the student.
            teacher_weights: of each teacher.
            teacher_mean: how teachers make one loss, see `Distiller`.
            sample_weight: as Keras has it: a tensor, or one for each output of the student.
        """
        sample_weight = self._own_weight(sample_weight)
        if len(taught) == 1:
            return self.loss(taught[0], learned, sample_weight=sample_weight)
        weights = [setting.variable for setting in teacher_weights]
        if teacher_mean is None:
            losses = [self.loss(teacher, learned, sample_weight=sample_weight) for teacher in taught]
            return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
        logits = [ops.cast(teacher, "float32") for teacher in taught]
        if teacher_mean == "logits":
            mean = sum(weight * teacher for weight, teacher in zip(weights, logits, strict=True))
        else:
            mean = self.loss.average_predictions(logits, weights)
        return self.loss(mean, learned, sample_weight=sample_weight)

    def _own_weight(self, sample_weight: Any) -> Any:
        if sample_weight is None:
            return None
        if isinstance(self.loss, BatchLoss):
            raise ValueError(
                f"sample_weight and class_weight need one loss per example, and {self.name!r} returns one number "
                "for a batch. Train without weights, use a loss of distill.losses, or keep the weights to the "
                "student's own loss with weigh_distillation=False."
            )
        if not keras.tree.is_nested(sample_weight):
            return sample_weight
        if self.output is not None:
            return pick(sample_weight, self.output, "sample_weight")
        # Keras makes one weight an example into one for each output; a loss on no output takes it back.
        weights = [ops.convert_to_tensor(weight) for weight in keras.tree.flatten(sample_weight)]
        if len({len(weight.shape) for weight in weights}) > 1:
            raise ValueError(
                f"{self.name!r} is not of one output, so its sample_weight is the mean of the outputs'. Received: "
                f"shapes {[tuple(weight.shape) for weight in weights]}. Give one weight per example, or keep them to "
                "the student's own loss with weigh_distillation=False."
            )
        return sum(ops.cast(weight, "float32") for weight in weights) / len(weights)
