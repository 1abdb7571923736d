"""What losses on layers share: pairs of layers, and projectors of the student's features."""

import logging
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import keras
from keras import ops

from distill._types import Tensor, Tensors
from distill.losses._base import DistillationLoss
from distill.losses._shapes import MAPS, TOKENS, VECTORS, Shape, agree, shape_error

_LOG = logging.getLogger(__name__)

LayerNames = str | Sequence[str] | None
# One projector, or one for each pair of layers; `None` chooses by shape.
Projectors: TypeAlias = keras.Layer | Sequence[keras.Layer | None] | None


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


class Projected(OnLayers):
    """Base class of losses on layers that project the student's features first.

    A subclass implements `choose`, which makes a projector for the shapes of a pair.
    """

    shapes: tuple[str, ...] = (VECTORS, TOKENS, MAPS)

    def __init__(
        self,
        teacher_layer_name: LayerNames = None,
        student_layer_name: LayerNames = None,
        *,
        projector: Projectors = None,
        name: str | None = None,
    ) -> None:
        super().__init__(teacher_layer_name, student_layer_name, name=name)
        layers = self.student_layer_name
        pairs = len(layers) if isinstance(layers, tuple) else 1
        if projector is None:
            given: list[keras.Layer | None] = [None] * pairs
        else:
            given = list(projector) if isinstance(projector, list | tuple) else [projector]
        if len(given) != pairs or any(one is not None and not isinstance(one, keras.Layer) for one in given):
            raise ValueError(
                "A projector must be a keras.Layer, or a list with a layer or None for each pair of layers. "
                f"Received: projector={projector!r} for {pairs} pair{'s' if pairs > 1 else ''}. "
                "Leave it out to let the loss choose by shape."
            )
        self._given = given
        self.projectors: list[keras.Layer] = []

    def build(self, teacher: Tensors, student: Tensors) -> None:
        """Creates the projectors. Raises ValueError if one returns another shape than the teacher's."""
        made = []
        for given, (t, s) in zip(self._given, pairs_of(teacher, student), strict=True):
            t_shape, s_shape = self._shapes_to_project(tuple(t.shape), tuple(s.shape))
            projector = self.choose(t_shape, s_shape) if given is None else given
            projected = projector(keras.KerasTensor((None, *s_shape[1:]), dtype="float32"))
            self._require_fit(t_shape, tuple(projected.shape))
            made.append(projector)
            _LOG.info(
                "%s: student %s to teacher %s by %s projector, %d parameters",
                self.name,
                s_shape[1:],
                t_shape[1:],
                "the default" if given is None else "the given",
                projector.count_params(),
            )
        self.projectors = made
        self.layers += made

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """Returns a projector for a pair of these shapes. A subclass implements this."""
        raise NotImplementedError(f"{type(self).__name__} must implement choose(teacher, student).")

    def _shapes_to_project(self, teacher: Shape, student: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes between which the projector stands; others than the layers' if `compare` pools."""
        return teacher, student

    def project(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the student's features of a pair, in the teacher's shape."""
        # A copy has no Keras mask, about which layers that do not support masks would warn. Losses run in training
        # only.
        projected = ops.cast(self.projectors[stage](ops.copy(student), training=True), "float32")
        self._require_fit(tuple(teacher.shape), tuple(projected.shape))
        # Sizes that are unknown before the step must not be broadcast either.
        return ops.reshape(projected, ops.shape(teacher))

    def _require_fit(self, teacher: Shape, projected: Shape) -> None:
        if not agree(teacher[1:], projected[1:]):
            raise shape_error(
                f"{type(self).__name__} compares element by element, so the projector must return the teacher's shape",
                teacher,
                projected,
                "Read layers of the same size, or pass projector=, a layer that returns the teacher's shape.",
                what="projected student",
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; a projector as it was given, without its weights."""
        given = self._given if len(self._given) > 1 else self._given[0]
        if all(one is None for one in self._given):
            given = None
        return {**super().get_config(), "projector": keras.saving.serialize_keras_object(given)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the loss that `get_config` describes."""
        return cls(**{**config, "projector": keras.saving.deserialize_keras_object(config["projector"])})


def pairs_of(teacher: Tensors, student: Tensors) -> list[tuple[Tensor, Tensor]]:
    """Returns the pairs of layers; one pair if single tensors came."""
    left, right = (list(side) if isinstance(side, list | tuple) else [side] for side in (teacher, student))
    return list(zip(left, right, strict=True))


def _as_name(name: str | Sequence[str]) -> str | tuple[str, ...]:
    return name if isinstance(name, str) else tuple(name)
