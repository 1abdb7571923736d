"""Makes the tables, the figures and the page of the study of sparsities from the files that it left.

python -c "from experiments.sparsity import report; report.write('runs/sparsity')"
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from rich.console import RenderableType

from distill.studies import ACCURACY, StudyResult, levels, page, plots, read, summary, tables

UNPRUNED = ("dense", "longer")
PROTOCOL = (
    "Test accuracy after the last epoch, mean over seeds ± half its 95% t interval; the test split was read once. "
    "Sparsity is the share of zeros among the kernels' weights; the notes say more."
)
# What a cell adds to its result, by key.
Extra = Mapping[str, Any]


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into the study's directory, whole or not at all.

    Args:
        study_dir: path to the directory that holds `study.json`.

    Returns:
        What to print: the tables, and the path to the page.

    Raises:
        BrokenStudyError: a file is missing or broken. An older report is then left as it is.
    """
    study = read(study_dir)
    level = study.comparisons[-1][1].rpartition("-")[2]
    shown = {"unpruned": _of_seed_0(study, "dense")}
    for method in ("one-shot", "gradual", "distilled"):
        shown[f"{method}, {level}%"] = _of_seed_0(study, f"{method}-{level}")
    gradual = shown[f"gradual, {level}%"]
    warning = [summary.SMOKE] if study.smoke else []
    grids = [table(study), tables.comparisons(study), sizes(shown)]
    parts = [
        *page.opening(study, warning),
        page.figure(
            picture(study),
            "Line: mean over seeds. Band: its 95% t interval. The vertical axis is logarithmic in the error.",
        ),
        page.titled_grid(grids[0]),
        page.small(PROTOCOL),
        page.titled_grid(grids[1]),
        page.small(summary.TEST),
        "<h2>Files</h2>",
        "<p>Zeros make a file smaller only if it is compressed or leaves them out, and they make no network faster: "
        "<code>scripts/bench/pruning</code> measures that.</p>",
        page.grid(grids[2]),
        "<h2>Layers</h2>",
        page.grid(kernels(gradual)),
        page.figure(
            movement(gradual, title=f"gradual, {level}%, seed 0"),
            "Each row is a kernel, each column an update of the masks.",
        ),
        page.figure(
            histogram({label: extra for label, extra in shown.items() if "one-shot" not in label}),
            "Weights that are not zero, seed 0.",
        ),
        "<h2>All scores</h2>",
        page.titled_grid(tables.scores(study)),
        page.small(summary.protocol(study)),
        *page.closing(study),
    ]
    path = page.write(Path(study_dir) / "report.html", study.title, parts)
    return [*warning, *map(tables.for_terminal, grids), PROTOCOL, summary.TEST, f"Report: {path}"]


def table(study: StudyResult) -> tables.Grid:
    """Shows the accuracy of each method at each sparsity."""
    found = levels.curves(study.arms)
    lines = [
        (f"{level:g}%", *(levels.mean(curve.accuracies[i]) for curve in found))
        for i, level in enumerate(found[0].levels)
    ]
    seeds = tables.number_of_seeds(len(found[0].accuracies[0]))
    unpruned = ", ".join(f"{name} {levels.mean(study.arm(name).values(ACCURACY) or [])}" for name in UNPRUNED)
    return tables.Grid(
        f"Test accuracy in percent, {seeds}; unpruned: {unpruned}",
        ("zeros", *(curve.method for curve in found)),
        tuple(lines),
    )


