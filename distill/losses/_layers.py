"""What losses on layers share: pairs of layers."""

from collections.abc import Sequence
from typing import Any

from distill._types import Tensor, Tensors
from distill.losses._base import DistillationLoss
from distill.losses._shapes import MAPS, Shape, agree, shape_error

LayerNames = str | Sequence[str] | None


class OnLayers(DistillationLoss):
    """Base class of losses that compare layers of both sides in pairs.

    A subclass implements `compare` for one pair; the pairs are summed.
    """

    shapes: tuple[str, ...] = (MAPS,)

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        # A subclass may also set these as class attributes.
        if teacher_layer_name is not None:
            self.teacher_layer_name = _as_name(teacher_layer_name)
        if student_layer_name is not None:
            self.student_layer_name = _as_name(student_layer_name)
        counts = [
            len(layer) if isinstance(layer, tuple) else None
            for layer in (self.teacher_layer_name, self.student_layer_name)
        ]
        if counts[0] != counts[1] or counts[0] == 0:
            raise ValueError(
                f"{type(self).__name__} compares layers in pairs: it needs one name on each side, or two tuples of the "
                f"same length. Received: teacher_layer_name={teacher_layer_name!r}, "
                f"student_layer_name={student_layer_name!r}."
            )

    def call(self, teacher: Tensors, student: Tensors) -> Tensor:
        """Returns the sum over the pairs of layers."""
        return sum(self.compare(i, t, s) for i, (t, s) in enumerate(pairs_of(teacher, student)))

    def compare(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns one value per example (per token, for tokens) of pair number `stage`. A subclass implements this."""
        raise NotImplementedError(f"{type(self).__name__} must implement compare(stage, teacher, student).")

    def validate_outputs(self, teacher_outputs: Tensors, student_outputs: Tensors) -> None:
        """Raises ValueError unless both sides have features that can be compared pair by pair."""
        super().validate_outputs(teacher_outputs, student_outputs)
        pairs = [(tuple(t.shape), tuple(s.shape)) for t, s in pairs_of(teacher_outputs, student_outputs)]
        for teacher, student in pairs:
            self._require_pair(teacher, student)
        if len({student[1:2] if len(student) == 3 else () for _, student in pairs}) > 1:
            raise ValueError(
                f"{type(self).__name__} sums over its layers, so all of them must have the same number of tokens. "
                f"Received: {[student for _, student in pairs]}. Use a loss of its own for each layer."
            )

    def _require_pair(self, teacher: Shape, student: Shape) -> None:
        if teacher[-1] is None or student[-1] is None:
            raise shape_error(
                f"{type(self).__name__} must know the number of channels, the last axis",
                teacher,
                student,
                "Build the models on inputs with a fixed number of channels.",
            )
        if len(teacher) == 3 and not agree(teacher[1:2], student[1:2]):
            raise shape_error(
                f"{type(self).__name__} compares token by token, so both sides must have the same number of tokens",
                teacher,
                student,
                "Read layers of the same length, or pool the tokens to one vector in both models.",
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = (self.teacher_layer_name, self.student_layer_name)
        # Lists, because JSON has no tuples.
        teacher, student = (list(layer) if isinstance(layer, tuple) else layer for layer in names)
        return {"teacher_layer_name": teacher, "student_layer_name": student, "name": self.name}


def pairs_of(teacher: Tensors, student: Tensors) -> list[tuple[Tensor, Tensor]]:
    """Returns the pairs of layers; one pair if single tensors came."""
    left, right = (list(side) if isinstance(side, list | tuple) else [side] for side in (teacher, student))
    return list(zip(left, right, strict=True))


def _as_name(name: str | Sequence[str]) -> str | tuple[str, ...]:
    return name if isinstance(name, str) else tuple(name)
