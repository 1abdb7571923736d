"""What a Distiller's training step was traced with, and when it must be traced anew."""

from collections.abc import Sequence

import keras

from distill._keras import compiled_loss, compiled_metrics
from distill._types import Tensor, Tensors
from distill.training._objective import Objective
from distill.training._recorded import RecordedTeacher
from distill.training._teacher import Peer, Teacher

NEEDS_LABELS = (
    "A student_loss_weight above 0 needs labels. Received: a batch without labels. Train on (x, y), or set "
    "student_loss_weight=0."
)


class TracedStep:
    """Remembers what a training step took for granted when it was traced, and tells when that has changed.

    Keras traces and compiles a training step once and uses it in later calls of `fit`. What the step read from
    Python while it was traced stays as it was then: which variables there are, and whether a batch has labels.

    Args:
        objective: the loss that the step minimizes.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        # A compiled step cannot read this from the variable of the weight.
        self._needs_labels = objective.needs_labels
        self._lacks_labels = False
        self._evaluated_without = False
        self._variables: list[object] = []
        self._teachers: list[Tensor] = []

    def forget(self) -> None:
        """Starts anew: `compile` has dropped the step."""
        self._lacks_labels = self._evaluated_without = False

    def refresh(self) -> None:
        """Looks again whether the student's own loss counts; to be called outside of the step."""
        self._needs_labels = self._objective.needs_labels

    def is_stale(self, student: keras.Model, teachers: Sequence[Teacher | Peer | RecordedTeacher]) -> bool:
        """Whether the step must be traced anew; remembers what it will then have been traced with."""
        # Traced without labels, the step would go on without the student's loss.
        stale = self._needs_labels and self._lacks_labels
        # Traced before the student was quantized or pruned, say, it would go on with the old variables.
        # Kept themselves: a new object may get the address of one that is gone.
        variables = [part for variable in student.variables for part in (variable, variable.constraint)]
        stale = stale or not _are_same(variables, self._variables)
        self._variables = variables
        if keras.backend.backend() == "jax":
            # On JAX the teachers' weights are constants of the step, since they are no state of the Distiller.
            values = [variable.value for teacher in teachers for variable in teacher.variables]
            stale = stale or not _are_same(values, self._teachers)
            self._teachers = values
        return stale

    def has_no_room_for_labels(self, model: keras.Model) -> bool:
        """Whether the step cannot take labels: Keras creates the variables of compiled metrics with the first ones."""
        compiled = (compiled_loss(model), compiled_metrics(model))
        without = self._lacks_labels or self._evaluated_without
        return without and any(part is not None and not part.built for part in compiled)

    def note_evaluation(self, labels: Tensors) -> None:
        """Remembers, while the step of an evaluation is traced, whether it has labels, which it need not have."""
        self._evaluated_without = self._evaluated_without or labels is None

    def note_labels(self, labels: Tensors) -> None:
        """Remembers, while the step is traced, whether it has labels; raises ValueError if it needs them."""
        if labels is not None:
            return
        if self._needs_labels:
            raise ValueError(NEEDS_LABELS)
        self._lacks_labels = True

    def require_loss(self, loss: object) -> None:
        """Raises ValueError if there is no loss for the labels, and the student's own loss counts."""
        if loss is None and self._needs_labels:
            setting = self._objective.student_loss_weight
            weight = f"{setting.value:g}" if setting.schedule is None else "a schedule"
            raise ValueError(
                "A student_loss_weight above 0 needs the student's own loss. Received: loss=None, "
                f"student_loss_weight={weight}. Pass a loss to compile, such as 'sparse_categorical_crossentropy', or "
                "make the Distiller with student_loss_weight=0."
            )

    def require_labels(self, model: keras.Model, weight: float) -> None:
        """Raises ValueError if the model was compiled or trained without labels, and now its own loss would count."""
        if weight > 0 and model.compiled and (compiled_loss(model) is None or self._lacks_labels):
            raise ValueError(
                "A student_loss_weight above 0 needs a compiled loss and labels, but this Distiller was compiled or "
                f"trained without them. Received: student_loss_weight={weight:g}. Call compile(loss=...) again first."
            )


def _are_same(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
