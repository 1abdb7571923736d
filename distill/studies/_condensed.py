"""A finished study in one small file, which a repository can keep beside the page about it."""

import json
import os
from pathlib import Path
from typing import Any

from distill.studies._reading import config_of, read
from distill.studies._records import write_text


def condense(study_dir: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Writes a finished study as one file, which `read` accepts in place of the study's directory.

    Models and learning curves are left out, so `charts.curves` has nothing to draw. Every table and every other picture
    comes out the same.

    Args:
        study_dir: path to the directory that holds `study.json`.
        path: file to write, whose name must end in `.json`. An existing file is replaced as a whole.

    Returns:
        The path.

    Raises:
        BrokenStudyError: a file of the study is missing or broken. In that case nothing is written.
        ValueError: the name ends in something else.

    Example:
        >>> from distill import studies
        >>> small = studies.read(studies.condense("runs/compare", "compare.json"))
        >>> studies.tables.scores(small) == studies.tables.scores(studies.read("runs/compare"))
        True
    """
    path, folder = Path(path), Path(study_dir)
    if path.suffix != ".json":
        raise ValueError(f"A condensed study is a .json file. Received: {path}. Give it such a name.")
    read(folder)  # which checks all that is copied here
    study = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    for arm in study["arms"]:
        cells = [
            {
                **json.loads((folder / cell / "result.json").read_text(encoding="utf-8")),
                "config": config_of(folder / cell),
            }
            for cell in arm["cells"]
        ]
        arm["cells"] = sorted(cells, key=lambda cell: cell["seed"])
    write_text(path, _lines(study) + "\n")
    return path


def _lines(value: Any, depth: int = 0) -> str:
    """JSON with a line for each cell and each small list, so that differences are easy to see."""
    if depth == 4 or not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    indent = " " * (depth + 1)
    if isinstance(value, list):
        items = [indent + _lines(one, depth + 1) for one in value]
        opened, closed = "[", "]"
    else:
        items = [f"{indent}{json.dumps(key)}: {_lines(one, depth + 1)}" for key, one in value.items()]
        opened, closed = "{", "}"
    return f"{opened}\n" + ",\n".join(items) + f"\n{' ' * depth}{closed}"
