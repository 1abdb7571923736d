"""Logits of some classes of a row: what a cache keeps of an answer, and what losses compute from it."""

import math
from collections.abc import Mapping
from typing import Any

from keras import ops

from distill._types import Tensor
from distill.losses._shapes import Shape


class SparseLogits:
    """Base class for rows of a teacher's logits that are only partly known.

    It takes the place of the teacher's logits. A loss lists in `sparse` the kinds from which it can be
    computed, and computes its values in `call_sparse`.

    Attributes:
        ids: numbers of classes, integers (batch, ..., k).
        shape: shape of all logits, (batch, ..., classes).
    """

    def __init__(self, ids: Tensor, classes: int) -> None:
        self.ids = ids
        self.shape: Shape = (*ids.shape[:-1], classes)


class TopLogits(SparseLogits):
    """The largest logits of each row, and the log-sum-exp of the others, exact at temperatures in `rests`.

    Args:
        ids: classes of the k largest logits, the largest first, integers (batch, ..., k).
        logits: these logits, float32 (batch, ..., k).
        rests: for each temperature T, log Σ exp(z_c / T) over all other classes c, float32 (batch, ...); −∞ without
            others.
        classes: number of classes.
    """

    def __init__(self, ids: Tensor, logits: Tensor, rests: Mapping[float, Tensor], classes: int) -> None:
        super().__init__(ids, classes)
        self.logits = logits
        self.rests = dict(rests)

    def softened(self, student: Tensor, temperature: Any) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities of both sides, in which all other classes are one: (batch, ..., k + 1) each.

        The probability of that one is computed from its own sum, never as 1 minus the others, so a small one
        keeps its digits.

        Args:
            student: logits of all classes.
            temperature: a scalar tensor; the result is NaN for one that `rests` lacks.
        """
        rest = _at(temperature, self.rests)
        taught = ops.concatenate([self.logits / temperature, ops.expand_dims(rest, -1)], axis=-1)
        scaled = student / temperature
        own = ops.take_along_axis(scaled, self.ids, axis=-1)
        others = ops.logsumexp(self._without(scaled), axis=-1, keepdims=True)
        learned = ops.concatenate([own, others], axis=-1)
        return ops.log_softmax(taught, axis=-1), ops.log_softmax(learned, axis=-1)

    def _without(self, logits: Tensor) -> Tensor:
        """Returns logits with a finite number that counts nothing in the place of those of `ids`."""
        count, classes = self.ids.shape[-1], self.shape[-1]
        rows = ops.reshape(logits, (-1, classes))
        numbers = ops.repeat(ops.arange(ops.shape(rows)[0], dtype="int32"), count)
        places = ops.stack([numbers, ops.reshape(self.ids, (-1,))], axis=-1)
        masked = ops.scatter_update(rows, places, ops.full_like(ops.cast(numbers, "float32"), -1e30))
        return ops.reshape(masked, ops.shape(logits))


class SampledLogits(SparseLogits):
    """Classes that were drawn from each row's softened probabilities, with replacement, and their entropy.

    Args:
        ids: the classes that were drawn, integers (batch, ..., k).
        entropy: entropy of the row's probabilities, in nats, float32 (batch, ...).
        temperature: temperature T of the probabilities.
        classes: number of classes.
    """

    def __init__(self, ids: Tensor, entropy: Tensor, temperature: float, classes: int) -> None:
        super().__init__(ids, classes)
        self.entropy = entropy
        self.temperature = temperature

    def divergence(self, student: Tensor, temperature: Any) -> Tensor:
        """Returns an estimate of each row's KL(p ‖ q), (batch, ...); its mean over all draws is exact.

        Likewise, the mean of its gradient is the gradient of the divergence [1].

        Args:
            student: logits of all classes.
            temperature: a scalar tensor; the result is NaN for any temperature but that of the draws.

        References:
            [1] Anshumann et al. 2025, arXiv:2503.16870.
        """
        log_q = ops.log_softmax(student / temperature, axis=-1)
        drawn = ops.take_along_axis(log_q, self.ids, axis=-1)
        return -ops.mean(drawn, axis=-1) - _at(temperature, {self.temperature: self.entropy})


def _at(temperature: Any, values: Mapping[float, Tensor]) -> Tensor:
    """Returns the value of a temperature, NaN for one that there is none of."""
    found: Any = math.nan
    for known, value in values.items():
        found = ops.where(ops.equal(temperature, known), value, found)
    return found
