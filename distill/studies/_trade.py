"""The chart of the arms' scores against their costs."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from distill.studies._axes import Scores, along, log_domain, ticks
from distill.studies._labels import Box, place
from distill.studies._pareto import Priced, Prices, prices
from distill.studies._pictures import (
    ACCENT,
    FAINT,
    TEXT,
    WIDTH,
    Json,
    Picture,
    either,
    layer,
    number,
    scaled,
    spec,
    text,
)
from distill.studies._results import StudyResult
from distill.studies._tables import count, kilobytes, milliseconds

_HEIGHT = 340
_NARROW = 300  # width of the plot itself on a phone
_CLOSE = 2  # pixels between costs that count as equal
_APART, _SPAN = 9, 72  # pixels between arms drawn side by side, and of all of them
_SYMBOLS = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "triangle-right",
    "triangle-left",
)


def pareto(study: StudyResult) -> list[Picture]:
    """Draws scores against costs, one picture for each kind of cost; the arms that no other dominates are joined.

    Args:
        study: a finished study.

    Returns:
        Pictures for multiply-adds, bytes and latency, if these are known for two arms or more.
    """
    return [_priced(study, kind) for kind in prices(study)]


def _priced(study: StudyResult, prices: Prices) -> Picture:
    measure = study.measures[0]
    ys = Scores([one.score for one in prices.arms], measure)
    ordered = sorted(
        prices.arms, key=lambda one: bool(one.dominated_by)
    )  # names of the front are placed first
    # What costs nothing has no place on a logarithmic axis: it stands at the left.
    least = min((one.low for one in ordered if one.low > 0), default=2.0) / 2
    places = [_at_least(least, one) for one in ordered]
    xs = log_domain([one.low for one in places], [one.high for one in places])
    rows = [_point(one, there, prices, ys) for one, there in zip(ordered, places, strict=True)]
    for suffix, width in (("", WIDTH - 80), ("_narrow", _NARROW)):
        asides = [0.0] * len(places)
        if prices.key != "latency":  # whose bars show which times are about the same
            asides = _asides([width * along(one.cost, xs) for one in places], width)
        for row, aside in zip(rows, asides, strict=True):
            row[f"aside{suffix}"] = aside
        points = [_pixels(one, aside, xs, ys, width) for one, aside in zip(places, asides, strict=True)]
        bars = [
            bar for one, aside in zip(places, asides, strict=True) for bar in _bars(one, aside, xs, ys, width)
        ]
        names = [one.arm.name for one in ordered]
        labels = place(points, names, width=width, height=_HEIGHT, bars=bars)
        for row, label in zip(rows, labels, strict=True):
            row |= {f"{key}{suffix}": value for key, value in label._asdict().items()}
    rows.reverse()  # so that the front is drawn over the others
    cost = {"values": ticks(xs), "labelExpr": _TICK[prices.key]}
    x = number("cost", scale=scaled(xs, type="log"), axis={"title": f"{prices.kind}: {prices.about}", **cost})
    y = number("score", scale=ys.scale, axis=ys.axis)
    groups = list(dict.fromkeys(arm.group for arm in study.arms))
    shape = text(
        "group",
        scale={"domain": groups, "range": [_SYMBOLS[i % len(_SYMBOLS)] for i in range(len(groups))]},
        **({"legend": None} if len(groups) == 1 else {}),
    )
    hover = [
        text("arm"),
        text("shown_score", title=measure.name),
        text("shown_cost", title=prices.kind),
        text("status", title="dominated"),
        text("group"),
    ]
    color = {"color": either("datum.front", ACCENT, FAINT)}
    bar: Json = {"strokeWidth": 2, "opacity": 0.55, "clip": True}
    moved: Json = {side: _by_width(side) for side in ("dx", "dy", "align")}
    beside: Json = {"xOffset": _by_width("aside")}
    layers = [
        layer(
            rows,
            "line",
            {"x": x, "y": y},
            only="datum.front",
            interpolate="step-after",
            color=ACCENT,
            opacity=0.35,
            strokeDash=[4, 3],
            clip=True,
            **beside,
        ),
        layer(rows, "rule", {"x": x, "y": number("low"), "y2": {"field": "high"}, **color}, **bar, **beside),
        layer(
            rows,
            "rule",
            {"x": number("cost_low"), "x2": {"field": "cost_high"}, "y": y, **color},
            **bar,
            **beside,
            x2Offset=_by_width("aside"),
        ),
        layer(
            rows,
            "point",
            {"x": x, "y": y, **color, "shape": shape, "tooltip": hover, "description": text("spoken")},
            size=90,
            filled=True,
            opacity=1,
            **beside,
        ),
        layer(
            rows,
            "text",
            {
                "x": x,
                "y": y,
                "text": text("arm"),
                "opacity": either(f"{_IS_NARROW} ? datum.free_narrow : datum.free", 1, 0),
                "color": either("datum.front", TEXT, FAINT),
            },
            **moved,
            **beside,
        ),
    ]
    better = "down" if measure.lower_is_better else "up"
    return Picture(
        f"pareto-{prices.key}",
        prices.kind,
        f"Better is {better} and to the left. Blue arms, joined by dashes: no other arm costs less and scores at "
        "least as well, or costs no more and is shown to score better. Grey arms are dominated. Bars: 95% intervals of "
        "the mean over seeds, which go on where they leave the "
        f"picture{', and quartiles of the time' * (prices.key == 'latency')}."
        f"{' Arms of about the same cost stand side by side.' * any(row['aside'] for row in rows)}"
        f"{' The vertical axis is logarithmic in the error.' * ys.of_errors} {_dominated(prices)}",
        spec(
            layers,
            width=WIDTH,
            height=_HEIGHT,
            about=f"Test {measure.name} against {prices.kind} of each arm.",
        ),
    )


def _dominated(prices: Prices) -> str:
    names = [f"{one.arm.name} by {one.dominated_by[0]}" for one in prices.arms if one.dominated_by]
    return f"Dominated: {', '.join(names) or 'none'}."


_IS_NARROW = "width < 430"


def _by_width(field: str) -> Json:
    return {"expr": f"{_IS_NARROW} ? datum.{field}_narrow : datum.{field}"}


_TICK = {
    "macs": "format(datum.value, '~s')",
    "bytes": "format(datum.value, '~s') + 'B'",
    "latency": "datum.value < 1 ? format(datum.value * 1000, '~g') + ' µs' : format(datum.value, '~g') + ' ms'",
}
_SHOWN = {"macs": count, "bytes": kilobytes, "latency": milliseconds}


def _at_least(least: float, one: Priced) -> Priced:
    costs = {key: max(getattr(one, key), least) for key in ("cost", "low", "high")}
    return dataclasses.replace(one, **costs)


def _point(one: Priced, there: Priced, prices: Prices, ys: Scores) -> Json:
    measure, mean, half = ys.measure, one.score.mean, one.score.half_interval
    known = not math.isnan(half)
    form = f".{measure.digits}f"
    shown = f"{mean:{form}}" + (f" ({mean - half:{form}} to {mean + half:{form}})" if known else "")
    cost = _SHOWN[prices.key](one.cost)
    status = f"by {', '.join(one.dominated_by[:3])}" if one.dominated_by else "by no arm"
    return {
        "arm": one.arm.name,
        "group": one.arm.group,
        "cost": there.cost,
        "cost_low": there.low,
        "cost_high": there.high,
        "score": ys.drawn(mean),
        "low": ys.drawn(mean - half) if known else None,
        "high": ys.drawn(mean + half) if known else None,
        "front": not one.dominated_by,
        "status": status,
        "shown_score": shown,
        "shown_cost": cost,
        "spoken": f"{one.arm.name}: {measure.name} {shown}, {prices.kind} {cost}, dominated {status}",
    }


def _asides(xs: Sequence[float], width: float) -> list[float]:
    """How far each arm is moved so that those of about the same cost do not lie over one another.

    Args:
        xs: places of the arms' costs in pixels, from the left.
        width: width of the picture in pixels.

    Returns:
        Pixels to the right, 0 for an arm that is alone. Arms keep the order of their costs, and their middle its place.
    """
    asides = [0.0] * len(xs)
    ordered = sorted(range(len(xs)), key=xs.__getitem__)
    starts = [i for i, at in enumerate(ordered) if i == 0 or xs[at] - xs[ordered[i - 1]] >= _CLOSE]
    for start, end in itertools.pairwise([*starts, len(xs)]):
        near = ordered[start:end]
        if len(near) == 1:
            continue
        middle = sum(xs[at] for at in near) / len(near)
        span = min(_SPAN, 2 * middle, 2 * (width - middle))
        apart = min(_APART, span / (len(near) - 1))
        for i, at in enumerate(near):
            asides[at] = middle + apart * (i - (len(near) - 1) / 2) - xs[at]
    return asides


def _pixels(one: Priced, aside: float, xs: Sequence[float], ys: Scores, width: float) -> tuple[float, float]:
    return width * along(one.cost, xs) + aside, _HEIGHT * ys.place(one.score.mean)


def _bars(one: Priced, aside: float, xs: Sequence[float], ys: Scores, width: float) -> list[Box]:
    """What the two bars of an arm cover, in pixels."""
    (x, y), half = _pixels(one, aside, xs, ys, width), one.score.half_interval
    ends = [_HEIGHT * ys.place(one.score.mean + change) for change in (-half, half) if not math.isnan(half)]
    upright = [(x - 1, min(ends), x + 1, max(ends))] if ends else []
    low, high = (width * along(cost, xs) + aside for cost in (one.low, one.high))
    return [*upright, (low, y - 1, high, y + 1)]
