"""Charts of the classes that a classifier confuses, and of the layers of a model."""

import functools
import operator

from distill.studies._details import Confusion
from distill.studies._grids import Grid, Number
from distill.studies._pictures import ACCENT, Picture, layer, number, scaled, spec, text
from distill.studies._plots import PALETTE
from distill.studies._results import ArmResult, StudyResult

_SQUARE = 420  # pixels
_CLASSES = 30  # a chart of more cannot be read
_WRITTEN = 12  # classes whose numbers have room
_FREQUENT = 5  # disagreements of each arm in the table


def confusion(study: StudyResult) -> list[Picture]:
    """Draws the classes that each arm predicts against those of its teacher, on test, over all seeds.

    Args:
        study: a finished study.

    Returns:
        A picture for each arm that recorded its confusion with the teacher and has at most 30 classes.
    """
    return [
        _matrix(arm, found)
        for arm in study.arms
        if (found := _pooled(arm)) is not None and found.classes <= _CLASSES
    ]


def disagreements(study: StudyResult) -> Grid | None:
    """Where arms disagree with their teachers most often, on test, over all seeds; `None` if nothing was recorded."""
    rows = []
    for arm in study.arms:
        found = _pooled(arm)
        if found is None:
            continue
        examples = found.left_out + sum(count for *_, count in found.pairs)
        rows += [
            (
                arm.name,
                Number(str(teacher), teacher),
                Number(str(own), own),
                Number(f"{count:,}", count),
                Number(f"{100 * count / examples:.2f}", 100 * count / examples),
            )
            for teacher, own, count in [pair for pair in found.pairs if pair[0] != pair[1]][:_FREQUENT]
        ]
    headings = ("arm", "the teacher says", "the arm says", "examples", "% of all")
    return Grid("The most frequent disagreements with the teacher", headings, tuple(rows)) if rows else None


def layers(study: StudyResult) -> list[Picture]:
    """Draws the widths and zeros of the layers that have weights, in the first seed's models.

    Args:
        study: a finished study.

    Returns:
        A picture for each arm that recorded its layers; arms whose layers are alike share one.
    """
    alike: dict[tuple[object, ...], list[ArmResult]] = {}
    for arm in study.arms:
        found = arm.cells[0].layers
        if found:
            # Zeros to a tenth of a percent: a few weights are zero by chance.
            key = tuple(
                (one.name, one.width, one.parameters, round(one.nonzero / one.parameters, 3)) for one in found
            )
            alike.setdefault(key, []).append(arm)
    return [_bars(arms) for arms in alike.values()]


def _pooled(arm: ArmResult) -> Confusion | None:
    found = [cell.confusion for cell in arm.cells if cell.confusion is not None]
    return functools.reduce(operator.add, found) if len(found) == len(arm.cells) else None


def _matrix(arm: ArmResult, found: Confusion) -> Picture:
    most = max((count for a, b, count in found.pairs if a != b), default=1)
    rows = [
        {
            "teacher": a,
            "own": b,
            "examples": count,
            "depth": 0.0 if a == b else 0.12 + 0.88 * count / most,
            "spoken": f"teacher {a}, {arm.name} {b}: {count} examples",
        }
        for a, b, count in found.pairs
    ]
    side = {"type": "ordinal", "scale": {"domain": list(range(found.classes))}}
    at = {
        "x": {"field": "own", **side, "axis": {"title": f"class that {arm.name} predicts", "labelAngle": 0}},
        "y": {"field": "teacher", **side, "axis": {"title": "class that its teacher predicts"}},
    }
    hover = [text("teacher"), text("own", title=arm.name), number("examples", format=",")]
    depth = number("depth", scale=None, legend=None)
    layers = [
        layer(
            rows,
            "rect",
            {**at, "opacity": depth, "tooltip": hover, "description": text("spoken")},
            color=PALETTE[1],
        )
    ]
    if found.classes <= _WRITTEN:
        layers.append(layer(rows, "text", {**at, "text": number("examples")}, fontSize=11))
    return Picture(
        f"confusion-{_file_name(arm.name)}",
        arm.name,
        "Test examples of all seeds; agreement is on the diagonal, and colour marks where they disagree.",
        spec(
            layers,
            width=_SQUARE,
            height=_SQUARE,
            about=f"Classes of {arm.name} against those of its teacher.",
        ),
    )


def _bars(arms: list[ArmResult]) -> Picture:
    found = arms[0].cells[0].layers
    rows = []
    for one in found:
        zeros = one.parameters - one.nonzero
        width = [] if one.width is None else [f"{one.width} wide"]
        share = [f"{100 * zeros / one.parameters:.0f}% zeros"] if zeros / one.parameters >= 0.005 else []
        said = ", ".join([*width, *share])
        rows.append(
            {
                "layer": one.name,
                "kind": one.kind,
                "all": one.parameters,
                "nonzero": one.nonzero,
                "zeros": zeros,
                "said": said,
                "spoken": f"{one.name}, {one.kind}: {one.parameters} weights, {said}",
            }
        )
    most = max(one.parameters for one in found)
    y = {"y": text("layer", sort=None, axis={"title": None, "labelLimit": 130})}
    # Room for the words at the end of a bar.
    all_of = number(
        "all", scale=scaled([0, 1.7 * most]), axis={"title": "weights", "format": "~s", "tickCount": 4}
    )
    hover = [
        text("layer"),
        text("kind"),
        number("all", title="weights", format=","),
        number("zeros", title="of which zero", format=","),
        text("said", title="width and zeros"),
    ]
    outlined = {"x": all_of, **y, "tooltip": hover, "description": text("spoken")}
    layers = [
        layer(rows, "bar", outlined, fillOpacity=0.12, stroke=ACCENT, fill=ACCENT),
        layer(rows, "bar", {"x": number("nonzero"), **y, "tooltip": hover}, color=ACCENT),
        layer(rows, "text", {"x": all_of, **y, "text": text("said")}, align="left", dx=6),
    ]
    names = ", ".join(arm.name for arm in arms)
    return Picture(
        f"layers-{_file_name(arms[0].name)}",
        names,
        f"Weights of each layer in seed {arms[0].cells[0].seed}, in order; the outlined part of a bar is zero.",
        spec(layers, width=520, height=24 * len(rows), about=f"Layers of {names}."),
    )


def _file_name(arm: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in arm)
