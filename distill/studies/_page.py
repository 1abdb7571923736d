"""A self-contained HTML page and its parts: headings, tables, figures and lists."""

import html as escaping
from collections.abc import Sequence
from pathlib import Path

from distill.studies._records import write_text
from distill.studies._results import StudyResult
from distill.studies._tables import Grid

_CSS = """
:root { color-scheme: light dark;
  --page: #ffffff; --text: #1b1b1f; --faint: #5d5d66; --line: #d9d9de; --tint: #f4f4f7; }
@media (prefers-color-scheme: dark) {
  :root { --page: #17171a; --text: #ececf1; --faint: #a5a5b0; --line: #3a3a42; --tint: #222227; }
}
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; background: var(--page); color: var(--text);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { margin-bottom: 0; font-size: 1.6rem; }
h2 { margin-top: 2.2rem; font-size: 1.15rem; }
h3 { font-size: 1rem; }
p.question { margin-top: .3rem; font-size: 1.1rem; color: var(--faint); }
p.protocol, figcaption { font-size: .85rem; color: var(--faint); }
p.warning { padding: .6rem 1rem; border-left: 4px solid #E69F00; background: var(--tint); }
ul.answer { padding: 0; list-style: none; }
ul.answer li { margin: .35rem 0; padding: .45rem .8rem; border-left: 5px solid var(--verdict);
               background: var(--tint); }
ul.answer span { margin-left: .6rem; color: var(--faint); }
.scroll { margin: .8rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
tr.group td { padding-top: .9rem; color: var(--faint); font-style: italic; }
figure { margin: 0; }
svg { max-width: 100%; height: auto; }
pre { padding: .6rem 1rem; overflow-x: auto; background: var(--tint); }
dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
"""


def write(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page, whole or not at all, and returns its path."""
    write_text(path, html(title, parts))
    return path


def html(title: str, parts: Sequence[str]) -> str:
    """Makes a page that needs no script, font, image or style from elsewhere.

    Args:
        title: title of the window.
        parts: HTML of the body.

    Returns:
        The page.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def opening(study: StudyResult, remarks: Sequence[str]) -> list[str]:
    """The beginning of a study's page: title, question, and what a reader must know first."""
    return [
        f"<h1>{escaped(study.title)}</h1>",
        f'<p class="question">{escaped(study.question)}</p>',
        *(f'<p class="warning">{escaped(remark)}</p>' for remark in remarks),
    ]


def closing(study: StudyResult) -> list[str]:
    """The end of a study's page: notes, and what it takes to repeat the study."""
    notes = ["<h2>Notes</h2>", listed(study.notes)] if study.notes else []
    versions = [("commit", study.git_commit or "none"), ("created", study.created), *study.versions.items()]
    return [
        *notes,
        "<h2>How to repeat it</h2>",
        f"<pre>{escaped(study.command)}</pre>",
        small(", ".join(f"{name} {version}" for name, version in versions)),
    ]


def small(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="protocol">{escaped(text)}</p>'


def listed(items: Sequence[str]) -> str:
    """Sentences as a list."""
    return "<ul>" + "".join(f"<li>{escaped(item)}</li>" for item in items) + "</ul>"


def terms(items: Sequence[tuple[str, str]]) -> str:
    """Terms, each with its explanation."""
    return "<dl>" + "".join(f"<dt>{escaped(t)}</dt><dd>{escaped(d)}</dd>" for t, d in items) + "</dl>"


def figure(svg: str, caption: str) -> str:
    """A figure with its caption."""
    return f"<figure>{svg}<figcaption>{escaped(caption)}</figcaption></figure>"


def grid(content: Grid) -> str:
    """A table; it scrolls if it is too wide."""
    head = "".join(f"<th>{escaped(heading)}</th>" for heading in content.headings)
    body = "\n".join(_row(row, len(content.headings)) for row in content.rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def titled_grid(content: Grid) -> str:
    """A table under its title."""
    return f"<h3>{escaped(content.title)}</h3>{grid(content)}"


def escaped(text: str) -> str:
    """Plain text as HTML."""
    return escaping.escape(text)


def _row(row: tuple[str, ...], columns: int) -> str:
    if len(row) == 1:
        return f'<tr class="group"><td colspan="{columns}">{escaped(row[0])}</td></tr>'
    return "<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in row) + "</tr>"
