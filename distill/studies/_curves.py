"""Charts of how arms learn and how sure they are; the reader chooses which arms they show."""

import functools
import math
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.studies._details import Reliability
from distill.studies._pictures import (
    IS_SHOWN,
    TEXT,
    WIDTH,
    Picture,
    layer,
    looks,
    number,
    scaled,
    spec,
    text,
)
from distill.studies._results import ArmResult, StudyResult

_POINTS = 200  # epochs that are drawn at most
_HEIGHT, _SQUARE = 300, 420


def curves(study: StudyResult) -> list[Picture]:
    """Draws score and loss on dev after each epoch: the mean over seeds, with a band of one standard deviation.

    Args:
        study: a finished study.

    Returns:
        For each group of arms, a picture of "val_" plus the key of the first measure and one of "val_loss", if the
        arms' histories have them.
    """
    first = study.measures[0]
    kinds = (
        (f"val_{first.key}", first.scale, f"dev {first.heading}", "score"),
        ("val_loss", 1.0, "dev loss", "loss"),
    )
    groups = list(dict.fromkeys(arm.group for arm in study.arms))
    pictures = []
    for index, group in enumerate(groups):
        for key, scale, label, kind in kinds:
            known = {
                arm.name: scale * values
                for arm in study.arms
                if arm.group == group and (values := history(arm, key)) is not None
            }
            if known:
                name = f"curves-{kind}-{index}" if index else f"curves-{kind}"
                title = f"{label}, {group}" if len(groups) > 1 else label
                pictures.append(_curve(study, known, label, name, title))
    return pictures


def reliability(study: StudyResult) -> list[Picture]:
    """Draws how often classifiers are right on test, by how sure they are, over all seeds.

    Args:
        study: a finished study.

    Returns:
        One picture, or none if no arm recorded its reliability.
    """
    pooled = {arm.name: found for arm in study.arms if (found := _pooled(arm)) is not None}
    if not pooled:
        return []
    rows = [
        {
            "arm": arm,
            "sure": 100 * sure / examples,
            "right": 100 * right / examples,
            "examples": examples,
            "spoken": f"{arm}: {100 * sure / examples:.1f}% sure, {100 * right / examples:.1f}% right, "
            f"{examples} examples",
        }
        for arm, found in pooled.items()
        for examples, right, sure in zip(found.examples, found.right, found.confidence, strict=True)
        if examples
    ]
    arms = list(pooled)
    whole = {"scale": {"domain": [0, 100]}}
    at = {
        "x": number("sure", axis={"title": "confidence, %: largest probability"}, **whole),
        "y": number("right", axis={"title": "right on test, %"}, **whole),
    }
    color, dash = looks(study, arms)
    hover = [
        text("arm"),
        number("sure", title="confidence %", format=".1f"),
        number("right", title="right %", format=".1f"),
        number("examples", format=","),
    ]
    size = number("examples", scale={"range": [15, 220]}, legend=None)
    dots = {**at, "color": color, "size": size, "tooltip": hover, "description": text("spoken")}
    diagonal = [{"sure": 0, "right": 0}, {"sure": 100, "right": 100}]
    layers = [
        layer(diagonal, "line", at, color=TEXT, opacity=0.4, strokeDash=[2, 4]),
        layer(rows, "line", {**at, "color": color, "strokeDash": dash}, only=IS_SHOWN, strokeWidth=2),
        layer(rows, "point", dots, only=IS_SHOWN, filled=True, opacity=0.9),
    ]
    about = "Reliability: how often each arm is right, by how sure it is."
    drawn = spec(layers, width=_SQUARE, height=_SQUARE, about=about, arms=arms)
    caption = (
        "Test examples of all seeds, in 15 bins of confidence; larger dots hold more. Below the diagonal an arm is "
        "overconfident, above it underconfident."
    )
    return [Picture("reliability", "reliability", caption, drawn, tuple(arms))]


