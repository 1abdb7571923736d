"""Places for the names of points, so that none hides another."""

from collections.abc import Sequence
from typing import NamedTuple

LINE = 13  # pixels of a line of text, and about twice those of a letter
LETTER = 6.4
_GAP = 9
# Right, left, above, below, and corners: where a name may go, as the direction from its point.
_PLACES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1))


class Label(NamedTuple):
    """Where the name of a point is written.

    Attributes:
        dx: pixels from the point to the right.
        dy: pixels from the point down.
        align: "left", "center" or "right".
        free: whether it hides nothing there.
    """

    dx: float
    dy: float
    align: str
    free: bool


Box = tuple[float, float, float, float]  # left, top, right, bottom


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    *,
    width: float,
    height: float,
    bars: Sequence[Box] = (),
) -> list[Label]:
    """Places names beside their points, the first ones first.

    Args:
        points: places of the points in pixels, from the upper left.
        names: name of each.
        width: width of the picture in pixels.
        height: height of the picture in pixels.
        bars: boxes that a name crosses only if it finds no other place.

    Returns:
        A label for each point; one that finds no place is not free.
    """
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    labels: list[Label] = []
    for index, ((x, y), name) in enumerate(zip(points, names, strict=True)):
        others = [box for i, box in enumerate(taken) if i != index]
        places = [_at(x, y, LETTER * len(name), right, down) for right, down in _PLACES]
        inside = [
            (box, label)
            for box, label in places
            if box[0] >= 0 and box[2] <= width and box[1] >= -LINE and box[3] <= height
        ]
        for box, label in _free(inside, [*others, *bars]) or _free(inside, others):
            taken.append(box)
            labels.append(label)
            break
        else:
            labels.append(Label(_GAP, 0, "left", False))
    return labels


def _free(places: list[tuple[Box, Label]], others: list[Box]) -> list[tuple[Box, Label]]:
    return [(box, label) for box, label in places if not any(_meet(box, other) for other in others)]


def _at(x: float, y: float, long: float, right: int, down: int) -> tuple[Box, Label]:
    gap = _GAP if right else 0
    dx, dy = right * gap, down * LINE
    left = x + dx - (0 if right > 0 else long if right < 0 else long / 2)
    align = "left" if right > 0 else "right" if right < 0 else "center"
    return (left, y + dy - LINE / 2, left + long, y + dy + LINE / 2), Label(dx, dy, align, True)


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
