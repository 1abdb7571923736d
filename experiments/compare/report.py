"""Makes the tables and the page of the comparison from the files that it left.

python -c "from experiments.compare import report; report.write('runs/compare')"
"""

from pathlib import Path

from rich.console import RenderableType

from distill.studies import read, report, summary


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into the study's directory, whole or not at all.

    Args:
        study_dir: path to the directory that holds `study.json`.

    Returns:
        What to print: the tables, and the path to the page.

    Raises:
        BrokenStudyError: a file is missing or broken. An older report is then left as it is.
    """
    return [summary.terminal(read(study_dir)), f"Report: {report.write(study_dir)}"]
