"""The tables, the pictures and the page of `experiments.sparsity`, from the files that it left.

python -c "from experiments import sparsity_report; sparsity_report.write('runs/sparsity')"
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from rich.console import RenderableType
from scipy import stats

from experiments import plots, report, results, statistics, tables
from experiments.results import ACCURACY, Study
from experiments.tables import Grid

UNPRUNED = ("dense", "longer")
PROTOCOL = (
    "Test accuracy after the last epoch, mean over seeds ± half its 95 % t interval; the test split was read once. "
    "Sparsity is the share of zeros, see the notes."
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One method at all sparsities.

    Attributes:
        method: its name.
        sparsities: ascending.
        accuracies: of each, the test accuracy in percent of every seed.
    """

    method: str
    sparsities: tuple[float, ...]
    accuracies: tuple[tuple[float, ...], ...]


def curves(study: Study) -> list[Curve]:
    """The methods, in the order of the study's arms."""
    points: dict[str, dict[float, tuple[float, ...]]] = {}
    for arm in study.arms:
        if arm.name not in UNPRUNED:
            method, _, percent = arm.name.rpartition("-")
            points.setdefault(method, {})[float(percent) / 100] = tuple(arm.values(ACCURACY) or ())
    return [Curve(method, tuple(found), tuple(found.values())) for method, found in points.items()]


def table(study: Study) -> Grid:
    """Accuracy of each method at each sparsity."""
    found = curves(study)
    lines = [
        (f"{100 * s:g} %", *(_mean(curve.accuracies[i]) for curve in found))
        for i, s in enumerate(found[0].sparsities)
    ]
    seeds = len(found[0].accuracies[0])
    unpruned = ", ".join(f"{name} {_mean(study.arm(name).values(ACCURACY) or ())}" for name in UNPRUNED)
    return Grid(
        f"Test accuracy %, {seeds} seeds; unpruned: {unpruned}",
        ("zeros", *(curve.method for curve in found)),
        tuple(lines),
    )