def history(arm: ArmResult, key: str) -> NDArray[np.float64] | None:
    """Values (seeds, epochs), for the epochs that every seed reached; `None` if an epoch lacks the key."""
    epochs = min(len(cell.history) for cell in arm.cells)
    rows = [[epoch.get(key) for epoch in cell.history[:epochs]] for cell in arm.cells]
    if epochs == 0 or any(value is None for row in rows for value in row):
        return None
    return np.array(rows, dtype=np.float64)


def _pooled(arm: ArmResult) -> Reliability | None:
    found = [cell.reliability for cell in arm.cells if cell.reliability is not None]
    return functools.reduce(operator.add, found) if len(found) == len(arm.cells) else None


def _curve(
    study: StudyResult, known: dict[str, NDArray[np.float64]], label: str, name: str, title: str
) -> Picture:
    arms = list(known)
    longest = max(values.shape[1] for values in known.values())
    step = -(-longest // _POINTS)
    rows: list[dict[str, Any]] = []
    hovered: dict[int, dict[str, Any]] = {}
    for index, (arm, values) in enumerate(known.items()):
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
        for epoch in range(step - 1, len(mean), step):
            at = {"epoch": epoch + 1, "mean": _plain(mean[epoch])}
            ends = {
                "low": _plain(mean[epoch] - deviation[epoch]),
                "high": _plain(mean[epoch] + deviation[epoch]),
            }
            rows.append({"arm": arm, **at, **ends})
            hovered.setdefault(epoch + 1, {"epoch": epoch + 1})[f"arm{index}"] = at["mean"]
    x = number("epoch", axis={"title": "epoch", "tickMinStep": 1}, scale={"nice": False, "zero": False})
    scale = scaled(_late(known))
    y = number("mean", scale=scale, axis={"title": label, "tickCount": 6})
    color, dash = looks(study, arms)
    band = {"x": x, "y": number("low", scale=scale), "y2": {"field": "high"}, "color": color}
    hover = [
        number("epoch"),
        *(number(f"arm{index}", title=arm, format=".4~g") for index, arm in enumerate(arms)),
    ]
    seen = {"condition": {"param": "near", "empty": False, "value": 0.5}, "value": 0}
    near = {"type": "point", "fields": ["epoch"], "nearest": True, "on": "pointerover", "clear": "pointerout"}
    lines = {"x": x, "y": y, "color": color, "strokeDash": dash, "description": text("arm")}
    layers = [
        layer(rows, "area", band, only=IS_SHOWN, opacity=0.18, clip=True),
        layer(rows, "line", lines, only=IS_SHOWN, strokeWidth=2, clip=True),
        {
            **layer(hovered.values(), "rule", {"x": x, "opacity": seen, "tooltip": hover}, color=TEXT),
            "params": [{"name": "near", "select": near}],
        },
    ]
    drawn = spec(layers, width=WIDTH, height=_HEIGHT, about=f"{title} by epoch.", arms=arms)
    thinned = f" Every {step}th epoch is drawn." * (step > 1)
    caption = (
        "Mean over seeds; the bands are one standard deviation. The vertical axis shows the range of the last three "
        f"quarters of training.{thinned}"
    )
    return Picture(name, title, caption, drawn, tuple(arms))


def _late(known: dict[str, NDArray[np.float64]]) -> list[float]:
    """The range of the last three quarters; with the first epochs in view, differences that matter would be flat."""
    late = [0.0]
    for values in known.values():
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
        ends = np.concatenate([mean - deviation, mean + deviation]).reshape(2, -1)[:, len(mean) // 4 :]
        late += ends[np.isfinite(ends)].tolist()
    late = late[1:] or late
    margin = 0.05 * (max(late) - min(late)) or 1.0
    return [min(late) - margin, max(late) + margin]


def _plain(value: float) -> float | None:
    """Six digits suffice for a chart, and what is not finite has no place in it."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
