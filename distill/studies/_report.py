"""One self-contained page about a finished study: the answer first, then how it was found.

python -c "from distill.studies import report; print(report.write('runs/compare'))"
"""

import html as escaping
from collections.abc import Sequence
from pathlib import Path

from distill.studies._plots import VERDICTS, curves, forest, size
from distill.studies._records import write_text
from distill.studies._results import Judged, StudyResult, judge, read
from distill.studies._tables import (
    PROTOCOL,
    TEST,
    Grid,
    comparisons,
    costs,
    other_measures,
    remarks,
    scores,
    shipped,
    tuning,
    verdict,
)

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


def html(study: StudyResult, first: Sequence[str] = ()) -> str:
    """The study as one HTML page that needs nothing else: no script, font, image or style from elsewhere.

    Args:
        study: what `read` returned.
        first: HTML that a study of its own kind shows before all else.

    Returns:
        The page.
    """
    judged = judge(study)
    parts = [
        *opening(study, remarks(study)),
        *first,
        _answer(judged),
        grid(scores(study)),
        f'<p class="protocol">{PROTOCOL}</p>',
        grid(costs(study)),
        *(f"<h2>{escaped(one.title)}</h2>{grid(one)}" for one in shipped(study)),
    ]
    if judged:
        parts += [
            "<h2>Paired comparisons</h2>",
            figure(forest(study), "Line: 95 % interval of the mean (diamond). Dots: single seeds."),
            grid(comparisons(study)),
            f'<p class="protocol">{TEST}</p>',
            grid(other_measures(study)),
            '<p class="protocol">Negative is better. Holm\'s adjustment is within each measure.</p>',
        ]
    parts += [
        "<h2>Accuracy against size</h2>",
        figure(size(study), "Mean and standard deviation over seeds, on test."),
        "<h2>Learning curves</h2>",
        figure(
            curves(study),
            "Mean over seeds; bands are one standard deviation. Axes are cut to what follows the first quarter.",
        ),
        "<h2>Arms</h2>",
        _terms([(f"{arm.name}: {arm.label}", arm.description) for arm in study.arms]),
    ]
    if study.tuning:
        parts += ["<h2>Chosen on dev</h2>", grid(tuning(study))]
    if study.notes:
        parts += ["<h2>Notes</h2>", listed(study.notes)]
    return page(study.title, [*parts, *repeat(study)])


def page(title: str, parts: Sequence[str]) -> str:
    """One HTML page in the reports' style.

    Args:
        title: of the window.
        parts: of the body, HTML.

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


def opening(study: StudyResult, warnings: Sequence[str]) -> list[str]:
    """How a page begins: title, question, and what a reader must know first."""
    return [
        f"<h1>{escaped(study.title)}</h1>",
        f'<p class="question">{escaped(study.question)}</p>',
        *(f'<p class="warning">{escaped(remark)}</p>' for remark in warnings),
    ]


def repeat(study: StudyResult) -> list[str]:
    """How a page says what it takes to repeat its study."""
    versions = [("commit", study.git_commit or "none"), ("created", study.created), *study.versions.items()]
    return [
        "<h2>How to repeat it</h2>",
        f"<pre>{escaped(study.command)}</pre>",
        f'<p class="protocol">{escaped(", ".join(f"{name} {version}" for name, version in versions))}</p>',
    ]


def write(study_dir: str | Path, first: Sequence[str] = ()) -> Path:
    """Writes `report.html` into a study directory, whole or not at all.

    Args:
        study_dir: the directory that holds `study.json`.
        first: see `html`.

    Returns:
        The page's path.

    Raises:
        BrokenStudyError: as `read` does; an older report then stays as it is.
    """
    return replace(Path(study_dir) / "report.html", html(read(study_dir), first))


def replace(path: Path, text: str) -> Path:
    """Writes a file that is whole or as it was, and returns its path."""
    write_text(path, text)
    return path


def _answer(judged: list[Judged]) -> str:
    items = []
    for comparison in judged:
        words, numbers = map(escaped, verdict(comparison))
        color = VERDICTS[comparison.adjusted.verdict]
        items.append(f'<li style="--verdict: {color}"><b>{words}</b> <span>{numbers}</span></li>')
    return '<ul class="answer">\n' + "\n".join(items) + "\n</ul>"


def _terms(items: list[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escaped(t)}</dt><dd>{escaped(d)}</dd>" for t, d in items) + "</dl>"


def figure(svg: str, caption: str) -> str:
    """A plot with what it shows."""
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def listed(items: Sequence[str]) -> str:
    """Sentences as a list."""
    return "<ul>" + "".join(f"<li>{escaped(item)}</li>" for item in items) + "</ul>"


def grid(content: Grid) -> str:
    """A table that scrolls where it is too wide."""
    head = "".join(f"<th>{escaped(heading)}</th>" for heading in content.headings)
    body = "\n".join(_row(row, len(content.headings)) for row in content.rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _row(row: tuple[str, ...], columns: int) -> str:
    if len(row) == 1:
        return f'<tr class="group"><td colspan="{columns}">{escaped(row[0])}</td></tr>'
    return "<tr>" + "".join(f"<td>{escaped(text)}</td>" for text in row) + "</tr>"


def escaped(text: str) -> str:
    """Text of a file as HTML."""
    return escaping.escape(text)
