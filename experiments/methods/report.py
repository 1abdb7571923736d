"""Makes the table, the forest plot and the page of the study of methods from the files that it left.

python -c "from experiments.methods import report; report.write('runs/methods')"
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import RenderableType

from distill.studies import (
    ACCURACY,
    ArmResult,
    StudyResult,
    Tuning,
    page,
    plots,
    read,
    statistics,
    summary,
    tables,
)

BASELINES = ("alone", "smoothing", "kd")
PROTOCOL = (
    "Test accuracy after the last epoch, mean over seeds; the test split was read once. Differences are in percentage "
    "points, paired by seed, ± half their 95% t interval. The intervals are not adjusted for their number: of twenty "
    "methods that make no difference, one is expected to have an interval that excludes 0."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One method on one data set.

    Attributes:
        method: name of the method.
        dataset: name of the data set.
        setting: setting that was chosen on dev, as text.
        accuracy: accuracy on test, in percent.
        differences: differences to each of `BASELINES`; `None` to itself, and for the teacher.
    """

    method: str
    dataset: str
    setting: str
    accuracy: statistics.Spread
    differences: tuple[statistics.Comparison | None, ...]


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into the study's directory, whole or not at all.

    Args:
        study_dir: path to the directory that holds `study.json`.

    Returns:
        What to print: the table, what it shows, and the path to the page.

    Raises:
        BrokenStudyError: a file is missing or broken. An older report is then left as it is.
    """
    study = read(study_dir)
    found = rows(study)
    grid = table(found)
    said = findings(found, study.tuning)
    warning = [summary.SMOKE] if study.smoke else []
    parts = [
        *page.opening(study, warning),
        page.listed(said),
        page.figure(
            forest(found),
            "Diamond: mean difference, paired by seed. Line: its 95% interval. Blue intervals lie above 0, red ones "
            "below.",
        ),
        page.titled_grid(grid),
        page.small(PROTOCOL),
        "<h2>All scores</h2>",
        page.titled_grid(tables.scores(study)),
        page.small(summary.protocol(study)),
        page.titled_grid(tables.costs(study)),
        *(["<h2>Chosen on dev</h2>", page.grid(tables.tuning(study))] if study.tuning[0].choices else []),
        *page.closing(study),
    ]
    path = page.write(Path(study_dir) / "report.html", study.title, parts)
    return [*warning, tables.for_terminal(grid), PROTOCOL, *said, f"Report: {path}"]


def rows(study: StudyResult) -> list[Row]:
    """Collects the findings, in the order of the arms."""
    chosen = {tuning.arm: next(iter(tuning.chosen.values())) for tuning in study.tuning}
    found = []
    for arm in study.arms:
        value = chosen.get(arm.name)
        found.append(
            Row(
                method=_method(arm),
                dataset=arm.group,
                setting=tables.NOTHING if value is None else f"{value:g}",
                accuracy=statistics.spread(arm.values(ACCURACY) or []),
                differences=tuple(_difference(study, arm, baseline) for baseline in BASELINES),
            )
        )
    return found


def table(found: Sequence[Row]) -> tables.Grid:
    """Shows one line for each method, under a heading for each data set."""
    lines: list[tuple[str, ...]] = []
    for i, row in enumerate(found):
        if i == 0 or row.dataset != found[i - 1].dataset:
            lines.append((row.dataset,))
        differences = [
            tables.NOTHING if d is None else f"{d.difference:+.2f} ± {(d.high - d.low) / 2:.2f}"
            for d in row.differences
        ]
        lines.append((row.method, row.setting, f"{row.accuracy.mean:.2f}", *differences))
    headings = ("method", "setting", "test %", *(f"− {baseline}" for baseline in BASELINES))
    return tables.Grid(f"Every method, {tables.number_of_seeds(found[0].accuracy.n)}", headings, tuple(lines))


def findings(found: Sequence[Row], tunings: Sequence[Tuning]) -> list[str]:
    """Says in sentences what the numbers show."""
    said = []
    for dataset in dict.fromkeys(row.dataset for row in found):
        own = [row for row in found if row.dataset == dataset]
        for position, baseline in enumerate(BASELINES):
            pairs = [(row.method, d) for row in own if (d := row.differences[position]) is not None]
            above = [method for method, d in pairs if d.low > 0]
            below = [method for method, d in pairs if d.high < 0]
            said.append(
                f"{dataset}, compared with {baseline}: of {len(pairs)} intervals, {len(above)} above 0{_named(above)} "
                f"and {len(below)} below{_named(below)}."
            )
    tried = [[settings for settings, _ in tuning.choices] for tuning in tunings]
    if trials := max(map(len, tried)):
        low = sum(tuning.chosen == own[0] for tuning, own in zip(tunings, tried, strict=True))
        high = sum(tuning.chosen == own[-1] for tuning, own in zip(tunings, tried, strict=True))
        said.append(
            f"Each method's setting was chosen on dev from the same number of trials: {trials}. Of {len(tunings)} "
            f"choices, {low} are the lowest value tried and {high} the highest; these methods might do better beyond "
            "that range."
        )
    return said


def forest(found: Sequence[Row]) -> str:
    """Draws the difference of each method to the student alone on each data set, with the other baselines as lines.

    Args:
        found: the findings.

    Returns:
        An `<svg>` element.
    """
    datasets = list(dict.fromkeys(row.dataset for row in found))
    compared = [_compared(found, dataset) for dataset in datasets]
    with matplotlib.rc_context(plots.STYLE):
        height = 0.27 * max(map(len, compared)) + 1.2
        figure = Figure(figsize=(8.5, height), layout="constrained")
        panels = figure.subplots(1, len(datasets), squeeze=False)[0]
        for axes, dataset, own in zip(panels, datasets, compared, strict=True):
            _panel(axes, own)
            axes.set(title=dataset, xlabel="difference to alone (points)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        spoken = "; ".join(
            f"{dataset} {method} {result.difference:+.2f}"
            for dataset, own in zip(datasets, compared, strict=True)
            for method, result in own.items()
        )
        description = f"Difference in test accuracy to the student alone: {spoken}"
        return plots.svg(figure, name="methods", description=description)


def _compared(found: Sequence[Row], dataset: str) -> dict[str, statistics.Comparison]:
    """The differences to the student alone on one data set, by method."""
    return {
        row.method: result
        for row in found
        if row.dataset == dataset and (result := row.differences[BASELINES.index("alone")]) is not None
    }


def _method(arm: ArmResult) -> str:
    return arm.name.removeprefix(f"{arm.group}-")


def _difference(study: StudyResult, arm: ArmResult, baseline: str) -> statistics.Comparison | None:
    if _method(arm) in (baseline, "teacher"):
        return None
    before = study.arm(f"{arm.group}-{baseline}").values(ACCURACY) or []
    return statistics.compare(before, arm.values(ACCURACY) or [], unit="points")


def _named(methods: Sequence[str]) -> str:
    return f" ({', '.join(methods)})" if methods else ""


def _panel(axes: Axes, own: dict[str, statistics.Comparison]) -> None:
    for y, result in enumerate(own.values()):
        side = "better" if result.low > 0 else "worse" if result.high < 0 else "not shown"
        color = plots.VERDICTS[side]
        axes.plot([result.low, result.high], [y, y], color=color, linewidth=2)
        axes.plot(result.difference, y, "D", color=color, markersize=4)
    axes.axvline(0, color=plots.TEXT, linewidth=1, label="alone")
    for baseline, dash, color in (("smoothing", ":", plots.PALETTE[3]), ("kd", "--", plots.PALETTE[2])):
        axes.axvline(own[baseline].difference, color=color, linewidth=1.2, linestyle=dash, label=baseline)
    _limit(axes, own)
    axes.set_yticks(range(len(own)), list(own), fontsize="small")
    axes.set_ylim(len(own) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _limit(axes: Axes, own: dict[str, statistics.Comparison]) -> None:
    """Cuts the axis so that one method that failed does not squeeze all others together; an arrow says where it is."""
    ends = sorted(end for result in own.values() for end in (result.low, result.high))
    edge = int(0.05 * len(ends))
    spread = ends[int(0.95 * len(ends))] - ends[edge]
    low, high = max(ends[0], ends[edge] - spread), min(ends[-1], ends[-1 - edge] + spread)
    if high <= low:
        return
    axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    for y, result in enumerate(own.values()):
        difference = result.difference
        if difference < low:
            axes.text(low, y, f"← {difference:.1f}", va="center", ha="left", size="small")
        elif difference > high:
            axes.text(high, y, f"{difference:.1f} →", va="center", ha="right", size="small")
