"""What all losses on the features of layers have in common: layers in pairs, and projectors of the student's side."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import keras
from keras import ops

from distill.losses._base import DistillationLoss

_LOG = logging.getLogger(__name__)

LayerNames = str | Sequence[str] | None
Shape = tuple[Any, ...]

_KINDS = {
    2: "vectors (batch, channels)",
    3: "tokens (batch, time, channels)",
    4: "maps (batch, height, width, channels)",
}


class OnLayers(DistillationLoss):
    """Compares layers of both sides in pairs; a subclass implements `compare` for one pair."""

    ranks: ClassVar[tuple[int, ...]] = (4,)

    def __init__(self, teacher_layer_name: LayerNames, student_layer_name: LayerNames, name: str) -> None:
        super().__init__(name)
        # A subclass may name them in its body, as any loss.
        if teacher_layer_name is not None:
            self.teacher_layer_name = _as_name(teacher_layer_name)
        if student_layer_name is not None:
            self.student_layer_name = _as_name(student_layer_name)
        counts = [
            len(name) if isinstance(name, tuple) else None
            for name in (self.teacher_layer_name, self.student_layer_name)
        ]
        if counts[0] != counts[1] or counts[0] == 0:
            raise ValueError(
                f"{type(self).__name__} compares layers in pairs: one name on each side, or two tuples of as many. "
                f"Received: teacher_layer_name={teacher_layer_name!r}, student_layer_name={student_layer_name!r}."
            )

    def call(self, teacher: Any, student: Any) -> Any:
        """The sum over the stages."""
        return sum(self.compare(i, t, s) for i, (t, s) in enumerate(pairs_of(teacher, student)))

    def compare(self, stage: int, teacher: Any, student: Any) -> Any:
        """One value per example (per token, for tokens) of one stage; a subclass implements it."""
        raise NotImplementedError(f"{type(self).__name__} must implement compare(stage, teacher, student).")

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Raises ValueError unless both sides are features of one kind, as many of them."""
        super().validate_outputs(teacher_outputs, student_outputs)
        pairs = pairs_of(teacher_outputs, student_outputs)
        for teacher, student in pairs:
            self.validate_pair(tuple(teacher.shape), tuple(student.shape))
        kinds = {tuple(student.shape[1:2]) if len(student.shape) == 3 else () for _, student in pairs}
        if len(kinds) > 1:
            raise ValueError(
                f"{type(self).__name__} sums its stages, so tokens come from stages of one length. "
                f"Received: {[tuple(student.shape) for _, student in pairs]}. Use a loss for each stage."
            )

    def validate_pair(self, teacher: Shape, student: Shape) -> None:
        """Raises ValueError unless two shapes are of one kind that the loss compares; called for each stage."""
        if len(teacher) not in self.ranks or len(teacher) != len(student):
            raise misfit(
                f"{type(self).__name__} compares {' or '.join(_KINDS[rank] for rank in self.ranks)}, the same on "
                "both sides",
                teacher,
                student,
                "Read layers of that kind; keras.layers.Reshape turns tokens into a map.",
            )
        if teacher[-1] is None or student[-1] is None:
            raise misfit(
                f"{type(self).__name__} must know the channels, the last axis",
                teacher,
                student,
                "Build the models on inputs of known channels.",
            )
        if len(teacher) == 3 and not agree(teacher[1:2], student[1:2]):
            raise misfit(
                f"{type(self).__name__} compares token by token, so both sides need as many",
                teacher,
                student,
                "Read layers of one length, or pool the tokens to a vector in both models.",
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; a projector as it was given, without its weights."""
        names = (self.teacher_layer_name, self.student_layer_name)
        # Lists, because JSON knows no tuples.
        teacher, student = (list(name) if isinstance(name, tuple) else name for name in names)
        return {"teacher_layer_name": teacher, "student_layer_name": student, "name": self.name}


class Projected(OnLayers):
    """Projects the student's features first; a subclass chooses how by the shapes of a stage."""

    ranks: ClassVar[tuple[int, ...]] = (2, 3, 4)
    pools: ClassVar[bool] = False

    def __init__(
        self,
        teacher_layer_name: LayerNames,
        student_layer_name: LayerNames,
        projector: Any,
        name: str,
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name)
        names = self.student_layer_name
        stages = len(names) if isinstance(names, tuple) else 1
        if projector is None:
            given = [None] * stages
        else:
            given = list(projector) if isinstance(projector, list | tuple) else [projector]
        if len(given) != stages or any(one is not None and not isinstance(one, keras.Layer) for one in given):
            raise ValueError(
                "A projector is a keras.Layer, or a list with a layer or None for each of several stages. "
                f"Received: projector={projector!r} for {stages} stage{'s' if stages > 1 else ''}. "
                "Leave it out to have it chosen by shape."
            )
        self._given = given
        self.projectors: list[keras.Layer] = []

    def build(self, teacher: Any, student: Any) -> None:
        """Makes the projectors, and raises ValueError where one returns another shape than the teacher's."""
        made = []
        for given, (t, s) in zip(self._given, pairs_of(teacher, student), strict=True):
            t_shape, s_shape = tuple(t.shape), tuple(s.shape)
            if self.pools and len(t_shape) == 4:
                size = smaller_size(t_shape, s_shape)
                t_shape, s_shape = ((shape[0], *size, shape[-1]) for shape in (t_shape, s_shape))
            projector = self.choose(t_shape, s_shape) if given is None else given
            projected = projector(keras.KerasTensor((None, *s_shape[1:]), dtype="float32"))
            self._require_fit(t_shape, tuple(projected.shape))
            made.append(projector)
            kind = "a given one" if given is not None else "the default"
            _LOG.info(
                "%s: student %s to teacher %s by %s, %d parameters",
                self.name,
                s_shape[1:],
                t_shape[1:],
                kind,
                projector.count_params(),
            )
        self.projectors = made
        self.layers += made

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """The projector of a stage, by its shapes; a subclass implements it."""
        raise NotImplementedError(f"{type(self).__name__} must implement choose(teacher, student).")

    def project(self, stage: int, teacher: Any, student: Any) -> Any:
        """The student's features of a stage, in the shape of the teacher's."""
        # A copy has no Keras mask, of which layers warn that do not know masks. Only training calls a loss.
        projected = ops.cast(self.projectors[stage](ops.copy(student), training=True), "float32")
        self._require_fit(tuple(teacher.shape), tuple(projected.shape))
        # What is not known before the step runs must not be broadcast either.
        return ops.reshape(projected, ops.shape(teacher))

    def _require_fit(self, teacher: Shape, projected: Shape) -> None:
        if not agree(teacher[1:], projected[1:]) or len(teacher) != len(projected):
            raise misfit(
                f"{type(self).__name__} compares element by element, so the projector returns the teacher's shape",
                teacher,
                projected,
                "Read layers of one size, or pass projector=, a layer that gets there.",
                what="projected student",
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; a projector as it was given, without its weights."""
        given = self._given if len(self._given) > 1 else self._given[0]
        if all(one is None for one in self._given):
            given = None
        return {**super().get_config(), "projector": keras.saving.serialize_keras_object(given)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The loss that `get_config` describes."""
        return cls(**{**config, "projector": keras.saving.deserialize_keras_object(config["projector"])})


def _as_name(name: str | Sequence[str]) -> str | tuple[str, ...]:
    return name if isinstance(name, str) else tuple(name)


def pairs_of(teacher: Any, student: Any) -> list[tuple[Any, Any]]:
    """The stages, one of them where single tensors came."""
    left, right = (list(side) if isinstance(side, list | tuple) else [side] for side in (teacher, student))
    return list(zip(left, right, strict=True))


def agree(left: Shape, right: Shape) -> bool:
    """Whether two shapes are the same, as far as they are known."""
    return len(left) == len(right) and all(
        a == b or a is None or b is None for a, b in zip(left, right, strict=True)
    )


def misfit(rule: str, teacher: Shape, student: Shape, way_out: str, what: str = "student") -> ValueError:
    """The error about two shapes that do not fit; `rule` and `way_out` are sentences."""
    return ValueError(f"{rule}. Received teacher {teacher} and {what} {student}. {way_out}")


def smaller_size(teacher: Shape, student: Shape) -> Shape:
    """The smaller height and the smaller width of two maps; `None` where either is unknown."""
    sizes = zip(teacher[1:3], student[1:3], strict=True)
    return tuple(None if a is None or b is None else min(a, b) for a, b in sizes)
