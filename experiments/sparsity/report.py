"""The tables, the pictures and the page of `experiments.sparsity`, from the files that it left.

python -c "from experiments.sparsity import report; report.write('runs/sparsity')"
"""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from rich.console import RenderableType

from distill.studies import ACCURACY, StudyResult, levels, plots, read, report, tables

UNPRUNED = ("dense", "longer")
PROTOCOL = (
    "Test accuracy after the last epoch, mean over seeds ± half its 95 % t interval; the test split was read once. "
    "Sparsity is the share of zeros, see the notes."
)


def table(study: StudyResult) -> tables.Grid:
    """Accuracy of each method at each sparsity."""
    found = levels.curves(study.arms)
    lines = [
        (f"{level:g} %", *(levels.mean(curve.accuracies[i]) for curve in found))
        for i, level in enumerate(found[0].levels)
    ]
    seeds = len(found[0].accuracies[0])
    unpruned = ", ".join(f"{name} {levels.mean(study.arm(name).values(ACCURACY))}" for name in UNPRUNED)
    return tables.Grid(
        f"Test accuracy %, {seeds} seeds; unpruned: {unpruned}",
        ("zeros", *(curve.method for curve in found)),
        tuple(lines),
    )


def picture(study: StudyResult) -> str:
    """Accuracy against sparsity: mean and 95 % band of each method, the unpruned network as a line.

    Args:
        study: what `distill.studies.read` returned.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 4.6), layout="constrained")
        axes = figure.subplots()
        found = levels.curves(study.arms)
        # The share that is kept, on a logarithmic axis that runs towards nothing.
        kept = [1 - level / 100 for level in found[0].levels]
        spoken = []
        for curve, color in zip(found, plots.PALETTE, strict=False):
            last = levels.draw(axes, curve, kept, color, curve.method)
            spoken.append(f"{curve.method} {last:.1f} % at {curve.levels[-1]:g} % zeros")
        for name, dash in zip(UNPRUNED, ("-", ":"), strict=True):
            levels.draw_line(axes, study.arm(name), f"unpruned, {name}", dash)
        axes.set_xlim(1.2 * kept[0], kept[-1] / 1.2)
        axes.set(xscale="log", xlabel="zeros, %")
        axes.set_xticks(kept, [f"{level:g}" for level in found[0].levels])
        levels.error_axis(axes)
        axes.legend(fontsize="small")
        return plots.svg(figure, "sparsity", "Test accuracy against sparsity: " + "; ".join(spoken))


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


def kernels(cell: dict[str, Any]) -> tables.Grid:
    """The zeros of each kernel of one network."""
    lines = []
    for row in cell["kernels"]:
        weights = math.prod(row["shape"])
        shape = " × ".join(map(str, row["shape"]))
        lines.append(
            (row["name"], shape, f"{weights:,}", f"{row['zeros']:,}", f"{row['zeros'] / weights:.2%}")
        )
    return tables.Grid("Zeros by kernel", ("kernel", "shape", "weights", "zeros", "sparsity"), tuple(lines))


def sizes(cells: dict[str, dict[str, Any]]) -> tables.Grid:
    """What files weigh, with and without their zeros."""
    names = ("keras", "keras_gzip", "litert", "litert_gzip", "litert_sparse")
    lines = [
        (label, *(f"{cell['sizes'][name] / 1000:.0f}" for name in names)) for label, cell in cells.items()
    ]
    headings = ("network", ".keras", ".keras,\ngzip", "LiteRT", "LiteRT,\ngzip", "LiteRT,\nsparse")
    return tables.Grid("Bytes in kB, seed 0", headings, tuple(lines))


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        What to print: the tables, and where the page is.

    Raises:
        BrokenStudyError: as `distill.studies.read` does; an older report then stays as it is.
    """
    study = read(study_dir)
    judged = study.comparisons[-1][1]
    level = judged.rpartition("-")[2]
    shown = {"unpruned": _seed_0(study, "dense")}
    for method in ("one-shot", "gradual", "distilled"):
        shown[f"{method}, {level} %"] = _seed_0(study, f"{method}-{level}")
    warning = [tables.SMOKE] if study.smoke else []
    grids = [table(study), tables.comparisons(study), sizes(shown)]
    parts = [
        *report.opening(study, warning),
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
        "<code>scripts/bench/pruning</code> measures that.</p>",
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


def _seed_0(study: StudyResult, arm: str) -> dict[str, Any]:
    """What is in the result of an arm's first cell besides what all studies have there."""
    return study.arm(arm).cells[0].extra
