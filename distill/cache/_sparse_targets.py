"""Targets that keep only part of the logits: the largest and the rest's sum, or classes that were drawn."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from keras import ops

from distill._types import Tensor
from distill.cache._targets import Target
from distill.losses._base import DistillationLoss
from distill.losses._sparse import SampledLogits, SparseLogits, TopLogits
from distill.training._look_up import Stored
from distill.training._recorded import Answer


@dataclasses.dataclass(frozen=True)
class TopK(Target):
    """Keeps the k largest logits of each row, and the sum over all other classes at each temperature.

    A loss then compares k + 1 classes: those kept, and one for all others, whose probability is exact. A
    Kullback-Leibler divergence of these is at most that of all classes, and equal to it if teacher and
    student divide the rest in the same way. Leaving the rest out, as is common, raises the probabilities that
    are kept, and biases the gradient [1].

    `SoftTargets`, `GeneralizedJSD` and `HardTargets` can be computed from it.

    Args:
        k: number of logits of each row, >= 1.
        temperatures: the temperatures at which losses will soften these rows; each takes 4 bytes a row.
        from_logits: for a teacher whose head cannot be recognized, such as a function: whether it returns logits
            (`True`) or probabilities (`False`).

    Raises:
        ValueError: a number is out of range; or, when recording, there are fewer than k classes, or the output is not
            for classes that exclude each other.

    Example:
        ```python
        from distill import cache

        targets = cache.TopK(2, temperatures=(1.0, 4.0))
        answers = cache.record(teacher, x, "cache", targets=targets, verbose=0)
        distiller = distill.Distiller(answers, student, distill.SoftTargets(4.0))
        ```

    References:
        [1] Anshumann et al. 2025, arXiv:2503.16870.
    """

    k: int
    temperatures: tuple[float, ...] = dataclasses.field(default=(1.0,), kw_only=True)
    from_logits: bool | None = dataclasses.field(default=None, kw_only=True)
    is_sparse = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", _count(self.k))
        object.__setattr__(self, "temperatures", _temperatures(self.temperatures))

    def check(self, answer: Answer) -> None:
        """Raises ValueError unless the answer is logits or probabilities of k classes or more."""
        _require_classes(self, answer, self.from_logits)
        if self.k > answer.shape[-1]:
            raise ValueError(
                f"k must be at most the number of classes. Received: k={self.k} and {answer.shape[-1]} classes in "
                f"{answer.label!r}. Use cache.Dense()."
            )

    def fields(self, answer: Answer) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns ids, logits, and the sums of the rest."""
        rows = answer.shape[:-1]
        return {
            f"{answer.label}.ids": (_ids(answer), (*rows, self.k)),
            f"{answer.label}.logits": ("<f4", (*rows, self.k)),
            f"{answer.label}.rest": ("<f4", (*rows, len(self.temperatures))),
        }

    def encode(
        self, answer: Answer, values: np.ndarray, random: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Returns the largest logits, and the rest's sums, added in float64 before they are rounded."""
        logits = _logits(answer, values, self.from_logits)
        ids = _largest(logits, self.k)
        top = np.take_along_axis(logits, ids, axis=-1)
        others = logits.copy()
        np.put_along_axis(others, ids, -np.inf, axis=-1)
        rest = [_log_sum_exp(others, temperature) for temperature in self.temperatures]
        return {
            f"{answer.label}.ids": ids,
            f"{answer.label}.logits": top,
            f"{answer.label}.rest": np.stack(rest, axis=-1),
        }

    def stored(self, answer: Answer) -> dict[str, Stored]:
        """Says that ids are int32, and the others float32."""
        return _stored(self.fields(answer))

    def decode(self, answer: Answer, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns ids, logits and sums."""
        return _decoded(self.fields(answer), rows)

    def restore(self, answer: Answer, found: Mapping[str, Tensor]) -> TopLogits:
        """Returns logits of which the largest are known."""
        rests = {t: found[f"{answer.label}.rest"][..., i] for i, t in enumerate(self.temperatures)}
        ids, logits = (found[f"{answer.label}.{part}"] for part in ("ids", "logits"))
        return TopLogits(ops.cast(ids, "int32"), logits, rests, answer.shape[-1])

    def require(self, answer: Answer, loss: DistillationLoss) -> None:
        """Raises ValueError unless the loss takes the largest logits, at a temperature that was recorded."""
        _require_sparse(
            loss, TopLogits, answer, f"the {self.k} largest logits of a row and the sum of the rest"
        )
        _require_recorded(
            loss, answer, self.temperatures, lambda t: f"temperatures={(*self.temperatures, t)}"
        )


@dataclasses.dataclass(frozen=True)
class Sampled(Target):
    """Keeps k classes of each row, drawn from its softened probabilities with replacement, and their entropy.

    A loss then estimates a Kullback-Leibler divergence. Averaged over all draws, the estimate and its
    gradient are those of all classes [1]. The draws are made once, so every epoch sees the same ones.

    `SoftTargets` and `GeneralizedJSD(beta=0)` can be computed from it.

    Args:
        k: number of draws for each row, >= 1.
        temperature: the temperature at which losses will soften these rows.
        seed: integer >= 0 that determines the draws.
        from_logits: as for `TopK`.

    Raises:
        ValueError: a number is out of range; or, when recording, the output is not for classes that exclude each other.

    Example:
        ```python
        from distill import cache

        targets = cache.Sampled(8, temperature=2.0)
        answers = cache.record(teacher, x, "cache", targets=targets, verbose=0)
        distiller = distill.Distiller(answers, student, distill.SoftTargets(2.0))
        ```

    References:
        [1] Anshumann et al. 2025, arXiv:2503.16870.
    """

    k: int
    temperature: float = dataclasses.field(default=1.0, kw_only=True)
    seed: int = dataclasses.field(default=0, kw_only=True)
    from_logits: bool | None = dataclasses.field(default=None, kw_only=True)
    is_sparse = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", _count(self.k))
        (temperature,) = _temperatures((self.temperature,))  # as a float: 2 and 2.0 are one target
        object.__setattr__(self, "temperature", temperature)
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise ValueError(f"seed must be an integer >= 0. Received: seed={self.seed!r}.")
        object.__setattr__(self, "seed", int(self.seed))

    def check(self, answer: Answer) -> None:
        """Raises ValueError unless the answer is logits or probabilities of classes."""
        _require_classes(self, answer, self.from_logits)

    def fields(self, answer: Answer) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns ids and entropy."""
        rows = answer.shape[:-1]
        return {
            f"{answer.label}.ids": (_ids(answer), (*rows, self.k)),
            f"{answer.label}.entropy": ("<f4", rows),
        }

    def encode(
        self, answer: Answer, values: np.ndarray, random: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Returns the draws and the entropy, from probabilities in float64."""
        scaled = _logits(answer, values, self.from_logits).astype("float64") / self.temperature
        log_p = scaled - _log_sum_exp(scaled)[..., None]
        p = np.exp(log_p)
        flat = p.reshape(-1, p.shape[-1]).cumsum(axis=-1)
        uniform = random.random((len(flat), self.k))
        # Of the sum as it is rounded, so that no draw lies beyond the last class.
        drawn = [
            np.searchsorted(row, u * row[-1], side="right") for row, u in zip(flat, uniform, strict=True)
        ]
        ids = np.minimum(np.stack(drawn), p.shape[-1] - 1)
        return {
            f"{answer.label}.ids": ids.reshape(*p.shape[:-1], self.k),
            f"{answer.label}.entropy": -np.sum(
                np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0), axis=-1
            ),
        }

    def stored(self, answer: Answer) -> dict[str, Stored]:
        """Says that ids are int32, and the entropy float32."""
        return _stored(self.fields(answer))

    def decode(self, answer: Answer, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns ids and entropy."""
        return _decoded(self.fields(answer), rows)

    def restore(self, answer: Answer, found: Mapping[str, Tensor]) -> SampledLogits:
        """Returns logits that are known only by draws from them."""
        ids, entropy = (found[f"{answer.label}.{part}"] for part in ("ids", "entropy"))
        return SampledLogits(ops.cast(ids, "int32"), entropy, self.temperature, answer.shape[-1])

    def require(self, answer: Answer, loss: DistillationLoss) -> None:
        """Raises ValueError unless the loss takes draws, at their temperature."""
        _require_sparse(loss, SampledLogits, answer, f"{self.k} draws from a row")
        _require_recorded(loss, answer, (self.temperature,), lambda t: f"temperature={t}")


def _count(k: Any) -> int:
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be an integer of at least 1. Received: k={k!r}.")
    return int(k)


def _temperatures(given: Any) -> tuple[float, ...]:
    """Temperatures, of one number or several, as floats."""
    found = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    if not found or not all(isinstance(t, Real) and 1e-6 <= float(t) <= 1e6 for t in found):
        raise ValueError(f"Temperatures must be numbers from 1e-6 to 1e6, one or more. Received: {given!r}.")
    return tuple(float(t) for t in found)


def _require_classes(target: Target, answer: Answer, from_logits: bool | None) -> None:
    kind = type(target).__name__
    if answer.layer is not None:
        raise ValueError(
            f"{kind} is for logits of classes. Received: {answer.label!r}. Layers are kept by cache.Dense."
        )
    if answer.activation == "sigmoid":
        raise ValueError(
            f"{kind} is for classes that exclude each other. Received: {answer.label!r}, which ends in a sigmoid. Use "
            "cache.Dense()."
        )
    if answer.activation is None and from_logits is None:
        raise ValueError(
            f"{kind} must know whether the teacher returns logits. Received: {answer.label!r}, whose head is not "
            f"recognized. Pass cache.{kind}(..., from_logits=True), or from_logits=False for probabilities."
        )
    if answer.activation in ("softmax", "log_softmax") and from_logits is not None:
        raise ValueError(
            f"The logits before a softmax are found by themselves. Received: from_logits={from_logits} and "
            f"{answer.label!r}, which ends in {answer.activation}. Leave from_logits out."
        )


def _require_sparse(loss: DistillationLoss, kind: type[SparseLogits], answer: Answer, kept: str) -> None:
    if kind not in loss.sparse:
        raise ValueError(
            f"{type(loss).__name__} {loss.name!r} needs all numbers of {answer.label!r}. Received: a cache that holds "
            f"{kept}. Record with targets=cache.Dense()."
        )


def _require_recorded(
    loss: DistillationLoss, answer: Answer, recorded: tuple[float, ...], advice: Callable[[float], str]
) -> None:
    """Raises ValueError if the loss has a temperature, and it is not among those recorded, now or later."""
    setting = next((one for one in loss.settings if one.name == "temperature"), None)
    if setting is None:
        return
    if setting.schedule is not None:
        raise ValueError(
            f"The temperature of {loss.name!r} follows a schedule, and {answer.label!r} was recorded for "
            f"{list(recorded)} alone. Record with targets=cache.Dense(), or use one of these temperatures."
        )
    if not any(np.float32(setting.value) == np.float32(one) for one in recorded):
        raise ValueError(
            f"{loss.name!r} compares at a temperature of {setting.value:g}, which was not recorded. Received: "
            f"{answer.label!r} for {list(recorded)}. Record with {advice(round(setting.value, 6))}, or use one of "
            "these temperatures."
        )


def _ids(answer: Answer) -> str:
    return "<u2" if answer.shape[-1] <= 2**16 else "<u4"


def _stored(fields: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, Stored]:
    return {
        name: Stored(shape, "int32" if "u" in dtype else "float32") for name, (dtype, shape) in fields.items()
    }


def _decoded(fields: Mapping[str, tuple[str, tuple[int, ...]]], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(rows[name], one.dtype) for name, one in _stored(fields).items()}


def _logits(answer: Answer, values: np.ndarray, from_logits: bool | None) -> np.ndarray:
    """Returns logits in float32; of probabilities, their logarithms."""
    values = values.astype("float32", copy=False)
    if from_logits is not False:
        return values
    if values.min() < 0 or values.max() > 1 + 1e-3:
        raise ValueError(
            f"Probabilities lie between 0 and 1. Received: {answer.label!r} from {values.min():g} to "
            f"{values.max():g}, and from_logits=False. Pass from_logits=True if these are logits."
        )
    return np.log(np.maximum(values, np.finfo("float32").tiny))


def _largest(logits: np.ndarray, k: int) -> np.ndarray:
    """Returns the places of the k largest numbers of each row, the largest first; of equal ones, the first first."""
    if k == 1:
        return logits.argmax(axis=-1)[..., None]
    chosen = np.sort(np.argpartition(logits, -k, axis=-1)[..., -k:], axis=-1)
    values = np.take_along_axis(logits, chosen, axis=-1)
    order = np.argsort(-values, axis=-1, kind="stable")
    found = np.take_along_axis(chosen, order, axis=-1)
    # Where more are equal to the least of them than fit, a partition chooses any of these.
    tied = (logits >= values.min(axis=-1, keepdims=True)).sum(axis=-1) > k
    if tied.any():
        found[tied] = np.argsort(-logits[tied], axis=-1, kind="stable")[..., :k]
    return found


def _log_sum_exp(values: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns log Σ exp(values / temperature) over the last axis; −∞ of nothing but −∞.

    Exponentials are taken in the dtype of the values, and added in float64: those of float32 take half the time, and
    their errors, 1e-7 of each, are less than what rounding the result to float32 adds.
    """
    largest = values.max(axis=-1, keepdims=True)
    safe = np.where(np.isfinite(largest), largest, values.dtype.type(0))
    terms = values - safe
    with np.errstate(divide="ignore", over="ignore"):  # what masks classes is as large as the dtype allows
        terms /= temperature
        np.exp(terms, out=terms)
        return np.log(terms.sum(axis=-1, dtype="float64")) + safe[..., 0].astype("float64") / temperature
