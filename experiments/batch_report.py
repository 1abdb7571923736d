"""The table, the curves and the page of `experiments.batch_size`, from the files that it left.

python -c "from experiments import batch_report; batch_report.write('runs/batch_size')"
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter
from numpy.typing import ArrayLike
from rich.console import RenderableType
from scipy import stats

from experiments import plots, report, results, statistics, tables
from experiments.results import ACCURACY, Study
from experiments.tables import Grid

_MARKERS = {"constant": "o", "scaled": "s"}
_DASHES = {"constant": "--", "scaled": "-"}
_COLORS = {"alone": plots.PALETTE[0], "distilled": plots.PALETTE[1]}


@dataclasses.dataclass(frozen=True)
class Row:
    """One batch size of one way to train.

    Attributes:
        kind: "alone" or "distilled".
        rule: of the learning rate, "constant" or "scaled".
        size: examples a step.
        examples: those of an epoch.
        epochs: trained.
        accuracy: on test after the last epoch, in percent, by seed.
        to_target: epochs until dev accuracy reached the target, by seed; inf where it never did.
        noise: the scale tr(Σ) / |G|² in examples, by epoch; nan where |G|² is lost in noise.
        examples_per_second: of training steps; nan where the size did not fit.
        peak_bytes: of the process in such steps; `None` where unknown.
    """

    kind: str
    rule: str
    size: int
    examples: int
    epochs: int
    accuracy: tuple[float, ...]
    to_target: tuple[float, ...]
    noise: dict[int, float]
    examples_per_second: float
    peak_bytes: int | None

    @property
    def steps(self) -> int:
        """Updates in an epoch."""
        return math.ceil(self.examples / self.size)

    @property
    def epochs_to_target(self) -> float:
        """Median over the seeds; inf if half of them or more never came so far."""
        return float(np.median(self.to_target))

    @property
    def seconds_to_target(self) -> float:
        """What those epochs take at the measured speed."""
        return self.epochs_to_target * self.examples / self.examples_per_second

    @property
    def interval(self) -> tuple[float, float]:
        """Mean accuracy over the seeds and half the width of its 95 % t interval, nan for one seed."""
        spread = statistics.spread(self.accuracy)
        if spread.n == 1:
            return spread.mean, math.nan
        return spread.mean, float(stats.t.ppf(0.975, spread.n - 1)) * spread.deviation / math.sqrt(spread.n)


def epochs_to(target: float, accuracies: Sequence[float]) -> float:
    """How many epochs it took until an accuracy was reached.

    Args:
        target: the accuracy.
        accuracies: on dev, after each epoch.

    Returns:
        Epochs, from 1; inf if it was never reached.
    """
    return next((float(epoch) for epoch, reached in enumerate(accuracies, 1) if reached >= target), math.inf)


def read(study_dir: str | Path) -> tuple[Study, dict[str, Any], list[Row]]:
    """Reads what `experiments.batch_size` left.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        The study, all that its study.json holds, and its rows in the order of the table.

    Raises:
        BrokenStudyError: a file is missing or broken.
    """
    study = results.read(study_dir)
    path = Path(study_dir)
    raw = json.loads((path / "study.json").read_text())
    folders = {arm["name"]: [path / folder for folder in arm["cells"]] for arm in raw["arms"]}
    rows = []
    for line in raw["lines"]:
        arm = study.arm(line["arm"])
        cells = [json.loads((folder / "result.json").read_text()) for folder in folders[arm.name]]
        speed = next((s for s in raw["speeds"][line["kind"]] if s["batch_size"] == line["size"]), {})
        rows.append(
            Row(
                kind=line["kind"],
                rule=line["rule"],
                size=line["size"],
                examples=cells[0]["examples"],
                epochs=arm.cells[0].epochs,
                accuracy=tuple(arm.values(ACCURACY) or ()),
                to_target=tuple(
                    epochs_to(raw["target"], [epoch["val_accuracy"] for epoch in cell.history])
                    for cell in arm.cells
                ),
                noise=_noise([cell["noise"] for cell in cells]),
                examples_per_second=speed.get("examples_per_second", math.nan),
                peak_bytes=speed.get("peak_bytes"),
            )
        )
    return study, raw, rows


def _noise(found: Sequence[Sequence[dict[str, float]]]) -> dict[int, float]:
    """The scale by epoch, from means over the seeds: a ratio of two noisy estimates would be biased."""
    scales = {}
    for points in zip(*found, strict=True):
        squared = sum(point["squared_gradient"] for point in points)
        variance = sum(point["variance"] for point in points)
        scales[int(points[0]["epoch"])] = variance / squared if squared > 0 else math.nan
    return scales


def table(rows: Sequence[Row], target: float) -> Grid:
    """What each batch size costs and gives.

    Args:
        rows: what `read` returned.
        target: the dev accuracy that was waited for.

    Returns:
        A line for each row, under a heading for each way to train.
    """
    lines: list[tuple[str, ...]] = []
    noted = sorted(rows[0].noise)
    midway = noted[
        len(noted) // 2
    ]  # at the start all sizes are alike; at the end the gradient is lost in its noise
    for group in _groups(rows):
        lines.append((f"{group[0].kind}, {group[0].rule}",))
        for row in group:
            mean, half = row.interval
            lines.append(
                (
                    str(row.size),
                    f"{row.steps * row.epochs:,}",
                    _shown(row.examples_per_second, ",.0f"),
                    tables.NOTHING if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}",
                    _shown(row.epochs_to_target, ".0f"),
                    _shown(row.epochs_to_target * row.steps, ",.0f"),
                    _shown(row.seconds_to_target, ".1f"),
                    _shown(row.noise[midway], ",.0f"),
                    f"{mean:.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}"),
                )
            )
    headings = (
        "batch\nsize",
        "updates",
        "examples\n/s",
        "peak\nMB",
        f"epochs\nto {100 * target:g}%",
        "steps\nto it",
        "s\nto it",
        "noise\nscale",
        "test %,\n95 %",
    )
    title = (
        f"Batch sizes, {rows[0].epochs} epochs each: the smaller the batch, the more updates. Noise scale after epoch "
        f"{midway}"
    )
    return Grid(title, headings, tuple(lines))


def comparisons(study: Study, questions: dict[str, list[tuple[str, str]]]) -> Grid:
    """The paired differences in test accuracy; Holm's adjustment is within each question."""
    lines: list[tuple[str, ...]] = []
    headings: tuple[str, ...] = ()
    for question, part in _asked(study, questions):
        grid = tables.comparisons(part)
        headings = grid.headings
        lines += [(question,), *grid.rows]
    return Grid("Differences in test accuracy", headings, tuple(lines))


