"""What losses on softened logits share: a temperature that can change, and KL divergence from logarithms."""

from collections.abc import Sequence
from typing import Any, Self

import keras
from keras import ops

from distill._types import Tensor
from distill.losses._base import DistillationLoss
from distill.losses._settings import Schedule, Setting
from distill.losses._sparse import SampledLogits, TopLogits


class Softened(DistillationLoss):
    """Base class of losses that divide both sides' logits by a temperature."""

    same_shape = True

    def __init__(self, temperature: float | Schedule, *, name: str) -> None:
        super().__init__(name=name)
        # Outside this range T², or a logit divided by T, leaves float32.
        self._temperature = Setting("temperature", temperature, low=1e-6, high=1e6)
        self.settings.append(self._temperature)

    @property
    def temperature(self) -> float:
        """The current temperature. Assigning a new one takes effect at the next training step."""
        return self._temperature.value

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._temperature.value = value

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the current temperature or its schedule."""
        schedule = self._temperature.schedule
        temperature = self.temperature if schedule is None else keras.saving.serialize_keras_object(schedule)
        return {"temperature": temperature, "name": self.name}

    def divergence(self, teacher: TopLogits | SampledLogits, student: Tensor) -> Tensor:
        """Returns KL(p ‖ q) of each row, from the teacher's logits that are known."""
        temperature = self._temperature.variable
        if isinstance(teacher, SampledLogits):
            return teacher.divergence(student, temperature)
        return kl_divergence(*teacher.softened(student, temperature))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the loss that `get_config` describes."""
        return cls(**{**config, "temperature": keras.saving.deserialize_keras_object(config["temperature"])})


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns KL(p ‖ q) over the last axis. It takes logarithms, so that no probability is ever clipped."""
    return ops.sum(kl_terms(log_p, log_q), axis=-1)


@ops.custom_gradient
def kl_terms(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Any]:
    """Returns p (log p − log q) for each class. Finite where both are −∞, as for a class masked on both sides."""
    p = ops.exp(log_p)
    ratio = ops.maximum(log_p, -1e30) - ops.maximum(log_q, -1e30)

    # Through the maxima, TensorFlow without XLA would take half as long again as without them.
    def gradient(*arguments: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, Tensor]:
        upstream = arguments[0] if upstream is None else upstream
        flow = upstream * p
        return flow * (ratio + 1.0), -flow

    return p * ratio, gradient


def log_mean(logarithms: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Returns log Σ_k w_k exp(logarithms_k). A weight of 0 drops its term."""
    weighted = [x + ops.log(weight) for x, weight in zip(logarithms, weights, strict=True)]
    return ops.logsumexp(ops.stack(weighted), axis=0)
