"""Sections that a study adds to its report: pictures, tables and sentences about what was found."""

import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import matplotlib
from matplotlib.figure import Figure

from distill.studies._page import escaped, grid
from distill.studies._plots import STYLE, svg
from distill.studies._results import StudyResult
from distill.studies._tables import Grid

# What a section shows, one after the other.
Shown: TypeAlias = Iterable[Figure | Grid | str]
Section = Callable[[StudyResult], Shown]


def html(study: StudyResult, sections: Sequence[Section]) -> str:
    """Makes the sections of a report.

    A section that fails says so, and harms neither the others nor the report.

    Args:
        study: the finished study.
        sections: functions that take it.

    Returns:
        HTML; a section that shows nothing is left out.
    """
    return "\n".join(part for section in sections for part in _section(study, section))


def heading(section: Section) -> str:
    """The first line of a function's docstring, without a full stop; or its name."""
    described = (section.__doc__ or "").strip().partition("\n")[0].removesuffix(".")
    return described or section.__name__.replace("_", " ").capitalize()


def _section(study: StudyResult, section: Section) -> list[str]:
    parts: list[str] = []
    try:
        with matplotlib.rc_context(STYLE):
            for shown in section(study):
                name = f"{section.__name__}-{len(parts)}"
                parts.append(_part(shown, name=name, title=heading(section)))
    except Exception as error:  # whatever it is, the study has its results
        traceback.print_exc()
        parts.append(f'<p class="warning">{escaped(f"Failed: {type(error).__name__}: {error}")}</p>')
    return [f"<h3>{escaped(heading(section))}</h3>", *parts] if parts else []


def _part(shown: Figure | Grid | str, *, name: str, title: str) -> str:
    if isinstance(shown, Figure):
        return f"<figure>{svg(shown, name=name, description=title)}</figure>"
    if isinstance(shown, Grid):
        return grid(shown)
    if isinstance(shown, str):
        return f"<p>{escaped(shown)}</p>"
    raise TypeError(
        "A section yields matplotlib figures, tables.Grid and strings. "
        f"Received: {type(shown).__name__}. A single one needs yield, or a list around it."
    )
