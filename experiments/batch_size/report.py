"""Makes the table, the findings and the page of the batch-size study from the files that it left.

python -c "from experiments.batch_size import report; report.write('runs/batch_size')"
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import RenderableType

from distill.studies import StudyResult, judge, page, read, summary, tables
from experiments.batch_size import curves
from experiments.batch_size.rows import Row, grouped, rows

# Baseline and arm of each comparison, by question.
Questions = Mapping[str, Sequence[tuple[str, str]]]


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into the study's directory, whole or not at all.

    Args:
        study_dir: path to the directory that holds `study.json`.

    Returns:
        What to print: the table, the notes, the findings, and the path to the page.

    Raises:
        BrokenStudyError: a file is missing or broken. An older report is then left as it is.
    """
    study = read(study_dir)
    found, target, questions = rows(study), study.extra["target"], study.extra["questions"]
    warning = [summary.SMOKE] if study.smoke else []
    said, grid = findings(study, questions, found), table(found, target)
    parts = [
        *page.opening(study, warning),
        page.listed(said),
        page.titled_grid(grid),
        "<h2>Accuracy</h2>",
        page.figure(
            curves.accuracy_curves(found), "Mean over seeds; the bands are the 95% interval of the mean."
        ),
        f"<h2>Time to {100 * target:g}% dev accuracy</h2>",
        page.figure(
            curves.target_curves(found),
            "Medians over seeds, shown where more than half of the seeds reached the target.",
        ),
        "<h2>Speed and memory</h2>",
        page.figure(
            curves.cost_curves(found),
            "Measured on training steps; for the distilled student they include the teacher's forward pass.",
        ),
        "<h2>Gradient noise</h2>",
        page.figure(
            curves.noise_curves(found),
            "tr(Σ) / |G|² of the training loss, with the scaled learning rate. Well below this number, doubling the "
            "batch size saves nearly half the steps. Where a line is interrupted, the gradient is lost in its noise.",
        ),
        "<h2>Paired comparisons</h2>",
        page.grid(comparisons(study, questions)),
        page.small(f"{summary.TEST} The adjustment is made within each question."),
        *page.closing(study),
    ]
    path = page.write(Path(study_dir) / "report.html", study.title, parts)
    return [*warning, tables.for_terminal(grid), "", *study.notes, "", *said, f"Report: {path}"]


def table(rows: Sequence[Row], target: float) -> tables.Grid:
    """Shows what each batch size costs and achieves.

    Args:
        rows: the findings.
        target: dev accuracy of the "to target" columns.

    Returns:
        A line for each row, under a heading for each way to train.
    """
    lines: list[tuple[str, ...]] = []
    measured = sorted(rows[0].noise)
    # At the start, all sizes are alike; at the end, the gradient is lost in its noise.
    midway = measured[len(measured) // 2]
    for group in grouped(rows):
        lines.append((f"{group[0].kind}, {group[0].rule} rate",))
        for row in group:
            mean, half = row.interval
            lines.append(
                (
                    str(row.size),
                    f"{row.steps * row.epochs:,}",
                    _finite(row.examples_per_second, ",.0f"),
                    tables.NOTHING if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}",
                    _finite(row.epochs_to_target, ".0f"),
                    _finite(row.epochs_to_target * row.steps, ",.0f"),
                    _finite(row.seconds_to_target, ".1f"),
                    _finite(row.noise[midway], ",.0f"),
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
        "test %,\n95%",
    )
    title = (
        f"Batch sizes, {rows[0].epochs} epochs each: smaller batches make more updates. Noise scale after epoch "
        f"{midway}"
    )
    return tables.Grid(title, headings, tuple(lines))


def comparisons(study: StudyResult, questions: Questions) -> tables.Grid:
    """Shows the paired differences in test accuracy; Holm's adjustment is made within each question."""
    lines: list[tuple[str, ...]] = []
    headings: tuple[str, ...] = ()
    for question, part in _by_question(study, questions):
        grid = tables.comparisons(part)
        headings = grid.headings
        lines += [(question,), *grid.rows]
    return tables.Grid("Differences in test accuracy", headings, tuple(lines))


def findings(study: StudyResult, questions: Questions, rows: Sequence[Row]) -> list[str]:
    """Says in sentences what the numbers show."""
    said = []
    for group in grouped(rows):
        first, timed = group[0], [row for row in group if not math.isnan(row.examples_per_second)]
        if first.rule == "constant" and timed:
            fastest = max(timed, key=lambda row: row.examples_per_second)
            slow = timed[0].examples_per_second
            said.append(
                f"Speed, {first.kind}: {slow:,.0f} examples per second with batches of {timed[0].size}; fastest with "
                f"batches of {fastest.size}, by a factor of {fastest.examples_per_second / slow:.1f}."
            )
        reached = [row for row in timed if math.isfinite(row.epochs_to_target)]
        if reached:
            soonest = min(reached, key=lambda row: row.seconds_to_target)
            fewest = min(reached, key=lambda row: row.epochs_to_target * row.steps)
            said.append(
                f"Time to target, {first.kind}, {first.rule} rate: shortest with batches of {soonest.size} "
                f"({soonest.seconds_to_target:.1f} s); fewest updates with batches of {fewest.size} "
                f"({fewest.epochs_to_target * fewest.steps:,.0f})."
            )
    for question, part in _by_question(study, questions):
        sizes: dict[str, list[str]] = {}
        for judged in judge(part):
            sizes.setdefault(judged.adjusted.verdict, []).append(judged.arm.split("-")[1])
        verdicts = [f"{verdict} at {', '.join(own)}" for verdict, own in sorted(sizes.items())]
        said.append(f"Accuracy, {question}: {'; '.join(verdicts)}.")
    return said


def _by_question(study: StudyResult, questions: Questions) -> Iterator[tuple[str, StudyResult]]:
    """Each question with a study of its comparisons alone, so that p values are adjusted among them."""
    for question, pairs in questions.items():
        asked = tuple((a, b) for a, b in pairs)
        yield question, dataclasses.replace(study, comparisons=asked, primary=asked)


def _finite(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else tables.NOTHING
