"""What a cell records of its model besides scores: how sure it is, which classes it confuses, and its layers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

import distill.studies._metrics as metrics

MOST = 1000  # pairs of classes that are recorded


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How sure a classifier is on test, and how often it is right when it is that sure.

    Attributes:
        examples: number of examples in each bin; bin b of M is for largest probabilities in (b / M, (b + 1) / M].
        right: how many of them are right.
        confidence: sum of their largest probabilities.

    Example:
        >>> from distill import studies
        >>> found = studies.read("runs/digits").arm("alone").cells[0].reliability
        >>> len(found.examples)
        15
    """

    examples: tuple[int, ...]
    right: tuple[int, ...]
    confidence: tuple[float, ...]

    @classmethod
    def of(cls, logits: ArrayLike, labels: ArrayLike) -> Self:
        """Counts the examples; the arguments are those of `metrics.confidence_bins`."""
        examples, right, confidence = metrics.confidence_bins(logits, labels)
        return cls(*(tuple(one.tolist()) for one in (examples, right, confidence.round(6))))

    def __add__(self, other: "Reliability") -> "Reliability":
        """The examples of both."""
        fields = ("examples", "right", "confidence")
        pairs = [zip(getattr(self, one), getattr(other, one), strict=True) for one in fields]
        return Reliability(*(tuple(a + b for a, b in pair) for pair in pairs))


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Which classes a model predicts on test for each class that its teacher predicts.

    Attributes:
        classes: number of classes.
        pairs: the teacher's class, the model's, and the number of examples; the most frequent pairs come first.
        left_out: number of examples whose pair is not recorded, because it is not among the 1,000 most frequent.

    Example:
        >>> from distill import studies
        >>> found = studies.read("runs/digits").arm("distilled").cells[0].confusion
        >>> found.classes
        10
    """

    classes: int
    pairs: tuple[tuple[int, int, int], ...]
    left_out: int

    @classmethod
    def of(cls, teacher_logits: NDArray[np.float64], logits: NDArray[np.float64]) -> Self:
        """Counts the examples; the arguments are those of `metrics.confusion`."""
        found = [(int(a), int(b), int(count)) for a, b, count in metrics.confusion(teacher_logits, logits)]
        return cls(logits.shape[1], tuple(found[:MOST]), sum(count for *_, count in found[MOST:]))

    def __add__(self, other: "Confusion") -> "Confusion":
        """The examples of both."""
        counts = {(a, b): count for a, b, count in self.pairs}
        for a, b, count in other.pairs:
            counts[a, b] = counts.get((a, b), 0) + count
        ordered = sorted(counts.items(), key=lambda one: -one[1])
        return Confusion(
            max(self.classes, other.classes),
            tuple((a, b, count) for (a, b), count in ordered),
            self.left_out + other.left_out,
        )


@dataclasses.dataclass(frozen=True)
class LayerSize:
    """The size of one layer that has weights.

    Attributes:
        name: path, such as "block/conv".
        kind: name of its type.
        width: size of the last axis of its output, such as its units or channels; `None` if unknown.
        parameters: number of scalars in its weights.
        nonzero: number of these scalars that are not zero.

    Example:
        >>> from distill import studies
        >>> [layer.width for layer in studies.read("runs/digits").arm("alone").cells[0].layers]
        [8, 10]
    """

    name: str
    kind: str
    width: int | None
    parameters: int
    nonzero: int


def read_details(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Reads these from a result.json, by the field of `CellResult`; what it lacks is left out or empty."""
    found: dict[str, Any] = {}
    if (one := raw.get("reliability")) is not None:
        found["reliability"] = Reliability(**{key: tuple(values) for key, values in one.items()})
    if (one := raw.get("confusion")) is not None:
        pairs: Sequence[Sequence[int]] = one["pairs"]
        found["confusion"] = Confusion(
            one["classes"], tuple((a, b, count) for a, b, count in pairs), one["left_out"]
        )
    found["layers"] = tuple(LayerSize(**layer) for layer in raw.get("layers", ()))
    return found