def findings(study: Study, questions: dict[str, list[tuple[str, str]]], rows: Sequence[Row]) -> list[str]:
    """What the numbers say, in sentences."""
    said = []
    for group in _groups(rows):
        first, timed = group[0], [row for row in group if not math.isnan(row.examples_per_second)]
        if first.rule == "constant" and timed:
            fastest = max(timed, key=lambda row: row.examples_per_second)
            slow = timed[0].examples_per_second
            said.append(
                f"Speed, {first.kind}: {slow:,.0f} examples a second at {timed[0].size}; most at {fastest.size}, "
                f"{fastest.examples_per_second / slow:.1f} times as many."
            )
        reached = [row for row in timed if math.isfinite(row.epochs_to_target)]
        if reached:
            soonest = min(reached, key=lambda row: row.seconds_to_target)
            fewest = min(reached, key=lambda row: row.epochs_to_target * row.steps)
            said.append(
                f"To the target, {first.kind}, {first.rule} rate: soonest at {soonest.size} "
                f"({soonest.seconds_to_target:.1f} s), with the fewest updates at {fewest.size} "
                f"({fewest.epochs_to_target * fewest.steps:,.0f})."
            )
    for question, part in _asked(study, questions):
        shown: dict[str, list[str]] = {}
        for judged in results.judge(part):
            shown.setdefault(judged.adjusted.verdict, []).append(judged.arm.split("-")[1])
        verdicts = [f"{verdict} at {', '.join(sizes)}" for verdict, sizes in sorted(shown.items())]
        said.append(f"Accuracy, {question}: {'; '.join(verdicts)}.")
    return said


def accuracy_curves(rows: Sequence[Row]) -> str:
    """Test accuracy by batch size, with the 95 % interval of its mean, as an `<svg>` element."""
    with matplotlib.rc_context(plots.STYLE):
        figure, (axes,) = _panels(rows, 1, height=4.2)
        for group in _groups(rows):
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
        return plots.svg(figure, "batch-accuracy", "Test accuracy by batch size")