def picture(study: Study) -> str:
    """Accuracy against sparsity: mean and 95 % band of each method, the unpruned network as a line.

    Args:
        study: what `results.read` returned.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 4.6), layout="constrained")
        axes = figure.subplots()
        spoken = []
        for i, curve in enumerate(curves(study)):
            spreads = [statistics.spread(list(values)) for values in curve.accuracies]
            # The share that is kept, on a logarithmic axis that runs towards nothing.
            kept = [1 - sparsity for sparsity in curve.sparsities]
            means = np.array([spread.mean for spread in spreads])
            half = np.array([_half(values) for values in curve.accuracies])
            color = plots.PALETTE[i % len(plots.PALETTE)]
            axes.plot(kept, _missing(means), "o-", color=color, markersize=4, label=curve.method)
            band = _missing(means - half), _missing(means + half)
            axes.fill_between(kept, *band, color=color, alpha=0.2, linewidth=0)
            spoken.append(f"{curve.method} {means[-1]:.1f} % at {100 * curve.sparsities[-1]:g} % zeros")
        for name, dash in zip(UNPRUNED, ("-", ":"), strict=True):
            mean = statistics.spread(study.arm(name).values(ACCURACY) or []).mean
            label = f"unpruned, {name}"
            axes.axhline(_missing(mean), color=plots.TEXT, linewidth=1, linestyle=dash, label=label)
        levels = curves(study)[0].sparsities
        axes.set_xlim(1.2 * (1 - levels[0]), (1 - levels[-1]) / 1.2)  # towards nothing
        axes.set(xscale="log", xlabel="zeros, %", yscale="log", ylabel="test accuracy %, last epoch")
        axes.set_xticks([1 - s for s in levels], [f"{100 * s:g}" for s in levels])
        # Errors on a logarithmic axis upside down: differences of a point show beside those of fifty.
        axes.invert_yaxis()
        low, high = sorted(axes.get_ylim())
        shown = [error for error in (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 90) if low <= error <= high]
        axes.set_yticks(shown, [f"{100 - error:g}" for error in shown])
        axes.minorticks_off()
        axes.legend(fontsize="small")
        return plots.svg(figure, "sparsity", "Test accuracy against sparsity: " + "; ".join(spoken))


def _missing(accuracy: Any) -> Any:
    """How many percent are wrong; none at all is off a logarithmic axis."""
    return np.maximum(100 - accuracy, 0.1)


def movement(cell: dict[str, Any], title: str) -> str:
    """Layer × step: how sparse each kernel was while it was pruned.

    Args:
        cell: a result.json with "updates".
        title: above the picture.

    Returns:
        An `<svg>` element.
    """
    steps = [step for step, _ in cell["updates"]]
    names = list(cell["updates"][0][1])
    values = np.array([[sparsities[name] for _, sparsities in cell["updates"]] for name in names])
    with matplotlib.rc_context({**plots.STYLE, "axes.grid": False}):
        figure = Figure(figsize=(8.5, 0.4 * len(names) + 1.5), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(100 * values, aspect="auto", cmap="cividis", vmin=0, vmax=100)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(steps)), [str(step) for step in steps], fontsize="small")
        axes.set(title=title, xlabel="step at which the masks moved")
        figure.colorbar(image, ax=axes, label="zeros %")
        final = ", ".join(f"{name} {100 * row[-1]:.0f} %" for name, row in zip(names, values, strict=True))
        return plots.svg(figure, "movement", f"Sparsity of each kernel at each update; at last {final}")


def histogram(cells: dict[str, dict[str, Any]]) -> str:
    """The weights that are not zero, of several networks.

    Args:
        cells: label -> a result.json with "histogram".

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 3.2), layout="constrained")
        axes = figure.subplots()
        for i, (label, cell) in enumerate(cells.items()):
            edges, counts = cell["histogram"]["edges"], cell["histogram"]["counts"]
            axes.stairs(counts, edges, color=plots.PALETTE[i], label=f"{label}: {sum(counts):,} weights")
        axes.set(xlabel="weight", ylabel="how many", yscale="log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.legend(fontsize="small")
        return plots.svg(figure, "histogram", "Weights that are not zero: " + ", ".join(cells))


def kernels(cell: dict[str, Any]) -> Grid:
    """The zeros of each kernel of one network."""
    lines = []
    for row in cell["kernels"]:
        weights = math.prod(row["shape"])
        shape = " × ".join(map(str, row["shape"]))
        lines.append(
            (row["name"], shape, f"{weights:,}", f"{row['zeros']:,}", f"{row['zeros'] / weights:.2%}")
        )
    return Grid("Zeros by kernel", ("kernel", "shape", "weights", "zeros", "sparsity"), tuple(lines))


def sizes(cells: dict[str, dict[str, Any]]) -> Grid:
    """What files weigh, with and without their zeros."""
    names = ("keras", "keras_gzip", "litert", "litert_gzip", "litert_sparse")
    lines = [
        (label, *(f"{cell['sizes'][name] / 1000:.0f}" for name in names)) for label, cell in cells.items()
    ]
    headings = ("network", ".keras", ".keras,\ngzip", "LiteRT", "LiteRT,\ngzip", "LiteRT,\nsparse")
    return Grid("Bytes in kB, seed 0", headings, tuple(lines))


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        What to print: the tables, and where the page is.

    Raises:
        BrokenStudyError: as `results.read` does; an older report then stays as it is.
    """
    study = results.read(study_dir)
    judged = study.comparisons[-1][1]
    level = judged.rpartition("-")[2]
    shown = {"unpruned": _seed_0(study_dir, "dense")}
    for method in ("one-shot", "gradual", "distilled"):
        shown[f"{method}, {level} %"] = _seed_0(study_dir, f"{method}-{level}")
    warning = [tables.SMOKE] if study.smoke else []
    grids = [table(study), tables.comparisons(study), sizes(shown)]
    parts = [
        f"<h1>{report.escaped(study.title)}</h1>",
        f'<p class="question">{report.escaped(study.question)}</p>',
        *(f'<p class="warning">{text}</p>' for text in warning),
        report.figure(
            picture(study),
            "Line: mean over seeds. Band: 95 % t interval of the mean. Errors are on a logarithmic scale.",
        ),
        report.grid(grids[0]),
        f'<p class="protocol">{report.escaped(PROTOCOL)}</p>',
        report.grid(grids[1]),
        f'<p class="protocol">{tables.PROTOCOL}</p>',
        "<h2>Files</h2>",
        "<p>Zeros make a file smaller only where it is compressed or leaves them out, and no network faster: "
        "<code>scripts/bench_pruning</code> measures that.</p>",
        report.grid(grids[2]),
        "<h2>Layers</h2>",
        report.grid(kernels(shown[f"gradual, {level} %"])),
        report.figure(
            movement(shown[f"gradual, {level} %"], f"gradual, {level} %, seed 0"),
            "Each row is a kernel, each column an update of the masks.",
        ),
        report.figure(
            histogram({label: cell for label, cell in shown.items() if "one-shot" not in label}),
            "Weights that are not zero, seed 0.",
        ),
        "<h2>All scores</h2>",
        report.grid(tables.scores(study)),
        "<h2>Notes</h2>",
        report.listed(study.notes),
        *report.repeat(study),
    ]
    page = report.replace(Path(study_dir) / "report.html", report.page(study.title, parts))
    shown_grids = [tables.terminal(grid) for grid in grids]
    return [*warning, *shown_grids, PROTOCOL, f"The report: {page}"]


def _seed_0(study_dir: str | Path, arm: str) -> dict[str, Any]:
    """What is in the result of an arm's first cell besides what all studies have there."""
    arms = json.loads((Path(study_dir) / "study.json").read_text())["arms"]
    folder = next(entry["cells"][0] for entry in arms if entry["name"] == arm)
    return json.loads((Path(study_dir) / folder / "result.json").read_text())


def _mean(values: tuple[float, ...] | list[float]) -> str:
    return f"{statistics.spread(list(values)).mean:.2f} ± {_half(values):.2f}"


def _half(values: tuple[float, ...] | list[float]) -> float:
    """Half the 95 % t interval of a mean."""
    found = statistics.spread(list(values))
    return (
        float(stats.t.ppf(0.975, found.n - 1) * found.deviation / math.sqrt(found.n))
        if found.n > 1
        else math.nan
    )
