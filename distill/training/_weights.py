"""The weights of a Distiller's loss: their defaults, and a table of what is in force."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from distill._tables import aligned
from distill.losses._base import DistillationLoss
from distill.losses._settings import Schedule
from distill.training._arguments import as_weights
from distill.training._outputs import Output


class Weights(NamedTuple):
    """The weights of a Distiller's loss, each a number or a schedule.

    Attributes:
        losses: weight of each distillation loss.
        student: weight of the student's own loss.
        distillation: weight of the distillation side; `None` for 1 − `student`.
    """

    losses: list[float | Schedule]
    student: float | Schedule
    distillation: float | Schedule | None


def with_defaults(
    losses: Sequence[tuple[Output, DistillationLoss]],
    loss_weights: Any,
    student: float | Schedule | None,
    distillation: float | Schedule | None,
) -> Weights:
    """Returns the weights given to a Distiller, or the published ones if none is given; see `Distiller`."""
    recipes = [loss.recipe for _, loss in losses]
    none_given = loss_weights is None and student is None and distillation is None
    if not none_given or not any(recipes):
        return Weights(as_weights(loss_weights, losses), 0.5 if student is None else student, distillation)
    students = [recipe.get("student_loss_weight", 0.5) for recipe in recipes]
    published = [
        recipe.get("distillation_weight", 1.0 - own) for recipe, own in zip(recipes, students, strict=True)
    ]
    if len(losses) == 1:
        return Weights([1.0], students[0], published[0])
    return Weights(list(published), max(students), 1.0)


@dataclasses.dataclass(frozen=True)
class WeightRow:
    """The weight of one loss in the total.

    Attributes:
        loss: name of the loss in the logs.
        weight: its current weight in the total; for a distillation loss, the product of the distillation
            weight and its own.
        scheduled: whether the weight follows a schedule.

    Example:
    ```python
    import distill

    for row in distill.Distiller(teacher, student, distill.SoftTargets()).weights_table().rows:
        print(row.loss, row.weight)
    ```
    """

    loss: str
    weight: float
    scheduled: bool


@dataclasses.dataclass(frozen=True)
class WeightsTable:
    """The weight of each loss in a Distiller's total; `print` shows it as a table.

    Attributes:
        rows: a row for the student's own loss, and one for each distillation loss.

    Example:
        >>> print(distill.Distiller(teacher, student, distill.SoftTargets(4.0)).weights_table())
        loss          weight
        student_loss     0.1  fixed
        soft_targets     0.9  fixed
    """

    rows: tuple[WeightRow, ...]

    def __str__(self) -> str:
        cells = [(row.loss, f"{row.weight:g}", "schedule" if row.scheduled else "fixed") for row in self.rows]
        return "\n".join(aligned([("loss", "weight", ""), *cells], "<><"))

    @property
    def formula(self) -> str:
        """The sum in one line, such as "0.1 student_loss + 0.9 soft_targets"."""
        return " + ".join(f"{row.weight:g} {row.loss}" for row in self.rows)