def target_curves(rows: Sequence[Row]) -> str:
    """Epochs, updates and seconds to the target by batch size, medians over seeds, as an `<svg>` element."""
    shown: dict[str, Callable[[Row], float]] = {
        "epochs": lambda row: row.epochs_to_target,
        "updates": lambda row: row.epochs_to_target * row.steps,
        "seconds of training steps": lambda row: row.seconds_to_target,
    }
    with matplotlib.rc_context(plots.STYLE):
        figure, panels = _panels(rows, len(shown), height=3.9)
        for axes, (title, value) in zip(panels, shown.items(), strict=True):
            for group in _groups(rows):
                values = np.array([value(row) for row in group])
                _line(axes, group, np.where(np.isfinite(values), values, np.nan))
            axes.set(title=title, yscale="log")
            _plain_ticks(axes)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return plots.svg(figure, "batch-target", "Epochs, updates and seconds to the target by batch size")


def cost_curves(rows: Sequence[Row]) -> str:
    """Examples a second and peak memory by batch size, as an `<svg>` element."""
    with matplotlib.rc_context(plots.STYLE):
        figure, (speed, memory) = _panels(rows, 2, height=3.4)
        for group in _groups(rows):
            if group[0].rule == "scaled":  # the rate changes neither
                peaks = [math.nan if row.peak_bytes is None else row.peak_bytes / 1e6 for row in group]
                _line(speed, group, [row.examples_per_second for row in group], group[0].kind)
                _line(memory, group, peaks, group[0].kind)
        speed.set(title="examples a second", yscale="log")
        _plain_ticks(speed)
        memory.set(title="peak memory of the process (MB)")
        speed.legend()
        return plots.svg(figure, "batch-cost", "Examples a second and peak memory by batch size")


def noise_curves(rows: Sequence[Row]) -> str:
    """The noise scale over training at each size, with the scaled learning rate, as an `<svg>` element."""
    groups = [group for group in _groups(rows) if group[0].rule == "scaled"]
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(8.5, 3.9), layout="constrained")
        panels = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
        for axes, group in zip(panels, groups, strict=True):
            # The middle of the map: its ends vanish on dark and on light pages.
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
        return plots.svg(figure, "batch-noise", "Gradient-noise scale over training by batch size")


def html(study: Study, raw: dict[str, Any], rows: Sequence[Row]) -> str:
    """The page; it needs nothing else.

    Args:
        study: what `read` returned.
        raw: the same.
        rows: the same.

    Returns:
        The page.
    """
    target = f"{100 * raw['target']:g} %"
    parts = [
        *report.opening(study, [tables.SMOKE] if study.smoke else []),
        report.listed(findings(study, raw["questions"], rows)),
        report.grid(table(rows, raw["target"])),
        report.listed(study.notes),
        "<h2>What is learned</h2>",
        report.figure(accuracy_curves(rows), "Mean over seeds; bands are the 95 % interval of the mean."),
        f"<h2>How soon dev accuracy reaches {target}</h2>",
        report.figure(target_curves(rows), "Medians over seeds, where more than half of them got there."),
        "<h2>Speed and memory</h2>",
        report.figure(cost_curves(rows), "Of training steps, the teacher's forward pass included."),
        "<h2>Gradient noise</h2>",
        report.figure(
            noise_curves(rows),
            "tr(Σ) / |G|² of the training loss with the scaled rate. Batches well below it profit from doubling. "
            "Gaps: the gradient is lost in its noise.",
        ),
        "<h2>Paired comparisons</h2>",
        report.grid(comparisons(study, raw["questions"])),
        f'<p class="protocol">{tables.TEST} The adjustment is within each question.</p>',
        *report.repeat(study),
    ]
    return report.page(study.title, parts)


def write(study_dir: str | Path) -> tuple[Path, list[RenderableType]]:
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        The page's path, and the table and the findings for a terminal.

    Raises:
        BrokenStudyError: as `read` does; an older report then stays as it is.
    """
    study, raw, rows = read(study_dir)
    path = report.replace(Path(study_dir) / "report.html", html(study, raw, rows))
    said = findings(study, raw["questions"], rows)
    return path, [tables.terminal(table(rows, raw["target"])), "", *study.notes, "", *said]


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.rule), []).append(row)
    return list(groups.values())


def _asked(study: Study, questions: dict[str, list[tuple[str, str]]]) -> Iterator[tuple[str, Study]]:
    """Each question with a study of its comparisons alone, so that p is adjusted among them."""
    for question, pairs in questions.items():
        yield question, dataclasses.replace(study, comparisons=tuple((a, b) for a, b in pairs))


def _shown(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else tables.NOTHING


def _panels(rows: Sequence[Row], count: int, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side over the batch sizes."""
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
    """Numbers as they are read on a logarithmic axis, not powers of ten."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))
    axes.yaxis.minorticks_off()
