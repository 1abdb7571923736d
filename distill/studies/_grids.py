"""A table in plain text, and how it looks in a terminal, in Markdown, in HTML and as CSV."""

import csv
import dataclasses
import html
import io
import re
from collections.abc import Sequence

import numpy as np
import rich.box
import rich.table
import rich.text

NOTHING = "–"


class Number(str):
    """A number as it is printed, but sorted by its value.

    Attributes:
        value: the number, in a unit that all rows of a column share.

    Example:
        >>> from distill import studies
        >>> faster = studies.tables.Number("9.8 µs", 0.0098)
        >>> faster.value < studies.tables.Number("1.2 ms", 1.2).value
        True
    """

    __slots__ = ("value",)
    value: float

    def __new__(cls, text: str, value: float) -> "Number":
        """Makes a number from its text and its value."""
        shown = super().__new__(cls, text)
        shown.value = value.item() if isinstance(value, np.generic) else value  # numpy prints its type
        return shown


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table in plain text; a notebook displays it.

    Attributes:
        title: title above the table.
        headings: heading of each column.
        rows: the rows. A row of a single text is a heading for the rows below it. A cell may be a `Number`.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_html_(self) -> str:
        return for_html(self)


def for_terminal(grid: Grid) -> rich.table.Table:
    """A table for a terminal: `rich.print(for_terminal(grid))`."""
    # The narrowest gaps, so that six columns fit into 80 characters.
    result = rich.table.Table(
        title=f"\n{grid.title}",
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
    )
    for index, heading in enumerate(grid.headings):
        # A name that is too long continues on the next line: two shortened names could look alike.
        result.add_column(heading, justify="right" if index else "left", no_wrap=index > 0, overflow="fold")
    for row in grid.rows:
        if len(row) == 1:
            result.add_section()
        result.add_row(*map(rich.text.Text, row), style="italic" if len(row) == 1 else None)
    return result


def for_markdown(grid: Grid) -> str:
    """A table in Markdown, with its title above it."""
    rows = [tuple(map(markdown_text, grid.headings)), ("---", *("--:" for _ in grid.headings[1:]))]
    for row in grid.rows:
        cells = [markdown_text(text) for text in row]
        rows.append((f"*{cells[0]}*", *("" for _ in grid.headings[1:])) if len(row) == 1 else tuple(cells))
    return f"{markdown_text(grid.title)}:\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown_text(text: str) -> str:
    """Escapes text so that Markdown shows it as it is, on one line and within a row of a table."""
    # Not every Markdown takes a backslash before "<".
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", plain)


def for_html(grid: Grid) -> str:
    """A table in HTML, with its title as caption.

    On a page made by `page.html`, its headings sort its rows and a field filters them.
    """
    headings, rows = flat(grid)
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in headings)
    body = "\n".join(_row(row) for row in rows)
    return (
        f'<div class="scroll"><table><caption>{html.escape(grid.title)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def for_csv(grid: Grid) -> str:
    """A table as CSV: numbers in full, without units and spreads, and the headings of rows as a column."""
    headings, rows = flat(grid)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(" ".join(heading.split()) for heading in headings)
    for row in rows:
        writer.writerow(
            repr(cell.value) if isinstance(cell, Number) else "" if cell == NOTHING else cell for cell in row
        )
    return file.getvalue()


def flat(grid: Grid) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows, with the headings of rows, if there are any, as the second column."""
    if all(len(row) > 1 for row in grid.rows):
        return grid.headings, list(grid.rows)
    rows: list[tuple[str, ...]] = []
    group = ""
    for row in grid.rows:
        if len(row) == 1:
            group = row[0]
        else:
            rows.append((row[0], group, *row[1:]))
    return (grid.headings[0], "group", *grid.headings[1:]), rows


def _row(row: Sequence[str]) -> str:
    first, *others = (_cell(text, tag) for text, tag in zip(row, ["th", *["td"] * len(row)], strict=False))
    return f"<tr>{first}{''.join(others)}</tr>"


def _cell(text: str, tag: str) -> str:
    attributes = ' scope="row"' * (tag == "th")
    if isinstance(text, Number):
        attributes += f' data-value="{text.value!r}"'
    return f"<{tag}{attributes}>{html.escape(text)}</{tag}>"
