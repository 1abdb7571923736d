"""The tables, the pictures and the page of `experiments.structured`, from the files that it left.

python -c "from experiments.structured import report; report.write('runs/structured')"
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from rich.console import RenderableType

from distill.studies import ACCURACY, ArmResult, StudyResult, levels, plots, read, report, statistics, tables

RECOVERIES = ("distilled", "fine-tuned", "scratch-distilled", "scratch")
CRITERIA = ("distilled", "random", "fpgm", "taylor", "obd", "activation")
PROTOCOL = (
    "Test accuracy after the last epoch, mean over seeds ± half its 95 % t interval; the test split was read once. "
    "The share is of the multiply-adds; methods of one line have networks of one size."
)


def table(study: StudyResult) -> tables.Grid:
    """Accuracy of each method, a column for each share that is gone."""
    lines: list[tuple[str, ...]] = []
    shares: tuple[float, ...] = ()
    for dataset in _datasets(study):
        whole, found = _parts(study, dataset)
        shares = found[0].levels
        lines.append((f"{dataset}; whole: {levels.mean(whole.values(ACCURACY))}",))
        lines += [(curve.method, *map(levels.mean, curve.accuracies)) for curve in found]
    headings = ("method", *(f"{share:g} % gone" for share in shares))
    return tables.Grid(f"Test accuracy %, {len(study.arms[0].cells)} seeds", headings, tuple(lines))


def untrained(study: StudyResult) -> tables.Grid:
    """Accuracy on dev of what is left before it is trained: what criteria differ in most."""
    found = {arm.name: [cell.extra["untrained"] for cell in arm.cells] for arm in study.arms}
    lines: list[tuple[str, ...]] = []
    methods: tuple[str, ...] = ()
    for dataset in _datasets(study):
        curves = [curve for curve in _parts(study, dataset)[1] if curve.method in CRITERIA]
        methods = tuple("l2" if curve.method == "distilled" else curve.method for curve in curves)
        lines.append((dataset,))
        for level in curves[0].levels:
            shown = (found[f"{dataset}-{curve.method}-{level:g}"] for curve in curves)
            lines.append((f"{level:g} %", *(f"{100 * statistics.spread(one).mean:.1f}" for one in shown)))
    return tables.Grid(
        "Dev accuracy % before the training of what is left", ("MACs gone", *methods), tuple(lines)
    )


def costs(study: StudyResult) -> tables.Grid:
    """What the small networks cost."""
    lines: list[tuple[str, ...]] = []
    for dataset in _datasets(study):
        whole, found = _parts(study, dataset)
        lines.append((dataset,))
        timed = [whole, *(study.arm(f"{dataset}-distilled-{level:g}") for level in found[0].levels)]
        for arm in timed:
            ratios = [_cost(whole, key) / _cost(arm, key) for key in ("macs", "parameters")]
            time = study.latency_ms[arm.name]["median"]
            lines.append(
                (
                    "whole" if arm is whole else f"{arm.name.rpartition('-')[2]} % of MACs gone",
                    tables.count(_cost(arm, "macs")),
                    f"{ratios[0]:.2f}",
                    tables.count(_cost(arm, "parameters")),
                    f"{ratios[1]:.2f}",
                    f"{1000 * time:.1f}",
                    f"{study.latency_ms[whole.name]['median'] / time:.2f}",
                )
            )
    headings = ("network", "MACs", "times\nfewer", "parameters", "times\nfewer", "µs", "times\nas fast")
    return tables.Grid("Cost of one example; LiteRT, one thread", headings, tuple(lines))


def picture(study: StudyResult, methods: Sequence[str], name: str) -> str:
    """Accuracy against multiply-adds and against latency: mean and 95 % band of each method.

    Args:
        study: what `distill.studies.read` returned.
        methods: which are drawn.
        name: of the picture in the page.

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
                for curve, color in zip(
                    (c for c in found if c.method in methods), plots.PALETTE, strict=False
                ):
                    names = [f"{dataset}-distilled-{level:g}" for level in curve.levels]
                    xs = [cost(study, study.arm(one)) for one in names]
                    last = levels.draw(axes, curve, xs, color, curve.method)
                    if cost is _macs:
                        spoken.append(f"{dataset} {curve.method} {last:.1f} % at {curve.levels[-1]:g} % gone")
                levels.draw_line(axes, whole, "whole")
                axes.axvline(cost(study, whole), color=plots.TEXT, linewidth=1)
                axes.set(xscale="log", title=dataset)
                ticks = plots.apart([*xs, cost(study, whole)], 1.1)
                axes.set_xticks(ticks, [tables.count(v) if cost is _macs else f"{v:.1f}" for v in ticks])
                axes.minorticks_off()
            levels.error_axis(row[0])
            row[0].set_xlabel("multiply-adds")
            row[1].set_xlabel("µs, LiteRT on one thread")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
        return plots.svg(figure, name, "Test accuracy against cost: " + "; ".join(spoken))


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
    warning = [tables.SMOKE] if study.smoke else []
    grids = [table(study), tables.comparisons(study), costs(study), untrained(study)]
    caption = "Line: mean over seeds. Band: 95 % t interval of the mean. Errors and costs are on logarithmic scales."
    parts = [
        *report.opening(study, warning),
        "<h2>How it recovers, and whether it had to be large</h2>",
        report.figure(picture(study, RECOVERIES, "recoveries"), caption),
        "<h2>Which channels go</h2>",
        report.figure(picture(study, CRITERIA, "criteria"), f"{caption} Distilled is l2."),
        *_titled(grids[0]),
        f'<p class="protocol">{report.escaped(PROTOCOL)}</p>',
        *_titled(grids[1]),
        f'<p class="protocol">{tables.TEST}</p>',
        *_titled(grids[3]),
        "<h2>What it brings</h2>",
        *_titled(grids[2]),
        "<h2>Methods</h2>",
        report.listed(sorted({f"{_method(arm)}: {arm.description}" for arm in study.arms})),
        "<h2>All scores</h2>",
        report.grid(tables.scores(study)),
        f'<p class="protocol">{tables.PROTOCOL}</p>',
        "<h2>Notes</h2>",
        report.listed(study.notes),
        *report.repeat(study),
    ]
    page = report.replace(Path(study_dir) / "report.html", report.page(study.title, parts))
    return [
        *warning,
        *(tables.terminal(grid) for grid in grids),
        PROTOCOL,
        tables.TEST,
        f"The report: {page}",
    ]


def _titled(grid: tables.Grid) -> list[str]:
    return [f"<h3>{report.escaped(grid.title)}</h3>", report.grid(grid)]


def _datasets(study: StudyResult) -> list[str]:
    return list(dict.fromkeys(arm.group for arm in study.arms))


def _parts(study: StudyResult, dataset: str) -> tuple[ArmResult, list[levels.Curve]]:
    """The whole network of a data set, and the methods."""
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
