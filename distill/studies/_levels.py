"""Methods at several levels of compression, from arms called METHOD-PERCENT: their curves, drawn and in words."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy import stats

from distill.studies._plots import TEXT
from distill.studies._results import ACCURACY, ArmResult
from distill.studies._statistics import spread


@dataclasses.dataclass(frozen=True)
class Curve:
    """One method at all levels.

    Attributes:
        method: its name.
        levels: in percent, ascending.
        accuracies: of each, the test accuracy in percent of every seed.
    """

    method: str
    levels: tuple[float, ...]
    accuracies: tuple[tuple[float, ...], ...]


def curves(arms: Iterable[ArmResult]) -> list[Curve]:
    """The methods of the arms that have a level, in their order."""
    points: dict[str, dict[float, tuple[float, ...]]] = {}
    for arm in arms:
        method, _, percent = arm.name.rpartition("-")
        if percent.replace(".", "", 1).isdigit():
            points.setdefault(method, {})[float(percent)] = tuple(arm.values(ACCURACY) or ())
    return [Curve(method, tuple(found), tuple(found.values())) for method, found in points.items()]


def mean(values: Sequence[float] | None) -> str:
    """A mean over seeds ± half its 95 % t interval."""
    return f"{spread(list(values or ())).mean:.2f} ± {_half(values or ()):.2f}"


def draw(axes: Axes, curve: Curve, xs: Sequence[float], color: str, label: str) -> float:
    """Draws mean and 95 % band of a curve where `error_axis` shows them; returns the last mean."""
    means = np.array([spread(list(values)).mean for values in curve.accuracies])
    half = np.array([_half(values) for values in curve.accuracies])
    axes.plot(xs, _missing(means), "o-", color=color, markersize=4, label=label)
    axes.fill_between(xs, _missing(means - half), _missing(means + half), color=color, alpha=0.2, linewidth=0)
    return float(means[-1])


def draw_line(axes: Axes, arm: ArmResult, label: str, dash: str = "-") -> None:
    """Draws the mean of a network that has no level."""
    mean = spread(arm.values(ACCURACY) or []).mean
    axes.axhline(_missing(mean), color=TEXT, linewidth=1, linestyle=dash, label=label)


def error_axis(axes: Axes) -> None:
    """Errors on a logarithmic axis upside down: differences of a point show beside those of fifty."""
    axes.set(yscale="log", ylabel="test accuracy %, last epoch")
    axes.invert_yaxis()
    low, high = sorted(axes.get_ylim())
    shown = [error for error in (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 90) if low <= error <= high]
    axes.set_yticks(shown, [f"{100 - error:g}" for error in shown])
    axes.minorticks_off()


def _missing(accuracy: Any) -> Any:
    """How many percent are wrong; none at all is off a logarithmic axis."""
    return np.maximum(100 - accuracy, 0.1)


def _half(values: Sequence[float]) -> float:
    """Half the 95 % t interval of a mean."""
    found = spread(list(values))
    if found.n < 2:
        return math.nan
    return float(stats.t.ppf(0.975, found.n - 1) * found.deviation / math.sqrt(found.n))
