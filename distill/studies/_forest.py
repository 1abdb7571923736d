"""The chart of a study's comparisons."""

import math
from collections.abc import Sequence

from distill.studies._judging import Judged, judge
from distill.studies._measures import Measure
from distill.studies._pictures import PAGE, TEXT, WIDTH, Json, Picture, layer, number, scaled, spec, text
from distill.studies._plots import VERDICTS
from distill.studies._results import StudyResult
from distill.studies._tables import interval


def forest(study: StudyResult) -> list[Picture]:
    """Draws the difference of each comparison by the study's first measure, one picture for each group of arms.

    Groups are drawn apart because differences may be much larger in one group than in another.

    Args:
        study: a finished study.

    Returns:
        Pictures with the mean, the interval and one dot per seed of each comparison; none without comparisons.
    """
    groups: dict[str, list[Judged]] = {}
    for judged in judge(study):
        groups.setdefault(study.arm(judged.arm).group, []).append(judged)
    return [
        _forest(rows, study.measures[0], f"forest-{index}" if index else "forest", group)
        for index, (group, rows) in enumerate(groups.items())
    ]


def _forest(rows: Sequence[Judged], measure: Measure, name: str, group: str) -> Picture:
    data = [_compared(judged) for judged in rows]
    dots = [
        {"comparison": row["comparison"], "difference": difference, "verdict": row["verdict"]}
        for row, judged in zip(data, rows, strict=True)
        for difference in judged.differences
    ]
    unit = f" in {measure.unit}" * bool(measure.unit)
    better = "left" if measure.lower_is_better else "right"
    title = [f"difference in test {measure.name}{unit}", f"{better} of 0 is better"]
    x = number("difference", scale=scaled(_difference_domain(rows)), axis={"title": title, "tickCount": 6})
    y = {"y": text("comparison", sort=None, axis=None)}
    colors = {"domain": list(VERDICTS), "range": list(VERDICTS.values())}
    color = {"color": text("verdict", scale=colors, legend=None)}
    hover = [
        text("comparison"),
        text("shown_difference", title=measure.unit or "difference"),
        text("interval"),
        text("p", title="p, adjusted"),
        text("verdict"),
        text("seeds"),
    ]
    left = {"x": {"value": 0}, **y}
    layers = [
        layer([{"zero": 0}], "rule", {"x": number("zero")}, color=TEXT, opacity=0.6),
        layer(
            data,
            "rule",
            {"x": number("low"), "x2": {"field": "high"}, **y, **color},
            strokeWidth=4,
            yOffset=12,
            clip=True,
        ),
        layer(
            dots, "point", {"x": x, **y, **color}, filled=True, size=22, opacity=0.6, yOffset=23, clip=True
        ),
        layer(
            data,
            "point",
            {"x": x, **y, **color, "tooltip": hover, "description": text("spoken")},
            shape="diamond",
            filled=True,
            size=120,
            yOffset=12,
            opacity=1,
        ),
    ]
    for line, dy, weight in (("comparison", -18, "bold"), ("said", -3, "normal")):
        words = {**left, "text": text(line)}
        style: Json = {"align": "left", "dy": dy, "fontWeight": weight}
        layers += [
            layer(data, "text", words, **style, color=PAGE, stroke=PAGE, strokeWidth=5, strokeJoin="round"),
            layer(data, "text", words, **style),
        ]
    return Picture(
        name,
        group,
        "Diamond: mean difference. Line: its interval, which excludes 0 exactly when there is a verdict. Dots: single "
        "seeds.",
        spec(
            layers,
            width=WIDTH,
            height=66 * len(rows),
            about=f"Paired differences in test {measure.name}, {group}.",
        ),
    )


def _compared(judged: Judged) -> Json:
    result = judged.adjusted
    has = not math.isnan(result.low)
    difference, ends = f"{result.difference:+.{judged.digits}f}", interval(result, digits=judged.digits)
    return {
        "comparison": f"{judged.arm} − {judged.baseline}",
        "difference": result.difference,
        "low": result.low if has else None,
        "high": result.high if has else None,
        "verdict": result.verdict,
        "shown_difference": difference,
        "interval": ends,
        "p": f"{result.p:.3g}",
        "seeds": str(result.n),
        "said": f"{difference} ({ends}), {result.verdict}{'' if judged.primary else ', exploratory'}",
        "spoken": f"{judged.arm} minus {judged.baseline}: {result}",
    }


def _difference_domain(rows: Sequence[Judged]) -> list[float]:
    """All seeds and 0, and as much of the intervals as does not squeeze them."""
    values = [0.0, *(difference for judged in rows for difference in judged.differences)]
    far = 3 * max(map(abs, values)) or 1.0
    ends = [
        min(max(end, -far), far)
        for judged in rows
        for end in (judged.adjusted.low, judged.adjusted.high)
        if not math.isnan(end)
    ]
    low, high = min(values + ends), max(values + ends)
    margin = 0.04 * (high - low) or 1.0
    return [low - margin, high + margin]
