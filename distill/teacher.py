"""The frozen teacher: a model that is run, never trained, never saved with the student."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from distill.losses.base import Head
from distill.taps import Tapped, Taps


class Teacher:
    """Runs a trained model in inference mode and without a gradient.

    A plain object, not a Keras layer: a `Distiller` that holds it does not track the model, so its
    `trainable` flags stay as they are, its variables are never updated and no file contains it.

    Args:
        model: a built `keras.Model`.
        layer_names: layers whose outputs to return, see `Taps`.
        head: the kind of head whose logits to return, see `Taps`.
        from_logits: what the model's outputs are, see `Taps`.

    Attributes:
        model: the model, as it came.
        spec: the shapes to expect, see `Taps`.

    Raises:
        ValueError: `model` is not a built `keras.Model`, or see `Taps`.
    """

    def __init__(
        self,
        model: keras.Model,
        layer_names: Sequence[str] = (),
        head: Head | None = None,
        from_logits: bool | None = None,
    ) -> None:
        if not isinstance(model, keras.Model):
            raise ValueError(
                f"A teacher must be a keras.Model. Received: {model!r} of type {type(model).__module__}."
                f"{type(model).__qualname__}. Wrap another callable in a keras.Model subclass, and call it once."
            )
        if not model.built:
            raise ValueError(
                f"A teacher must be trained, so it must be built. Received: {model.name!r} without weights. "
                "Load it with its weights, or call it on a batch first."
            )
        self.model = model
        self._taps = Taps(model, layer_names, head, from_logits)
        self.spec = self._taps.spec

    def __call__(self, inputs: Any) -> Tapped:
        """The model's outputs, logits and tapped layers for a batch; constants to any gradient."""
        tapped = self._taps(inputs, training=False)
        return keras.tree.map_structure(lambda x: None if x is None else ops.stop_gradient(x), tapped)
