"""Makes the table of errors and the page of the repetition from the files that it left.

python -c "from experiments.hinton_mnist import report; report.write('runs/hinton_mnist')"
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType

from distill.studies import StudyResult, page, read, report, statistics, summary, tables
from experiments.hinton_mnist.config import ON_DEV, ON_TEST, TRAINED

NOTHING = tables.NOTHING
# Arm, origin of the bias, and the paper's results: errors on test, and how many of them on 3s.
ROWS = (
    ("teacher", TRAINED, "67", NOTHING),
    ("alone", TRAINED, "146", NOTHING),
    ("distilled", TRAINED, "74", NOTHING),
    ("omitted-distilled", TRAINED, "206", "133"),
    ("omitted-distilled", ON_DEV, NOTHING, NOTHING),
    ("omitted-distilled", ON_TEST, "109", "14"),
    ("omitted-alone", TRAINED, NOTHING, NOTHING),
    ("omitted-alone", ON_DEV, NOTHING, NOTHING),
)


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into the study's directory, whole or not at all.

    Args:
        study_dir: path to the directory that holds `study.json`.

    Returns:
        What to print: the table, and the path to the page.

    Raises:
        BrokenStudyError: a file is missing or broken. An older report is then left as it is.
    """
    study = read(study_dir)
    grid = error_table(study)
    path = report.write(study_dir, first=[page.titled_grid(grid)])
    return [*([summary.SMOKE] if study.smoke else []), tables.for_terminal(grid), f"Report: {path}"]


def error_table(study: StudyResult) -> tables.Grid:
    """Shows the errors on test next to those of the paper, with a row for each arm and bias."""
    omitted = study.extra.get("omitted", 3)  # not recorded in the first runs, which left out 3
    rows: list[tuple[str, ...]] = []
    for arm, source, paper, paper_on_digit in ROWS:
        errors = [cell.extra["errors"][source] for cell in study.arm(arm).cells]
        totals = [sum(one["test"]) for one in errors]
        on_digit = _spread([one["test"][omitted] for one in errors])
        bias = NOTHING if source == TRAINED else _spread([one["bias"] for one in errors], digits=1)
        name = arm if source == TRAINED else f"… {source}"
        by_seed = ", ".join(map(str, totals))
        rows.append((name, bias, _spread(totals), by_seed, paper, on_digit, paper_on_digit))
    teachers = study.arm("teacher").cells
    images = teachers[0].extra["test_examples"]
    title = (
        f"Errors on {images:,} test images, mean ± standard deviation over {tables.number_of_seeds(len(teachers))}; "
        "the paper's are on 10,000 images, and it left out the digit 3"
    )
    headings = ("arm", "added\nbias", "errors", "by seed", "paper", f"on {omitted}s", "paper,\non 3s")
    return tables.Grid(title, headings, tuple(rows))


def _spread(values: Sequence[float], *, digits: int = 0) -> str:
    spread = statistics.spread(values)
    mean = f"{spread.mean:.{digits}f}"
    return mean if spread.n == 1 else f"{mean} ± {spread.deviation:.{digits}f}"
