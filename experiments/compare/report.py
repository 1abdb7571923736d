"""The table and the page of `experiments.compare`, from the files that it left.

python -c "from experiments.compare import report; report.write('runs/compare')"
"""

from pathlib import Path

from rich.console import RenderableType

from distill.studies import read, report, tables


def write(study_dir: str | Path) -> list[RenderableType]:
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.

    Returns:
        What to print: the table, and where the page is.

    Raises:
        BrokenStudyError: as `distill.studies.read` does; an older report then stays as it is.
    """
    return [tables.table(read(study_dir)), f"The report: {report.write(study_dir)}"]
