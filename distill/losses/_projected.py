"""What losses that project the student's features share: the projectors, and how one is made anew."""

import copy
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, TypeAlias
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import ops

from distill._keras import flatten_layers
from distill._types import Tensor, Tensors
from distill.losses._layers import LayerNames, OnLayers, pairs_of
from distill.losses._owned import Start
from distill.losses._shapes import MAPS, TOKENS, VECTORS, Shape, agree, shape_error

_LOG = logging.getLogger(__name__)
# Which loss trains a projector that was given; the layers are the users', so they are not held.
_HOLDERS: WeakKeyDictionary[keras.Layer, object] = WeakKeyDictionary()

# One projector, or one for each pair of layers; `None` chooses by shape.
Projectors: TypeAlias = keras.Layer | Sequence[keras.Layer | None] | None


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
        # A config that is taken before the layer has weights does not hold their shapes.
        self._as_given = [None if one is None else _Given.of(one) for one in given]
        self._token = object()
        self.projectors: list[keras.Layer] = []

    def build(self, teacher: Tensors, student: Tensors) -> None:
        """Creates the projectors. Raises ValueError if one returns another shape than the teacher's."""
        made = []
        for i, (t, s) in enumerate(pairs_of(teacher, student)):
            given = self._given[i]
            t_shape, s_shape = self._shapes_to_project(tuple(t.shape), tuple(s.shape))
            projector = self.choose(t_shape, s_shape) if given is None else given
            projected = self._try(projector, s_shape)
            self._require_fit(t_shape, tuple(projected.shape))
            if projector.variables and _HOLDERS.setdefault(projector, self._token) is not self._token:
                raise ValueError(
                    f"A projector is trained by one loss. Received: {projector.name!r}, which another loss has "
                    f"trained, for {self.name!r}. Make a new layer for each loss."
                )
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

    def _try(self, projector: keras.Layer, student: Shape) -> keras.KerasTensor:
        if len(student) > 2 and any(
            getattr(layer, "data_format", None) == "channels_first" for layer in flatten_layers(projector)
        ):
            raise ValueError(
                f"A {type(self).__name__} gets features with their channels last, whatever the models' data_format. "
                f"Received: projector {projector.name!r} with data_format='channels_first'. Make it with "
                "data_format='channels_last'."
            )
        has_weights = ", which has its weights already," if projector.built else ""
        try:
            return projector(keras.KerasTensor((None, *student[1:]), dtype="float32"))
        except ValueError as error:
            raise ValueError(
                f"The projector of a {type(self).__name__} must take the student's features. Received: "
                f"{projector.name!r}{has_weights} for student {student}, on which it fails "
                f"({str(error).splitlines()[0]}). Pass one that fits, or leave projector= out."
            ) from error

    def _restart(self, start: Start) -> None:
        """Forgets what was trained; a projector that was given stays trained, and one like it takes its place."""
        super()._restart(start)
        try:
            self._given = [None if one is None else one.anew() for one in self._as_given]
        except Exception as error:
            raise ValueError(
                f"{type(self).__name__} was given to a second Distiller, which needs a projector that is not trained. "
                f"Received: projectors {[one.name for one in self._given if one is not None]}, which cannot be made "
                f"anew ({str(error).splitlines()[-1]}). Give their classes a get_config, or make a new loss for each "
                "Distiller."
            ) from error

    def choose(self, teacher: Shape, student: Shape) -> keras.Layer:
        """Returns a projector for a pair of these shapes. A subclass implements this."""
        raise NotImplementedError(f"{type(self).__name__} must implement choose(teacher, student).")

    def _shapes_to_project(self, teacher: Shape, student: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes that the projector maps between; not the layers' own if `compare` pools."""
        return teacher, student

    def project(self, stage: int, teacher: Tensor, student: Tensor) -> Tensor:
        """Returns the student's features of a pair, in the teacher's shape."""
        # A copy has no Keras mask, about which layers that do not support masks would warn.
        projected = self.projectors[stage](ops.copy(student), training=self._in_training)
        projected = ops.cast(projected, "float32")
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


class _Given(NamedTuple):
    """A projector as it was given.

    Attributes:
        layer: its class.
        config: its config, or `None` without one.
        built: how it was built, or `None` if it was not.
        weights: its weights.
    """

    layer: type[keras.Layer]
    config: dict[str, Any] | None
    built: dict[str, Any] | None
    weights: list[np.ndarray]

    @classmethod
    def of(cls, layer: keras.Layer) -> "_Given":
        """Notes how a layer is now."""
        try:
            config = layer.get_config()
        except NotImplementedError:
            config = None
        built = layer.get_build_config() if layer.built else None
        return cls(type(layer), config, built, layer.get_weights())

    def anew(self) -> keras.Layer:
        """Returns a layer like it."""
        if self.config is None:
            raise ValueError(f"{self.layer.__name__} has no config")
        made = self.layer.from_config(copy.deepcopy(self.config))
        if self.built is not None and not made.built:
            made.build_from_config(self.built)
        made.set_weights(self.weights)
        return made
