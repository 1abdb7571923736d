"""The table of errors and the page of `experiments.hinton_mnist`, from the files that it left.

python -c "from experiments.hinton_mnist import report; report.write('runs/hinton_mnist')"
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType

from distill.studies import StudyResult, read, report, statistics, tables
from experiments.hinton_mnist.config import ON_DEV, ON_TEST, TRAINED

NOTHING = tables.NOTHING
# Arm, bias, and what the paper has: errors on test, and how many of them on 3s.
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
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        What to print: the table, and where the page is.

    Raises:
        BrokenStudyError: as `distill.studies.read` does; an older report then stays as it is.
    """
    study = read(study_dir)
    grid = error_table(study)
    page = report.write(study_dir, [f"<p>{report.escaped(grid.title)}.</p>", report.grid(grid)])
    return [*([tables.SMOKE] if study.smoke else []), tables.terminal(grid), f"The report: {page}"]


def error_table(study: StudyResult) -> tables.Grid:
    """The errors on test beside those of the paper: a row for each arm and bias."""
    omitted = study.extra["omitted"]
    rows: list[tuple[str, ...]] = []
    for arm, source, paper, paper_on_digit in ROWS:
        scores = [cell.extra["errors"][source] for cell in study.arm(arm).cells]
        totals = [sum(score["test"]) for score in scores]
        on_digit = _spread([score["test"][omitted] for score in scores])
        bias = NOTHING if source == TRAINED else _spread([score["bias"] for score in scores], 1)
        name = arm if source == TRAINED else f"… {source}"
        by_seed = ", ".join(map(str, totals))
        rows.append((name, bias, _spread(totals), by_seed, paper, on_digit, paper_on_digit))
    first = study.arm("teacher").cells
    title = (
        f"Errors on {first[0].extra['test_examples']} test images, mean ± standard deviation over {len(first)} seeds; "
        "the paper's are on 10000, and it left out the digit 3"
    )
    headings = ("arm", "added\nbias", "errors", "by seed", "paper", f"on {omitted}s", "paper,\non 3s")
    return tables.Grid(title, headings, tuple(rows))


def _spread(values: Sequence[float], digits: int = 0) -> str:
    spread = statistics.spread(values)
    mean = f"{spread.mean:.{digits}f}"
    return mean if spread.n == 1 else f"{mean} ± {spread.deviation:.{digits}f}"
