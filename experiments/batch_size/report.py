"""The table, the findings and the page of `experiments.batch_size`, from the files that it left.

python -c "from experiments.batch_size import report; report.write('runs/batch_size')"
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType

from distill.studies import StudyResult, judge, read, report, tables
from experiments.batch_size import curves
from experiments.batch_size.rows import Row, grouped, rows


def table(rows: Sequence[Row], target: float) -> tables.Grid:
    """What each batch size costs and gives.

    Args:
        rows: what `read` returned.
        target: the dev accuracy that was waited for.

    Returns:
        A line for each row, under a heading for each way to train.
    """
    lines: list[tuple[str, ...]] = []
    noted = sorted(rows[0].noise)
    # At the start all sizes are alike; at the end the gradient is lost in its noise.
    midway = noted[len(noted) // 2]
    for group in grouped(rows):
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
    return tables.Grid(title, headings, tuple(lines))


def comparisons(study: StudyResult, questions: dict[str, list[tuple[str, str]]]) -> tables.Grid:
    """The paired differences in test accuracy; Holm's adjustment is within each question."""
    lines: list[tuple[str, ...]] = []
    headings: tuple[str, ...] = ()
    for question, part in _asked(study, questions):
        grid = tables.comparisons(part)
        headings = grid.headings
        lines += [(question,), *grid.rows]
    return tables.Grid("Differences in test accuracy", headings, tuple(lines))


def findings(
    study: StudyResult, questions: dict[str, list[tuple[str, str]]], rows: Sequence[Row]
) -> list[str]:
    """What the numbers say, in sentences."""
    said = []
    for group in grouped(rows):
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
        for judged in judge(part):
            shown.setdefault(judged.adjusted.verdict, []).append(judged.arm.split("-")[1])
        verdicts = [f"{verdict} at {', '.join(sizes)}" for verdict, sizes in sorted(shown.items())]
        said.append(f"Accuracy, {question}: {'; '.join(verdicts)}.")
    return said


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        What to print: the table, the findings, and where the page is.

    Raises:
        BrokenStudyError: as `distill.studies.read` does; an older report then stays as it is.
    """
    study = read(study_dir)
    found, target, questions = rows(study), study.extra["target"], study.extra["questions"]
    warning = [tables.SMOKE] if study.smoke else []
    said, grid = findings(study, questions, found), table(found, target)
    parts = [
        *report.opening(study, warning),
        report.listed(said),
        report.grid(grid),
        report.listed(study.notes),
        "<h2>What is learned</h2>",
        report.figure(
            curves.accuracy_curves(found), "Mean over seeds; bands are the 95 % interval of the mean."
        ),
        f"<h2>How soon dev accuracy reaches {100 * target:g} %</h2>",
        report.figure(
            curves.target_curves(found), "Medians over seeds, where more than half of them got there."
        ),
        "<h2>Speed and memory</h2>",
        report.figure(curves.cost_curves(found), "Of training steps, the teacher's forward pass included."),
        "<h2>Gradient noise</h2>",
        report.figure(
            curves.noise_curves(found),
            "tr(Σ) / |G|² of the training loss with the scaled rate. Batches well below it profit from doubling. "
            "Gaps: the gradient is lost in its noise.",
        ),
        "<h2>Paired comparisons</h2>",
        report.grid(comparisons(study, questions)),
        f'<p class="protocol">{tables.TEST} The adjustment is within each question.</p>',
        *report.repeat(study),
    ]
    page = report.replace(Path(study_dir) / "report.html", report.page(study.title, parts))
    return [*warning, tables.terminal(grid), "", *study.notes, "", *said, f"The report: {page}"]


def _asked(
    study: StudyResult, questions: dict[str, list[tuple[str, str]]]
) -> Iterator[tuple[str, StudyResult]]:
    """Each question with a study of its comparisons alone, so that p is adjusted among them."""
    for question, pairs in questions.items():
        yield question, dataclasses.replace(study, comparisons=tuple((a, b) for a, b in pairs))


def _shown(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else tables.NOTHING
