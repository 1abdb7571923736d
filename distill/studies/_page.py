"""A self-contained HTML page and its parts: headings, tables, charts and lists."""

import functools
import html as escaping
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from distill.studies._grids import Grid, for_html
from distill.studies._pictures import WIDTH, Picture, look, script
from distill.studies._records import write_text
from distill.studies._results import StudyResult

# Nothing may be loaded, whatever a study's files hold. Vega compiles its expressions, which counts as eval.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:"
_TABS = 4  # for more alternatives, a list is shorter


def write(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Writes a page, whole or not at all, and returns its path."""
    write_text(path, html(title, parts))
    return path


def html(title: str, parts: Sequence[str]) -> str:
    """Makes a page that needs no script, font, image or style from elsewhere.

    If the browser runs scripts, its tables can be sorted and filtered, and its charts respond to the pointer.

    Args:
        title: title of the window.
        parts: HTML of the body.

    Returns:
        The page.
    """
    body = "\n".join(parts)
    drawing = [f"<script>{_inert(script())}</script>"] if '<script type="application/json"' in body else []
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>\n<style>{_asset('_page.css')}</style>\n</head>\n<body>\n<main>",
            body,
            "</main>",
            *drawing,
            f"<script>{_inert(_asset('_page.js'))}</script>\n</body>\n</html>\n",
        ]
    )


def opening(study: StudyResult, remarks: Sequence[str]) -> list[str]:
    """The beginning of a study's page: title, question, and what a reader must know first."""
    return [
        f"<h1>{escaped(study.title)}</h1>",
        f'<p class="question">{escaped(study.question)}</p>',
        *(f'<p class="warning">{escaped(remark)}</p>' for remark in remarks),
    ]


def repeating(study: StudyResult) -> list[str]:
    """What you need to repeat a study: command, commit and versions."""
    versions = [("commit", study.git_commit or "none"), ("created", study.created), *study.versions.items()]
    if machine := study.extra.get("machine"):
        versions.insert(2, ("machine", str(machine)))
    return [
        f"<pre>{escaped(study.command)}</pre>",
        small(", ".join(f"{name} {version}" for name, version in versions)),
    ]


def contents(sections: Mapping[str, Sequence[str]]) -> list[str]:
    """The sections that are not empty, with their headings, after a list of links to them."""
    found = {title: parts for title, parts in sections.items() if parts}
    links = "".join(f'<li><a href="#{_anchor(title)}">{escaped(title)}</a></li>' for title in found)
    return [
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>',
        *(
            f'<section id="{_anchor(title)}">\n<h2>{escaped(title)}</h2>\n'
            + "\n".join(parts)
            + "\n</section>"
            for title, parts in found.items()
        ),
    ]


def small(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="protocol">{escaped(text)}</p>'


def listed(items: Sequence[str], *, kind: str = "") -> str:
    """Sentences as a list; `kind` is its class."""
    return (
        f'<ul class="{kind}">' * bool(kind)
        + "<ul>" * (not kind)
        + "".join(f"<li>{escaped(item)}</li>" for item in items)
        + "</ul>"
    )


def terms(items: Sequence[tuple[str, str]]) -> str:
    """Terms, each with its explanation."""
    return (
        '<dl class="arms">'
        + "".join(f"<dt>{escaped(t)}</dt><dd>{escaped(d)}</dd>" for t, d in items)
        + "</dl>"
    )


def figure(svg: str, caption: str) -> str:
    """A figure with its caption."""
    return f"<figure>{svg}<figcaption>{escaped(caption)}</figcaption></figure>"


def chart(picture: Picture, study: StudyResult) -> str:
    """A chart that responds to pointer and keyboard, with a checkbox for each arm; without scripts it is static."""
    spec: dict[str, Any] = {**picture.spec, "width": "container"}
    narrow = picture.spec["width"] < WIDTH
    if picture.arms:  # the boxes are the legend
        spec["config"] = {**spec["config"], "legend": {"disable": True}}
    return (
        f'<figure data-name="{escaped(picture.name)}"'
        + f' style="max-width: {picture.spec["width"] + 120}px"' * narrow
        + f">{_arms(picture, study)}"
        f'<div class="chart">{picture.svg}</div><figcaption>{escaped(picture.caption)}</figcaption>'
        f'<script type="application/json">{_json(spec)}</script></figure>'
    )


def charts(pictures: Sequence[Picture], study: StudyResult, *, choose: str) -> str:
    """Charts that a reader sees one at a time; without scripts, all are shown.

    Args:
        pictures: at least one chart.
        study: the study that they show.
        choose: what the reader chooses, such as "Cost".
    """
    figures = "\n".join(chart(picture, study) for picture in pictures)
    if len(pictures) == 1:
        return figures
    name = _anchor(pictures[0].name)
    titles = [escaped(picture.title) for picture in pictures]
    if len(pictures) <= _TABS:
        boxes = "".join(
            f'<label><input type="radio" name="{name}"{" checked" * (title is titles[0])}>{title}</label>'
            for title in titles
        )
        control = f'<fieldset class="tabs" hidden><legend>{escaped(choose)}</legend>{boxes}</fieldset>'
    else:
        options = "".join(f"<option>{title}</option>" for title in titles)
        control = (
            f'<div class="choice" hidden><label for="choose-{name}">{escaped(choose)}</label> '
            f'<select id="choose-{name}">{options}</select></div>'
        )
    return f'<div class="alternatives">{control}\n{figures}</div>'


def grid(content: Grid) -> str:
    """A table under its title; it can be sorted and filtered, and scrolls if it is too wide."""
    return for_html(content)


def escaped(text: str) -> str:
    """Plain text as HTML."""
    return escaping.escape(text)


def _arms(picture: Picture, study: StudyResult) -> str:
    """The legend of a chart of arms, with a checkbox for each."""
    boxes = []
    for arm in picture.arms:
        color, dashes = look(study, arm)
        line = (
            f'<svg viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" stroke="{color}" stroke-width="3" '
            f'stroke-dasharray="{" ".join(map(str, dashes)) if dashes[1] else "none"}"/></svg>'
        )
        boxes.append(
            f'<label><input type="checkbox" value="{escaped(arm)}" checked hidden>{line}{escaped(arm)}</label>'
        )
    return f'<fieldset class="arms"><legend>Arms</legend>{"".join(boxes)}</fieldset>' if boxes else ""


def _anchor(title: str) -> str:
    return "-".join("".join(letter if letter.isalnum() else " " for letter in title.lower()).split())


def capitalized(text: str) -> str:
    """Text with its first letter capitalized and the rest unchanged."""
    return text[:1].upper() + text[1:]


def _json(content: Mapping[str, Any]) -> str:
    """JSON for a script element, written so that nothing in it can end the element."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def _inert(code: str) -> str:
    """Code for a script element, escaped so that nothing in it can end the element; its strings keep their values."""
    return re.sub("<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE)


@functools.cache
def _asset(name: str) -> str:
    return (resources.files("distill.studies") / name).read_text(encoding="utf-8")
