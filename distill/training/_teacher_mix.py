"""How several teachers make one distillation loss."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from distill._types import Tensor, Tensors
from distill.losses._base import DistillationLoss
from distill.losses._batch_loss import BatchLoss
from distill.losses._settings import Schedule, Setting


class TeacherMix(NamedTuple):
    """The weights of the teachers, and what is averaged.

    Attributes:
        weights: weight of each teacher.
        mean: "logits" or "probabilities" for one loss against the weighted mean of these; `None` for the weighted
            sum of the losses against each teacher.
    """

    weights: tuple[Setting, ...]
    mean: str | None

    @classmethod
    def of(cls, weights: Sequence[float | Schedule] | None, mean: str | None, teachers: int) -> "TeacherMix":
        """Checks the arguments of a Distiller and returns them as a mix; `None` gives all teachers the same weight.

        Args:
            weights: the Distiller's `teacher_weights`.
            mean: the Distiller's `teacher_mean`.
            teachers: number of teachers.

        Raises:
            ValueError: the mean is unknown, or the weights are not of these teachers or out of range.
        """
        if mean not in (None, "logits", "probabilities"):
            raise ValueError(
                "teacher_mean must be 'logits', 'probabilities', or None for the sum of the losses against each "
                f"teacher. Received: teacher_mean={mean!r}."
            )
        if teachers == 1 and (weights is not None or mean is not None):
            raise ValueError(
                "teacher_weights and teacher_mean need several teachers. "
                f"Received: teacher_weights={weights!r}, teacher_mean={mean!r} and one teacher."
            )
        given = [1.0 / teachers] * teachers if weights is None else weights
        listed: list[Any] = list(given) if isinstance(given, (list, tuple, np.ndarray)) else [given]
        if len(listed) != teachers:
            raise ValueError(
                f"teacher_weights must hold one weight per teacher. Received: teacher_weights={weights!r} for "
                f"{teachers} teachers."
            )
        settings = [Setting(f"teacher_{i}_weight", weight, low=0.0) for i, weight in enumerate(listed)]
        if mean is not None:
            if any(setting.schedule is not None for setting in settings):
                raise ValueError(
                    "The weights of a mean must sum to 1 at every step, so they cannot follow schedules. Received: "
                    f"schedules with teacher_mean={mean!r}. Give numbers, or leave teacher_mean out: the losses "
                    "against each teacher are then added up."
                )
            values = [setting.value for setting in settings]
            if abs(sum(values) - 1.0) > 1e-5:
                raise ValueError(
                    f"The weights of a mean must sum to 1. Received: {values}, which sum to {sum(values):g}."
                )
        return cls(tuple(settings), mean)

    def require_fit(self, losses: Sequence[DistillationLoss]) -> None:
        """Raises ValueError if a loss cannot compare the student with the mean of several teachers."""
        if self.mean is None:
            return
        for loss in losses:
            if isinstance(loss, BatchLoss) or loss.teacher_layer_name is not None or loss.head is None:
                raise ValueError(
                    "teacher_mean averages the teachers' logits, so it needs losses on logits. "
                    f"Received: teacher_mean={self.mean!r} and {loss.name!r}, which compares something else. "
                    "Leave teacher_mean out: the losses against each teacher are then added up."
                )
            averages = type(loss).average_predictions is not DistillationLoss.average_predictions
            if self.mean == "probabilities" and not averages:
                raise ValueError(
                    f"{type(loss).__name__} cannot average probabilities. Received: teacher_mean='probabilities'. "
                    "Use teacher_mean='logits', or leave teacher_mean out."
                )

    def require_logits(self, teacher: str, has_all_logits: bool) -> None:
        """Raises ValueError if the logits of a teacher, of which not all are known, cannot be averaged."""
        if self.mean is not None and not has_all_logits:
            raise ValueError(
                f"teacher_mean averages the logits of all classes. Received: teacher_mean={self.mean!r} and recorded "
                f"answers of {teacher!r} that hold only some of the classes. Record them with cache.Dense(), or leave "
                "teacher_mean out: the losses against each teacher are then added up."
            )

    def loss(
        self, loss: DistillationLoss, taught: Sequence[Tensors], compare: Callable[[Tensors], Tensor]
    ) -> Tensor:
        """Returns the loss against all teachers together, a float32 scalar.

        Args:
            loss: the distillation loss.
            taught: what the loss reads of each teacher.
            compare: returns the loss against one answer.
        """
        if len(taught) == 1:
            return compare(taught[0])
        weights = [setting.variable for setting in self.weights]
        if self.mean is None:
            return sum(weight * compare(teacher) for weight, teacher in zip(weights, taught, strict=True))
        logits = [ops.cast(teacher, "float32") for teacher in taught]
        if self.mean == "logits":
            return compare(sum(weight * teacher for weight, teacher in zip(weights, logits, strict=True)))
        return compare(loss.average_predictions(logits, weights))
