"""The table, the forest plot and the page of `experiments.methods`, from the files that it left.

python -c "from experiments.methods import report; report.write('runs/methods')"
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import RenderableType

from distill.studies import ACCURACY, ArmResult, StudyResult, Tuning, plots, read, report, statistics, tables

BASELINES = ("alone", "smoothing", "kd")
PROTOCOL = (
    "Test accuracy after the last epoch, mean over seeds; the test split was read once. Differences are in points, "
    "paired by seed, ± half their 95 % t interval. The intervals are not adjusted for their number: of twenty "
    "methods that are no better and no worse, one has an interval that lies above or below 0."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One method on one data set.

    Attributes:
        method: its name.
        dataset: the data set's.
        setting: what was chosen on dev, for readers.
        accuracy: on test, in percent.
        differences: to each of `BASELINES`; `None` to itself and for the teacher.
    """

    method: str
    dataset: str
    setting: str
    accuracy: statistics.Spread
    differences: tuple[statistics.Comparison | None, ...]


def rows(study: StudyResult) -> list[Row]:
    """What a study found, in the order of its arms."""
    chosen = {tuning.arm: next(iter(tuning.chosen.values())) for tuning in study.tuning}
    found = []
    for arm in study.arms:
        value = chosen.get(arm.name)
        found.append(
            Row(
                method=_method(arm),
                dataset=arm.group,
                setting=tables.NOTHING if value is None else f"{value:g}",
                accuracy=statistics.spread(_accuracy(arm)),
                differences=tuple(_difference(study, arm, baseline) for baseline in BASELINES),
            )
        )
    return found


def table(found: list[Row]) -> tables.Grid:
    """One line for each method, under a heading for each data set."""
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
    return tables.Grid(f"Every method, {found[0].accuracy.n} seeds", headings, tuple(lines))


def findings(found: list[Row], tunings: Sequence[Tuning]) -> list[str]:
    """What the numbers say, in sentences."""
    said = []
    for dataset in dict.fromkeys(row.dataset for row in found):
        own = [row for row in found if row.dataset == dataset]
        for position, baseline in enumerate(BASELINES):
            pairs = [(row.method, d) for row in own if (d := row.differences[position]) is not None]
            above = [method for method, d in pairs if d.low > 0]
            below = [method for method, d in pairs if d.high < 0]
            said.append(
                f"{dataset}, against {baseline}: of {len(pairs)} intervals {len(above)} lie above 0"
                f"{_named(above)} and {len(below)} below{_named(below)}."
            )
    tried = [[settings for settings, _ in tuning.choices] for tuning in tunings]
    if trials := max(map(len, tried)):
        low = sum(tuning.chosen == own[0] for tuning, own in zip(tunings, tried, strict=True))
        high = sum(tuning.chosen == own[-1] for tuning, own in zip(tunings, tried, strict=True))
        said.append(
            f"Each method's setting was chosen on dev from the same number of trials: {trials}. Of {len(tunings)} "
            f"choices {low} are the lowest that was tried and {high} the highest: beyond them a method may do better."
        )
    return said


def forest(found: list[Row]) -> str:
    """Each method's difference to the student alone, on each data set, with the other baselines as lines.

    Args:
        found: what `rows` returned.

    Returns:
        An `<svg>` element.
    """
    datasets = list(dict.fromkeys(row.dataset for row in found))
    compared = [
        [row for row in found if row.dataset == d and row.differences[0] is not None] for d in datasets
    ]
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
            f"{row.dataset} {row.method} {row.differences[0].difference:+.2f}"
            for own in compared
            for row in own
        )
        return plots.svg(figure, "methods", f"Difference in test accuracy to the student alone: {spoken}")


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        What to print: the table, what it says, and where the page is.

    Raises:
        BrokenStudyError: as `distill.studies.read` does; an older report then stays as it is.
    """
    study = read(study_dir)
    found = rows(study)
    grid = table(found)
    said = findings(found, study.tuning)
    warning = [tables.SMOKE] if study.smoke else []
    parts = [
        *report.opening(study, warning),
        report.listed(said),
        report.figure(
            forest(found),
            "Line: 95 % interval of the mean difference (diamond), paired by seed. Blue lies above 0, red below.",
        ),
        report.grid(grid),
        f'<p class="protocol">{report.escaped(PROTOCOL)}</p>',
        "<h2>All scores</h2>",
        report.grid(tables.scores(study)),
        f'<p class="protocol">{tables.PROTOCOL}</p>',
        report.grid(tables.costs(study)),
        *(["<h2>Chosen on dev</h2>", report.grid(tables.tuning(study))] if study.tuning[0].choices else []),
        "<h2>Notes</h2>",
        report.listed(study.notes),
        *report.repeat(study),
    ]
    page = report.replace(Path(study_dir) / "report.html", report.page(study.title, parts))
    return [*warning, tables.terminal(grid), PROTOCOL, *said, f"The report: {page}"]


def _method(arm: ArmResult) -> str:
    return arm.name.removeprefix(f"{arm.group}-")


def _accuracy(arm: ArmResult) -> list[float]:
    return [100 * cell.test["last"][ACCURACY.key] for cell in arm.cells]


def _difference(study: StudyResult, arm: ArmResult, baseline: str) -> statistics.Comparison | None:
    if _method(arm) in (baseline, "teacher"):
        return None
    return statistics.compare(_accuracy(study.arm(f"{arm.group}-{baseline}")), _accuracy(arm), unit="points")


def _named(methods: list[str]) -> str:
    return f" ({', '.join(methods)})" if methods else ""


def _panel(axes: Axes, own: list[Row]) -> None:
    for y, row in enumerate(own):
        result = row.differences[0]
        side = "better" if result.low > 0 else "worse" if result.high < 0 else "not shown"
        color = plots.VERDICTS[side]
        axes.plot([result.low, result.high], [y, y], color=color, linewidth=2)
        axes.plot(result.difference, y, "D", color=color, markersize=4)
    axes.axvline(0, color=plots.TEXT, linewidth=1, label="alone")
    for baseline, dash, color in (("smoothing", ":", plots.PALETTE[3]), ("kd", "--", plots.PALETTE[2])):
        mean = next(row.differences[0].difference for row in own if row.method == baseline)
        axes.axvline(mean, color=color, linewidth=1.2, linestyle=dash, label=baseline)
    ends = sorted(end for row in own for end in (row.differences[0].low, row.differences[0].high))
    # One failed method would press all others together; its line then leaves the picture.
    spread = ends[int(0.95 * len(ends))] - ends[int(0.05 * len(ends))]
    low, high = (
        max(ends[0], ends[int(0.05 * len(ends))] - spread),
        min(ends[-1], ends[-1 - int(0.05 * len(ends))] + spread),
    )
    if high > low:
        axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        for y, row in enumerate(own):
            difference = row.differences[0].difference
            if not low <= difference <= high:
                left = difference < low
                words = f"← {difference:.1f}" if left else f"{difference:.1f} →"
                axes.text(
                    low if left else high, y, words, va="center", ha="left" if left else "right", size="small"
                )
    axes.set_yticks(range(len(own)), [row.method for row in own], fontsize="small")
    axes.set_ylim(len(own) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
