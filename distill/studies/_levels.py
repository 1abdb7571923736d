"""Methods at several levels of compression: their curves, drawn and in numbers.

A method at one level is an arm called METHOD-PERCENT, such as "gradual-95".
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from distill.studies._measures import ACCURACY
from distill.studies._plots import TEXT
from distill.studies._results import ArmResult
from distill.studies._statistics import spread


@dataclasses.dataclass(frozen=True)
class Curve:
    """One method at all its levels.

    Attributes:
        method: name of the method.
        levels: levels in percent, in the order of the arms.
        accuracies: test accuracies in percent at each level, one per seed.
    """

    method: str
    levels: tuple[float, ...]
    accuracies: tuple[tuple[float, ...], ...]


def curves(arms: Iterable[ArmResult]) -> list[Curve]:
    """Collects the arms that have a level into one curve per method, in the order of the arms."""
    points: dict[str, dict[float, tuple[float, ...]]] = {}
    for arm in arms:
        method, _, percent = arm.name.rpartition("-")
        if percent.replace(".", "", 1).isdigit():
            points.setdefault(method, {})[float(percent)] = tuple(arm.values(ACCURACY) or ())
    return [Curve(method, tuple(found), tuple(found.values())) for method, found in points.items()]


def mean(values: Sequence[float]) -> str:
    """The mean over seeds ± half its 95% t interval."""
    found = spread(values)
    return f"{found.mean:.2f} ± {found.half_interval:.2f}"


def draw(axes: Axes, curve: Curve, xs: Sequence[float], *, color: str) -> None:
    """Draws the mean of a curve and its 95% band; call `error_axis` on the axes at the end.

    Args:
        axes: axes to draw on.
        curve: curve to draw.
        xs: position of each level on the horizontal axis.
        color: colour of line and band.
    """
    found = [spread(values) for values in curve.accuracies]
    means = np.array([one.mean for one in found])
    half = np.array([one.half_interval for one in found])
    axes.plot(xs, _errors(means), "o-", color=color, markersize=4, label=curve.method)
    axes.fill_between(xs, _errors(means - half), _errors(means + half), color=color, alpha=0.2, linewidth=0)


def draw_line(axes: Axes, arm: ArmResult, *, label: str, dash: str = "-") -> None:
    """Draws the mean of an arm without a level as a horizontal line."""
    errors = _errors(spread(arm.values(ACCURACY) or []).mean)
    axes.axhline(float(errors), color=TEXT, linewidth=1, linestyle=dash, label=label)


def error_axis(axes: Axes) -> None:
    """Makes the axis of accuracies logarithmic in the error, so that 99% and 98% differ as much as 50% and 0%."""
    axes.set(yscale="log", ylabel="test accuracy %")
    axes.invert_yaxis()
    low, high = sorted(axes.get_ylim())
    shown = [error for error in (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 90) if low <= error <= high]
    axes.set_yticks(shown, [f"{100 - error:g}" for error in shown])
    axes.minorticks_off()


def _errors(accuracies: ArrayLike) -> NDArray[np.float64]:
    """Errors in percent; no error at all would have no place on a logarithmic axis."""
    return np.maximum(100 - np.asarray(accuracies, dtype=np.float64), 0.1)
