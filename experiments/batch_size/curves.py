"""Draws the findings of the batch-size study over the batch sizes, each as an `<svg>` element."""

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from numpy.typing import ArrayLike

from distill.studies import plots
from experiments.batch_size.rows import Row, grouped

_MARKERS = {"constant": "o", "scaled": "s"}
_DASHES = {"constant": "--", "scaled": "-"}
_COLORS = {"alone": plots.PALETTE[0], "distilled": plots.PALETTE[1]}


def accuracy_curves(rows: Sequence[Row]) -> str:
    """Draws test accuracy by batch size, with the 95% interval of its mean."""
    with matplotlib.rc_context(plots.STYLE):
        figure, (axes,) = _panels(rows, 1, height=4.2)
        for group in grouped(rows):
            mean, half = np.array([row.interval for row in group]).T
            half = np.nan_to_num(half)
            _line(axes, group, mean)
            axes.fill_between(
                [row.size for row in group],
                mean - half,
                mean + half,
                color=_COLORS[group[0].kind],
                alpha=0.15,
                linewidth=0,
            )
        axes.set(ylabel="test accuracy %, last epoch")
        axes.legend()
        return plots.svg(figure, name="batch-accuracy", description="Test accuracy by batch size")


def target_curves(rows: Sequence[Row]) -> str:
    """Draws epochs, updates and seconds to the target by batch size, as medians over seeds."""
    shown: dict[str, Callable[[Row], float]] = {
        "epochs": lambda row: row.epochs_to_target,
        "updates": lambda row: row.epochs_to_target * row.steps,
        "seconds of training steps": lambda row: row.seconds_to_target,
    }
    with matplotlib.rc_context(plots.STYLE):
        figure, panels = _panels(rows, len(shown), height=3.9)
        for axes, (title, value) in zip(panels, shown.items(), strict=True):
            for group in grouped(rows):
                values = np.array([value(row) for row in group])
                _line(axes, group, np.where(np.isfinite(values), values, np.nan))
            axes.set(title=title, yscale="log")
            _plain_ticks(axes)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        description = "Epochs, updates and seconds to the target by batch size"
        return plots.svg(figure, name="batch-target", description=description)


def cost_curves(rows: Sequence[Row]) -> str:
    """Draws examples per second and peak memory by batch size."""
    with matplotlib.rc_context(plots.STYLE):
        figure, (speed, memory) = _panels(rows, 2, height=3.4)
        for group in grouped(rows):
            if group[0].rule == "scaled":  # the learning rate affects neither
                peaks = [math.nan if row.peak_bytes is None else row.peak_bytes / 1e6 for row in group]
                _line(speed, group, [row.examples_per_second for row in group], group[0].kind)
                _line(memory, group, peaks, group[0].kind)
        speed.set(title="examples per second", yscale="log")
        _plain_ticks(speed)
        memory.set(title="peak memory of the process (MB)")
        speed.legend()
        description = "Examples per second and peak memory by batch size"
        return plots.svg(figure, name="batch-cost", description=description)


def noise_curves(rows: Sequence[Row]) -> str:
    """Draws the noise scale during training for each batch size, with the scaled learning rate."""
    groups = [group for group in grouped(rows) if group[0].rule == "scaled"]
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 3.9), layout="constrained")
        panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
        for axes, group in zip(panels, groups, strict=True):
            # The middle of the colour map: its ends are invisible on dark and on light pages.
            colors = matplotlib.colormaps["viridis"](np.linspace(0.2, 0.85, len(group)))
            for row, color in zip(group, colors, strict=True):
                axes.plot(list(row.noise), list(row.noise.values()), "o-", color=color, ms=3, label=row.size)
            axes.set_xscale("symlog", linthresh=1)
            axes.set(title=group[0].kind, xlabel="epochs trained", yscale="log")
            axes.set_xticks(list(group[0].noise), map(str, group[0].noise))
            axes.minorticks_off()
            _plain_ticks(axes)
        panels[0].set(ylabel="noise scale (examples)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", title="batch size")
        description = "Gradient-noise scale during training by batch size"
        return plots.svg(figure, name="batch-noise", description=description)


def _panels(rows: Sequence[Row], count: int, *, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Makes panels side by side, each with an axis of batch sizes."""
    figure = Figure(figsize=(8.5, height), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    sizes = sorted({row.size for row in rows})
    for axes in panels:
        axes.set(xscale="log", xlabel="batch size")
        axes.set_xticks(sizes, map(str, sizes), rotation=45 if count > 2 else 0)
        axes.minorticks_off()
    return figure, panels


def _line(axes: Axes, group: Sequence[Row], values: ArrayLike, label: str | None = None) -> None:
    first = group[0]
    axes.plot(
        [row.size for row in group],
        values,
        color=_COLORS[first.kind],
        linestyle=_DASHES[first.rule],
        marker=_MARKERS[first.rule],
        markersize=4,
        label=label or f"{first.kind}, {first.rule} rate",
    )


def _plain_ticks(axes: Axes) -> None:
    """Labels a logarithmic axis with plain numbers instead of powers of ten."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.yaxis.minorticks_off()
