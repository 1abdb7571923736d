"""Which Distiller a loss belongs to, and how it starts anew for the next."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from distill.losses._settings import Setting


class Start(NamedTuple):
    """How a Distiller found a loss.

    Attributes:
        owner: stands for the Distiller that has the loss now.
        values: variables that are not created by `build`, with their values when the first Distiller got the loss.
    """

    owner: object
    values: list[tuple[keras.Variable, np.ndarray]]


class Owned:
    """The part of `DistillationLoss` that gives it to one Distiller after another."""

    layers: list[keras.Layer]
    settings: list[Setting]
    built: bool
    _start: Start | None  # once a Distiller has it
    _kept_layers: list[keras.Layer]  # those that `build` did not create

    @property
    def builds_layers(self) -> bool:
        """Whether `build` creates what fits one pair of models only."""
        raise NotImplementedError

    def start(self, owner: object) -> None:
        """Gives the loss to a Distiller: the first takes it as it is, each later one gets it as it was then.

        Args:
            owner: stands for the Distiller.

        Raises:
            ValueError: what was trained cannot be made anew.
        """
        if self._start is None:
            self._start = self._as_it_is(owner)
        elif self._start.owner is not owner:
            self._restart(self._start)
            self._start = self._start._replace(owner=owner)

    def belongs_to(self, owner: object) -> bool:
        """Whether what the loss trains is still what it trained for this Distiller."""
        trains = self.builds_layers or bool(self.layers)
        return not trains or (self._start is not None and self._start.owner is owner)

    def _as_it_is(self, owner: object) -> Start:
        layers = self._kept_layers if self.built else self.layers
        variables = [variable for layer in layers for variable in layer.variables]
        return Start(owner, [(variable, np.array(ops.convert_to_numpy(variable))) for variable in variables])

    def _restart(self, start: Start) -> None:
        """Forgets what was trained."""
        if self.built:
            self.layers = list(self._kept_layers)
        known = {id(variable) for variable, _ in start.values}
        if late := [
            layer.name for layer in self.layers for variable in layer.variables if id(variable) not in known
        ]:
            raise ValueError(
                f"{type(self).__name__} was given to a second Distiller, but what it trained for the first cannot be "
                f"made anew. Received: layers {sorted(set(late))}, which __init__ creates and build() gives weights. "
                "Create them in build(), or make a new loss for each Distiller."
            )
        for variable, value in start.values:
            variable.assign(value)
        for setting in self.settings:
            setting.restart()
        self.built = False
