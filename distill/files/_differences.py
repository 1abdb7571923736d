"""What a model and a file disagree on, and what was loaded, as tables."""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from distill._tables import aligned

SHOWN, WIDEST = 12, 60


class Difference(NamedTuple):
    """One point on which a model and a file disagree.

    Attributes:
        layer: name of the layer.
        what: weight or setting of the layer.
        expected: shape or value in the model.
        found: shape or value in the file.

    Example:
        ```python
        distill.save_weights(student, "student.weights.h5")
        loaded = distill.load_weights(student, "student.weights.h5", partial=True)
        for layer, what, expected, found in loaded.differences:
            print(f"{layer}: {what} is {expected} in the model and {found} in the file")
        ```
    """

    layer: str
    what: str
    expected: str
    found: str


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The result of `load_weights`; `print` shows it.

    Attributes:
        taken: names of the layers that now have the file's weights.
        differences: points on which the other layers disagree; empty unless `partial=True`.

    Example:
        ```python
        distill.save_weights(student, "student.weights.h5")
        loaded = distill.load_weights(student, "student.weights.h5", partial=True)
        print(loaded)
        assert not loaded.differences
        ```
    """

    taken: tuple[str, ...]
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        number = "1 layer was" if len(self.taken) == 1 else f"{len(self.taken)} layers were"
        text = f"{number} loaded: {', '.join(self.taken)}."
        return f"{text}\nNot loaded:\n{table(self.differences)}" if self.differences else text


def table(differences: Sequence[Difference]) -> str:
    """The first differences, one a line."""
    shown = [[textwrap.shorten(cell, WIDEST, placeholder="…") for cell in row] for row in differences[:SHOWN]]
    rows = [["layer", "what", "expected", "found"], *shown]
    more = [f"and {len(differences) - SHOWN} more"] if len(differences) > SHOWN else []
    return "\n".join([*aligned(rows, "<<<<"), *more])
