"""A study's figures, as inline SVG that takes the page's text colour in light and dark mode."""

import html
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distill.studies._judging import Judged, judge
from distill.studies._measures import Measure
from distill.studies._results import ArmResult, StudyResult
from distill.studies._statistics import spread
from distill.studies._tables import count

# Okabe and Ito's colours, without black and yellow, which are invisible on dark and on light pages.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
VERDICTS = {"better": "#0072B2", "worse": "#D55E00", "not shown": "#8C8C8C"}
_MARKERS = "osD^vP"
_DASHES = ("-", "--", ":")
# Stands for the page's text colour until the SVG is written.
TEXT = "#010203"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": TEXT,
    "axes.grid": True,
    "axes.labelcolor": TEXT,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": TEXT,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "distill",
    "text.color": TEXT,
    "text.parse_math": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}


def forest(study: StudyResult) -> str:
    """Draws the difference by the study's first measure of each comparison: mean, interval, and one dot per seed.

    Each group of arms has its own axes, since differences may be much larger in one group than in another.

    Args:
        study: study with at least one comparison.

    Returns:
        An `<svg>` element.
    """
    judged = judge(study)
    groups = list(dict.fromkeys(study.arm(j.arm).group for j in judged))
    members = [[j for j in judged if study.arm(j.arm).group == group] for group in groups]
    with matplotlib.rc_context(STYLE):
        heights = [len(m) + 0.8 for m in members]
        figure = Figure(figsize=(8.5, 0.5 * sum(heights) + 0.9), layout="constrained")
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
        for axes, group, rows in zip(panels, groups, members, strict=True):
            _forest_panel(axes, rows, study.measures[0].digits)
            axes.set_title(group * (len(groups) > 1))
        measure = study.measures[0]
        unit, better = (
            f"{measure.unit}; " * bool(measure.unit),
            "left" if measure.lower_is_better else "right",
        )
        panels[-1].set_xlabel(f"difference in test {measure.name} ({unit}{better} of 0 is better)")
        spoken = "; ".join(f"{j.arm} minus {j.baseline} {j.adjusted}" for j in judged)
        return svg(figure, name="forest", description=f"Paired differences: {spoken}")


def curves(study: StudyResult) -> str:
    """Draws score and loss on dev after each epoch: mean over seeds, and a band of one standard deviation.

    Args:
        study: study whose history has "val_loss", and, to show the scores, "val_" with the key of the first measure;
            arms without them are left out.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(STYLE):
        first = study.measures[0]
        score = f"val_{first.key}"
        has_scores = any(_history(arm, score) is not None for arm in study.arms)
        rows = [
            *([(score, first.scale, f"dev {first.heading}")] if has_scores else []),
            ("val_loss", 1.0, "dev loss"),
        ]
        groups = {
            group: known
            for group, arms in _groups(study).items()
            if (known := [arm for arm in arms if _history(arm, rows[0][0]) is not None])
        }
        figure = Figure(figsize=(8.5, 3.2 * len(rows)), layout="constrained")
        columns = figure.subplots(len(rows), max(len(groups), 1), squeeze=False, sharex="col")[
            :, : len(groups)
        ].T
        for panels, (group, arms) in zip(columns, groups.items(), strict=True):
            for axes, (key, scale, label) in zip(panels, rows, strict=True):
                _curve_panel(axes, arms, key, scale=scale)
                axes.set_ylabel(label)
            top, bottom = panels[0], panels[-1]
            top.set_title(group * (len(_groups(study)) > 1))
            bottom.set_xlabel("epoch")
            bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
            # Below the axes, where it hides no curve.
            bottom.legend(
                *top.get_legend_handles_labels(),
                loc="upper center",
                bbox_to_anchor=(0.5, -0.2),
                ncols=2,
                fontsize="small",
            )
        description = "Scores and loss on dev by epoch, mean and standard deviation over seeds"
        return svg(figure, name="curves", description=description)


def size(study: StudyResult) -> str:
    """Draws the first measure on test against the number of parameters: mean and standard deviation over seeds.

    Args:
        study: study whose cells know their parameters; arms without them are left out.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 3.6), layout="constrained")
        groups, measure = _groups(study), study.measures[0]
        panels = figure.subplots(1, len(groups), squeeze=False, sharex=True)[0]
        spoken: list[str] = []
        for axes, (group, arms) in zip(panels, groups.items(), strict=True):
            spoken += _size_panel(axes, arms, measure)
            axes.set(
                title=group * (len(groups) > 1),
                xscale="log",
                xlabel="parameters",
                ylabel=f"test {measure.heading}",
            )
            axes.margins(x=0.15)
        sizes = {p for arm in study.arms if (p := arm.cells[0].cost["parameters"]) is not None}
        ticks = apart(sizes, ratio=1.5)
        panels[0].set_xticks(ticks, map(count, ticks))
        panels[0].minorticks_off()
        return svg(
            figure, name="size", description=f"{capitalized(measure.name)} against size: " + "; ".join(spoken)
        )


