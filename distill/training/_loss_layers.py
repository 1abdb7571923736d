"""The layers that distillation losses train, such as projectors."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from distill._keras import flatten_layers, own_losses, take_any_arguments
from distill._types import Tensor


class LossLayers(keras.Layer):
    """Holds the layers that losses train, and runs the losses within a call of its own.

    In that call the layers get `training` and report penalties as the student's layers do. It counts as built only
    once the layers are there, so that until then Keras builds the Distiller with a symbolic call.
    """

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False, name="loss_layers")
        take_any_arguments(self)

    def hold(self, layers: Sequence[keras.Layer]) -> None:
        """Takes the layers of all losses, once all losses are built."""
        self.held = list({id(layer): layer for layer in layers}.values())
        self.built = True

    def call(self, compute: Callable[[], Any], training: bool | None = None) -> Any:
        """Returns what `compute` returns."""
        return compute()

    def penalties(self) -> list[Tensor]:
        """What the layers passed to `add_loss` in the last call, and their activity regularizers."""
        return [loss for layer in flatten_layers(self) for loss in own_losses(layer)]
