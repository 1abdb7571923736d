"""Makes the tables, the figures and the page of the study of channels from the files that it left.

python -c "from experiments.structured import report; report.write('runs/structured')"
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich.console import RenderableType

from distill.studies import (
    ACCURACY,
    ArmResult,
    StudyResult,
    levels,
    page,
    plots,
    read,
    statistics,
    summary,
    tables,
)

RECOVERIES = ("distilled", "fine-tuned", "scratch-distilled", "scratch")
CRITERIA = ("distilled", "random", "fpgm", "taylor", "obd", "activation")
PROTOCOL = (
    "Test accuracy after the last epoch, mean over seeds ± half its 95% t interval; the test split was read once. "
    "Shares are of the multiply-adds; the networks of one column have the same size."
)


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
    warning = [summary.SMOKE] if study.smoke else []
    grids = [table(study), tables.comparisons(study), costs(study), untrained(study)]
    caption = "Line: mean over seeds. Band: its 95% t interval. Errors and costs are on logarithmic scales."
    parts = [
        *page.opening(study, warning),
        "<h2>How the rest recovers, and whether the network had to be large first</h2>",
        page.figure(picture(study, RECOVERIES, name="recoveries"), caption),
        "<h2>Which channels are removed</h2>",
        page.figure(
            picture(study, CRITERIA, name="criteria"), f"{caption} Distilled chooses channels by l2."
        ),
        page.titled_grid(grids[0]),
        page.small(PROTOCOL),
        page.titled_grid(grids[1]),
        page.small(summary.TEST),
        page.titled_grid(grids[3]),
        "<h2>What it saves</h2>",
        page.titled_grid(grids[2]),
        "<h2>Methods</h2>",
        page.listed(sorted({f"{_method(arm)}: {arm.description}" for arm in study.arms})),
        "<h2>All scores</h2>",
        page.titled_grid(tables.scores(study)),
        page.small(summary.protocol(study)),
        *page.closing(study),
    ]
    path = page.write(Path(study_dir) / "report.html", study.title, parts)
    return [*warning, *map(tables.for_terminal, grids), PROTOCOL, summary.TEST, f"Report: {path}"]


def table(study: StudyResult) -> tables.Grid:
    """Shows the accuracy of each method, with a column for each share that is removed."""
    lines: list[tuple[str, ...]] = []
    shares: tuple[float, ...] = ()
    for dataset in _datasets(study):
        whole, found = _parts(study, dataset)
        shares = found[0].levels
        lines.append((f"{dataset}; whole: {levels.mean(whole.values(ACCURACY) or [])}",))
        lines += [(curve.method, *map(levels.mean, curve.accuracies)) for curve in found]
    headings = ("method", *(f"{share:g}% removed" for share in shares))
    title = f"Test accuracy in percent, {tables.number_of_seeds(len(study.arms[0].cells))}"
    return tables.Grid(title, headings, tuple(lines))


def untrained(study: StudyResult) -> tables.Grid:
    """Shows the dev accuracy of the small networks before they are trained, where the choice of channels shows most."""
    lines: list[tuple[str, ...]] = []
    methods: tuple[str, ...] = ()
    for dataset in _datasets(study):
        curves = [curve for curve in _parts(study, dataset)[1] if curve.method in CRITERIA]
        methods = tuple("l2" if curve.method == "distilled" else curve.method for curve in curves)
        lines.append((dataset,))
        for level in curves[0].levels:
            arms = [study.arm(f"{dataset}-{curve.method}-{level:g}") for curve in curves]
            shown = [statistics.spread([cell.extra["untrained"] for cell in arm.cells]).mean for arm in arms]
            lines.append((f"{level:g}%", *(f"{100 * mean:.1f}" for mean in shown)))
    title = "Dev accuracy in percent, before the training of the small networks"
    return tables.Grid(title, ("MACs removed", *methods), tuple(lines))


def costs(study: StudyResult) -> tables.Grid:
    """Shows what the small networks cost."""
    lines: list[tuple[str, ...]] = []
    for dataset in _datasets(study):
        whole, found = _parts(study, dataset)
        lines.append((dataset,))
        timed = [whole, *(study.arm(f"{dataset}-distilled-{level:g}") for level in found[0].levels)]
        for arm in timed:
            ratios = [_cost(whole, key) / _cost(arm, key) for key in ("macs", "parameters")]
            lines.append(
                (
                    "whole" if arm is whole else f"{arm.name.rpartition('-')[2]}% of MACs removed",
                    tables.count(_cost(arm, "macs")),
                    f"{ratios[0]:.2f}",
                    tables.count(_cost(arm, "parameters")),
                    f"{ratios[1]:.2f}",
                    f"{_microseconds(study, arm):.1f}",
                    f"{_microseconds(study, whole) / _microseconds(study, arm):.2f}",
                )
            )
    headings = ("network", "MACs", "times\nfewer", "parameters", "times\nfewer", "µs", "times\nas fast")
    return tables.Grid("Cost of one example, in LiteRT on one thread", headings, tuple(lines))


def picture(study: StudyResult, methods: Sequence[str], *, name: str) -> str:
    """Draws accuracy against multiply-adds and against latency: mean and 95% band of each method.

    Args:
        study: the finished study.
        methods: methods to draw.
        name: name of the figure on the page.

    Returns:
        An `<svg>` element.
    """
    datasets = _datasets(study)
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 3.4 * len(datasets) + 0.4), layout="constrained")
        panels = figure.subplots(len(datasets), 2, squeeze=False, sharey="row")
        spoken = []
        for row, dataset in zip(panels, datasets, strict=True):
            whole, found = _parts(study, dataset)
            for axes, cost in zip(row, (_macs, _microseconds), strict=True):
                curves = (curve for curve in found if curve.method in methods)
                for curve, color in zip(curves, plots.PALETTE, strict=False):
                    names = [f"{dataset}-distilled-{level:g}" for level in curve.levels]
                    xs = [cost(study, study.arm(one)) for one in names]
                    last = levels.draw(axes, curve, xs, color=color, label=curve.method)
                    if cost is _macs:
                        spoken.append(
                            f"{dataset} {curve.method} {last:.1f}% at {curve.levels[-1]:g}% removed"
                        )
                levels.draw_line(axes, whole, label="whole")
                axes.axvline(cost(study, whole), color=plots.TEXT, linewidth=1)
                axes.set(xscale="log", title=dataset)
                ticks = plots.apart([*xs, cost(study, whole)], ratio=1.1)
                axes.set_xticks(ticks, [tables.count(v) if cost is _macs else f"{v:.1f}" for v in ticks])
                axes.minorticks_off()
            levels.error_axis(row[0])
            row[0].set_xlabel("multiply-adds")
            row[1].set_xlabel("µs, LiteRT on one thread")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
        description = "Test accuracy against cost: " + "; ".join(spoken)
        return plots.svg(figure, name=name, description=description)


def _datasets(study: StudyResult) -> list[str]:
    return list(dict.fromkeys(arm.group for arm in study.arms))


def _parts(study: StudyResult, dataset: str) -> tuple[ArmResult, list[levels.Curve]]:
    """The whole network of a data set, and the curves of the methods."""
    own = [
        dataclasses.replace(arm, name=arm.name.removeprefix(f"{dataset}-"))
        for arm in study.arms
        if arm.group == dataset
    ]
    return study.arm(f"{dataset}-whole"), levels.curves(own)


def _method(arm: ArmResult) -> str:
    return arm.name.removeprefix(f"{arm.group}-").rpartition("-")[0] or "whole"


def _cost(arm: ArmResult, key: str) -> float:
    return statistics.spread([float(cell.cost[key] or 0) for cell in arm.cells]).mean


def _macs(study: StudyResult, arm: ArmResult) -> float:
    return _cost(arm, "macs")


def _microseconds(study: StudyResult, arm: ArmResult) -> float:
    return 1000 * study.latency_ms[arm.name]["median"]
