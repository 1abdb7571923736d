"""What a cache keeps of an answer: the base class of all targets, and the target that keeps everything."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from distill._types import Tensor
from distill.losses._base import DistillationLoss
from distill.losses._sparse import SparseLogits
from distill.training._look_up import Stored
from distill.training._recorded import Answer


class Target(abc.ABC):
    """Base class of `Dense`, `TopK` and `Sampled`."""

    is_sparse: ClassVar[bool]

    @abc.abstractmethod
    def check(self, answer: Answer) -> None:
        """Raises ValueError unless an answer can be kept like this."""

    @abc.abstractmethod
    def fields(self, answer: Answer) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns dtype and shape of what is written of an example, by name."""

    @abc.abstractmethod
    def encode(
        self, answer: Answer, values: np.ndarray, random: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Returns what is written of answers (batch, ...), for each of `fields`."""

    @abc.abstractmethod
    def stored(self, answer: Answer) -> dict[str, Stored]:
        """Says what `decode` returns: arrays of float32 and int32, which every backend takes."""

    @abc.abstractmethod
    def decode(self, answer: Answer, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what was written, from rows of a shard."""

    @abc.abstractmethod
    def restore(self, answer: Answer, found: Mapping[str, Tensor]) -> Tensor | SparseLogits:
        """Returns what a loss reads, from what `decode` returned."""

    @abc.abstractmethod
    def require(self, answer: Answer, loss: DistillationLoss) -> None:
        """Raises ValueError unless a loss can be computed from what is kept."""

    def bytes_of(self, shape: Sequence[int]) -> int:
        """Returns how many bytes a cache takes for each answer of the given shape.

        A cache takes 4 more bytes for each example, for a checksum of its inputs.

        Args:
            shape: shape of the answer to one example, such as (classes,) or (tokens, classes).
        """
        fields = self.fields(Answer(None, None, None, tuple(shape)))
        return int(np.dtype([(name, *field) for name, field in fields.items()]).itemsize)

    def config(self) -> dict[str, Any]:
        """Returns kind and arguments, for a file."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}  # type: ignore[call-overload]


@dataclasses.dataclass(frozen=True)
class Dense(Target):
    """Keeps all numbers of an answer. Every loss can be computed from it.

    Args:
        dtype: "float32" keeps the teacher's answers bit for bit. "bfloat16" and "float16" take half as many
            bytes. They round a number by at most 2⁻⁸ or 2⁻¹¹ of itself; float16 rounds numbers below 6e-5 by
            at most 3e-8.

    Raises:
        ValueError: there is no such dtype; or, when recording, a number is larger than float16 can hold,
            65504.

    Example:
        ```python
        from distill import cache

        answers = cache.record(teacher, x, "cache", targets=cache.Dense("bfloat16"), verbose=0)
        ```
    """

    dtype: str = "float32"
    is_sparse = False

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(
                f"dtype must be 'float32', 'bfloat16' or 'float16'. Received: dtype={self.dtype!r}."
            )

    def check(self, answer: Answer) -> None:
        """Raises nothing."""

    def fields(self, answer: Answer) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns the answer; bfloat16, which numpy's files lack, as its bits."""
        return {
            answer.label: ({"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}[self.dtype], answer.shape)
        }

    def encode(
        self, answer: Answer, values: np.ndarray, random: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Returns the answers, rounded to the dtype."""
        values = values.astype("float32", copy=False)
        if self.dtype == "float16":
            largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
            if largest > np.finfo("float16").max:
                raise ValueError(
                    f"float16 holds numbers up to 65504. Received: {answer.label!r} with {largest:g}. Use "
                    "cache.Dense('bfloat16')."
                )
        kept = values.astype(ml_dtypes.bfloat16).view("uint16") if self.dtype == "bfloat16" else values
        return {answer.label: kept}

    def stored(self, answer: Answer) -> dict[str, Stored]:
        """Says that it is the answer, in float32."""
        return {answer.label: Stored(answer.shape, "float32")}

    def decode(self, answer: Answer, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the answers."""
        kept = rows[answer.label]
        if self.dtype == "bfloat16":
            return {answer.label: (kept.astype("uint32") << 16).view("float32")}
        return {answer.label: np.ascontiguousarray(kept, "float32")}

    def restore(self, answer: Answer, found: Mapping[str, Tensor]) -> Tensor:
        """Returns the answers."""
        return found[answer.label]

    def require(self, answer: Answer, loss: DistillationLoss) -> None:
        """Raises nothing."""