def picture(study: StudyResult) -> str:
    """Draws accuracy against sparsity: mean and 95% band of each method, and the unpruned networks as lines.

    Args:
        study: the finished study.

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 4.6), layout="constrained")
        axes = figure.subplots()
        found = levels.curves(study.arms)
        # The share that is kept, on a logarithmic axis that falls towards nothing.
        kept = [1 - level / 100 for level in found[0].levels]
        spoken = []
        for curve, color in zip(found, plots.PALETTE, strict=False):
            last = levels.draw(axes, curve, kept, color=color, label=curve.method)
            spoken.append(f"{curve.method} {last:.1f}% at {curve.levels[-1]:g}% zeros")
        for name, dash in zip(UNPRUNED, ("-", ":"), strict=True):
            levels.draw_line(axes, study.arm(name), label=f"unpruned, {name}", dash=dash)
        axes.set_xlim(1.2 * kept[0], kept[-1] / 1.2)
        axes.set(xscale="log", xlabel="zeros, %")
        axes.set_xticks(kept, [f"{level:g}" for level in found[0].levels])
        levels.error_axis(axes)
        axes.legend(fontsize="small")
        description = "Test accuracy against sparsity: " + "; ".join(spoken)
        return plots.svg(figure, name="sparsity", description=description)


def movement(extra: Extra, *, title: str) -> str:
    """Draws how sparse each kernel was while the network was pruned, kernels by steps.

    Args:
        extra: what a cell adds to its result, with "updates".
        title: title of the figure.

    Returns:
        An `<svg>` element.
    """
    steps = [step for step, _ in extra["updates"]]
    names = list(extra["updates"][0][1])
    values = np.array([[sparsities[name] for _, sparsities in extra["updates"]] for name in names])
    with matplotlib.rc_context({**plots.STYLE, "axes.grid": False}):
        figure = Figure(figsize=(8.5, 0.4 * len(names) + 1.5), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(100 * values, aspect="auto", cmap="cividis", vmin=0, vmax=100)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(steps)), [str(step) for step in steps], fontsize="small")
        axes.set(title=title, xlabel="step of the update")
        figure.colorbar(image, ax=axes, label="zeros, %")
        final = ", ".join(f"{name} {100 * row[-1]:.0f}%" for name, row in zip(names, values, strict=True))
        description = f"Sparsity of each kernel at each update; finally {final}"
        return plots.svg(figure, name="movement", description=description)


def histogram(shown: Mapping[str, Extra]) -> str:
    """Draws the weights that are not zero, for several networks.

    Args:
        shown: by label, what a cell adds to its result, with "histogram".

    Returns:
        An `<svg>` element.
    """
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 3.2), layout="constrained")
        axes = figure.subplots()
        for i, (label, extra) in enumerate(shown.items()):
            edges, counts = extra["histogram"]["edges"], extra["histogram"]["counts"]
            axes.stairs(counts, edges, color=plots.PALETTE[i], label=f"{label}: {sum(counts):,} weights")
        axes.set(xlabel="weight", ylabel="number of weights", yscale="log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.legend(fontsize="small")
        description = "Weights that are not zero: " + ", ".join(shown)
        return plots.svg(figure, name="histogram", description=description)


def kernels(extra: Extra) -> tables.Grid:
    """Shows the zeros of each kernel of one network."""
    lines = []
    for row in extra["kernels"]:
        weights = math.prod(row["shape"])
        shape = " × ".join(map(str, row["shape"]))
        lines.append(
            (row["name"], shape, f"{weights:,}", f"{row['zeros']:,}", f"{row['zeros'] / weights:.2%}")
        )
    headings = ("kernel", "shape", "weights", "zeros", "sparsity")
    return tables.Grid("Zeros by kernel", headings, tuple(lines))


def sizes(shown: Mapping[str, Extra]) -> tables.Grid:
    """Shows the sizes of files with and without their zeros."""
    names = ("keras", "keras_gzip", "litert", "litert_gzip", "litert_sparse")
    lines = [
        (label, *(f"{extra['sizes'][name] / 1000:.0f}" for name in names)) for label, extra in shown.items()
    ]
    headings = ("network", ".keras", ".keras,\ngzip", "LiteRT", "LiteRT,\ngzip", "LiteRT,\nsparse")
    return tables.Grid("File sizes in kB, seed 0", headings, tuple(lines))


def _of_seed_0(study: StudyResult, arm: str) -> Extra:
    return study.arm(arm).cells[0].extra