def capitalized(text: str) -> str:
    """Text with a capital letter at its beginning, and whatever it has elsewhere."""
    return text[:1].upper() + text[1:]


def apart(values: Iterable[float], *, ratio: float) -> list[float]:
    """Chooses ticks for a logarithmic axis so that their labels do not overlap.

    Args:
        values: values that may have a tick.
        ratio: factor by which each tick must exceed the one before it.

    Returns:
        The ticks, ascending.
    """
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value > ratio * kept[-1]:
            kept.append(value)
    return kept


def _groups(study: StudyResult) -> dict[str, list[ArmResult]]:
    groups: dict[str, list[ArmResult]] = {}
    for arm in study.arms:
        groups.setdefault(arm.group, []).append(arm)
    return groups


def _forest_panel(axes: Axes, rows: Sequence[Judged], digits: int) -> None:
    for y, judged in enumerate(rows):
        result = judged.adjusted
        color = VERDICTS[result.verdict]
        axes.plot(judged.differences, [y + 0.22] * result.n, "o", color=color, alpha=0.45, markersize=3)
        axes.plot([result.low, result.high], [y, y], color=color, linewidth=2.5, solid_capstyle="butt")
        axes.plot(result.difference, y, "D", color=color, markersize=6)
        axes.text(
            1.01,
            y,
            f"{result.difference:+.{digits}f}  {result.verdict}",
            transform=axes.get_yaxis_transform(),
            va="center",
        )
    axes.axvline(0, color=TEXT, linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{judged.arm} − {judged.baseline}" for judged in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _curve_panel(axes: Axes, arms: Sequence[ArmResult], key: str, scale: float) -> None:
    late: list[float] = []
    for index, arm in enumerate(arms):
        values = _history(arm, key)
        if values is None:
            continue
        mean, deviation = (
            scale * values.mean(axis=0),
            scale * values.std(axis=0, ddof=min(1, len(values) - 1)),
        )
        color = PALETTE[index % len(PALETTE)]
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, _DASHES[index // len(PALETTE) % len(_DASHES)], color=color, label=arm.name)
        axes.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)
        late += [*(mean - deviation)[len(mean) // 4 :], *(mean + deviation)[len(mean) // 4 :]]
    if late:
        # With the first epochs in view, the differences that matter would be flat.
        margin = 0.05 * (max(late) - min(late)) or 1.0
        axes.set_ylim(min(late) - margin, max(late) + margin)


def _size_panel(axes: Axes, arms: Sequence[ArmResult], measure: Measure) -> list[str]:
    spoken: list[str] = []
    seen: list[int] = []
    for index, arm in enumerate(arms):
        parameters = arm.cells[0].cost["parameters"]
        if parameters is None:
            continue
        over = spread(arm.values(measure) or [])
        # Arms of the same size stand side by side.
        axes.errorbar(
            parameters * 1.1 ** seen.count(parameters),
            over.mean,
            yerr=np.nan_to_num(over.deviation),
            fmt=_MARKERS[index % len(_MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            fillstyle="full" if index < len(PALETTE) else "none",
            capsize=3,
            label=arm.name,
        )
        seen.append(parameters)
        mean = f"{over.mean:.{measure.digits}f}{'%' * (measure.scale == 100)}"
        spoken.append(f"{arm.name} {mean} with {parameters} parameters")
    if spoken:
        axes.legend(fontsize="small")
    return spoken


def _history(arm: ArmResult, key: str) -> np.ndarray | None:
    """Values (seeds, epochs), as far as every seed went; `None` if an epoch lacks the key."""
    epochs = min(len(cell.history) for cell in arm.cells)
    rows = [[epoch.get(key) for epoch in cell.history[:epochs]] for cell in arm.cells]
    if epochs == 0 or any(value is None for row in rows for value in row):
        return None
    return np.array(rows, dtype=np.float64)


def svg(figure: Figure, *, name: str, description: str) -> str:
    """Turns a figure into an `<svg>` element whose text takes the page's colour.

    Args:
        figure: figure drawn with `STYLE`.
        name: prefix that keeps the ids of several figures on one page apart.
        description: the figure in words, for screen readers.

    Returns:
        The element.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Creator": None, "Date": None, "Format": None, "Type": None},
    )
    # matplotlib repeats every text in a comment.
    drawn = re.sub("<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)
    drawn = drawn[drawn.index("<svg") :].replace(TEXT, "currentColor")
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", drawn)
    return drawn.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
