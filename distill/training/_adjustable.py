"""The weights of a Distiller: read, assigned during training, and shown."""

from collections.abc import Sequence
from typing import Any

from distill.losses._settings import Setting
from distill.training._arguments import as_weights
from distill.training._objective import Objective
from distill.training._outputs import Output
from distill.training._recorded import RecordedTeacher
from distill.training._teacher import Peer, Teacher
from distill.training._teacher_mix import TeacherMix
from distill.training._traced_step import TracedStep
from distill.training._weights import WeightsTable


class AdjustableWeights:
    """The part of `Distiller` that lets its weights be read and assigned. They live in the objective's variables."""

    _objective: Objective
    _outputs: list[Output]
    _teachers: tuple[Teacher | Peer | RecordedTeacher, ...]
    _traced_step: TracedStep

    @property
    def student_loss_weight(self) -> float:
        """Weight of the student's own loss; a new value takes effect at the next training step."""
        return self._objective.student_loss_weight.value

    @student_loss_weight.setter
    def student_loss_weight(self, value: float) -> None:
        setting = self._objective.student_loss_weight
        self._traced_step.require_labels(self, setting.check(value))
        setting.value = value
        self._traced_step.refresh()

    @property
    def distillation_weight(self) -> float:
        """Weight of the distillation side; a new value takes effect at the next training step."""
        setting = self._objective.distillation_weight
        return 1.0 - self.student_loss_weight if setting is None else setting.value

    @distillation_weight.setter
    def distillation_weight(self, value: float) -> None:
        if self._objective.distillation_weight is None:
            raise ValueError(
                "The distillation weight of this Distiller follows as 1 - student_loss_weight. Received: "
                f"distillation_weight={value}. Pass distillation_weight to the constructor to set it on its own."
            )
        self._objective.distillation_weight.value = value

    @property
    def distillation_loss_weights(self) -> tuple[float, ...]:
        """Weight of each distillation loss, output by output; new values take effect at the next training step."""
        return tuple(term.weight.value for term in self._objective.terms)

    @distillation_loss_weights.setter
    def distillation_loss_weights(self, values: Any) -> None:
        terms = self._objective.terms
        losses = [(output, term.loss) for output, term in zip(self._outputs, terms, strict=True)]
        if isinstance(values, tuple) and len(values) == len(terms):  # as they are read
            _assign([term.weight for term in terms], values)
            return
        if isinstance(values, dict) and (left := [one for one in self._outputs if one not in values]):
            raise ValueError(
                "New weights must be given for all outputs with losses, since the others would become 1. Received: "
                f"none for {sorted(set(map(str, left)))}."
            )
        _assign([term.weight for term in terms], as_weights(values, losses))

    @property
    def teacher_weights(self) -> tuple[float, ...]:
        """Weight of each teacher; new values take effect at the next training step."""
        return tuple(setting.value for setting in self._objective.mix.weights)

    @teacher_weights.setter
    def teacher_weights(self, values: Sequence[float]) -> None:
        mix = self._objective.mix
        TeacherMix.of(values, mix.mean, len(self._teachers))  # the checks of the constructor
        _assign(mix.weights, values)

    def weights_table(self) -> WeightsTable:
        """Returns the current weight of each loss in the total; `print` shows it as a table.

        Example:
            >>> print(distill.Distiller(teacher, student, distill.SoftTargets(4.0)).weights_table())
            loss          weight
            student_loss     0.1  fixed
            soft_targets     0.9  fixed
        """
        return self._objective.weights()


def _assign(settings: Sequence[Setting], values: Sequence[Any]) -> None:
    """Sets all of them, or none if one is refused."""
    for setting, value in zip(settings, values, strict=True):
        setting.check(value)
    for setting, value in zip(settings, values, strict=True):
        setting.value = value
