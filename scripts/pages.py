"""Writes the parts of README.md and the pages in docs/ that come from data and from runs.

scripts/pages fills in the tables and pictures of the studies, from the files that `studies.condense` wrote to
docs/studies. It also writes the notebooks: the tutorials of NOTEBOOKS, cell by cell. Marks in a page say where a table
or picture goes:

    <!-- compare.json: scores teacher alone distilled -->
    ...
    <!-- end -->

These marks enclose the table `scores` of docs/studies/compare.json, here with three arms only. PARTS lists all parts.
This takes seconds.

scripts/pages PAGE ... runs the Python snippets of these pages, one after another in an empty folder. What a snippet
prints replaces the block of text that follows it, and pictures (SVG) that it writes are copied to where the page shows
them. The tutorials take one to two minutes each on two cores.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import re
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from distill.studies import StudyResult, charts, judge, plots, read, summary, tables

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STUDIES = DOCS / "studies"
NOTEBOOKS = tuple(DOCS / "tutorials" / f"{name}.md" for name in ("first", "prune", "phone", "language"))
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))

_MARKED = re.compile(
    r"(<!-- (?P<file>\S+\.json): (?P<part>\w+)(?P<arms>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL
)
_SNIPPET = re.compile(r"```python\n(?P<code>.*?)```(?P<printed>\n\n```text\n.*?```)?", re.DOTALL)
# An image has no text colour to take over; it knows only which of the two its page wants.
_COLORS = (
    "<style>svg{color:#1b1b1f;fill:currentColor}@media(prefers-color-scheme:dark){svg{color:#ececf1}}</style>"
)
_PAPER, _INK = re.compile("#ffffff"), re.compile("#(000000|1b1b1f)")


def main(arguments: Sequence[str]) -> None:
    """Fills in every page, after running those that are named."""
    for argument in arguments:
        page = Path(argument).resolve()
        print(page)
        page.write_text(printed(page), encoding="utf-8")
    for path in sorted(STUDIES.glob("*.json")):
        for name, picture in pictures(path).items():
            (STUDIES / name).write_text(picture, encoding="utf-8")
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    for page in NOTEBOOKS:
        page.with_suffix(".ipynb").write_text(notebook(page.read_text(encoding="utf-8")), encoding="utf-8")


def filled(text: str) -> str:
    """A page with its tables as the data has them."""

    def fill(match: re.Match[str]) -> str:
        study = read(STUDIES / match["file"])
        return f"{match[1]}\n{PARTS[match['part']](_only(study, match['arms'].split()))}\n\n{match[5]}"

    return _MARKED.sub(fill, text)


def pictures(path: Path) -> dict[str, str]:
    """The pictures of a study's data, those of its own sections too, by the name of their file."""
    study = read(path)
    drawn = [*charts.forest(study), *charts.pareto(study)] if study.comparisons else []
    found = {picture.name: picture.svg for picture in drawn}
    own: list[Callable[[StudyResult], Any]] = []
    if (ROOT / "experiments" / f"{study.name}.py").is_file():
        own = importlib.import_module(f"experiments.{study.name}").study.design.sections
    for section in own:
        with matplotlib.rc_context({**plots.STYLE, "svg.fonttype": "none"}):  # letters, which a test reads
            for figure in section(study):
                if isinstance(figure, Figure):
                    name = section.__name__.replace("_", "-")
                    found[name] = plots.svg(figure, name=name, description=str(section.__doc__))
    return {f"{path.stem}-{name}.svg": _alone(picture) for name, picture in found.items()}


def snippets(text: str) -> list[str]:
    """The Python of a page, in order."""
    return [match["code"] for match in _SNIPPET.finditer(text)]


def notebook(text: str) -> str:
    """A page as a notebook that has not been run: a cell for each snippet and for what stands between them."""
    texts, codes = _SNIPPET.sub("\0", text).split("\0"), [*snippets(text), ""]
    cells: list[dict[str, Any]] = []
    for words, code in zip(texts, codes, strict=True):
        cells.append({"cell_type": "markdown", "metadata": {}, "source": words.strip()})
        cells.append(
            {
                "cell_type": "code",
                "execution_count": None,
                "metadata": {},
                "outputs": [],
                "source": code.strip(),
            }
        )
    cells = [{"id": f"cell-{i}", **cell} for i, cell in enumerate(cells) if cell["source"]]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def printed(page: Path) -> str:
    """A page with what its snippets print, which are run in an empty folder; copies the pictures that they write."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, as_main() as names:

        def run(match: re.Match[str]) -> str:
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.chdir(folder):
                exec(compile(match["code"], str(page), "exec"), names)
            lines = "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())
            shown = f"\n\n```text\n{lines}\n```" if match["printed"] else ""
            return f"```python\n{match['code']}```{shown}"

        text = _SNIPPET.sub(run, text)
        for shown in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            if (made := Path(folder) / Path(shown).name).exists():
                (page.parent / shown).parent.mkdir(exist_ok=True)
                (page.parent / shown).write_text(
                    _alone(_without_paper(made.read_text(encoding="utf-8"))), encoding="utf-8"
                )
    return text


@contextlib.contextmanager
def as_main() -> Iterator[dict[str, Any]]:
    """The names of a `__main__` that has no file, as in a notebook."""
    ours, main = sys.modules["__main__"], types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        yield main.__dict__
    finally:
        sys.modules["__main__"] = ours


def _only(study: StudyResult, names: Sequence[str]) -> StudyResult:
    """The study with these arms, if there are any, and with the primary comparisons among them."""
    if not names:
        return study
    pairs = tuple(pair for pair in study.primary if set(pair) <= set(names))
    arms = tuple(dataclasses.replace(study.arm(name), group="") for name in names)
    return dataclasses.replace(study, arms=arms, comparisons=pairs, primary=pairs)


def _answers(study: StudyResult) -> str:
    """What the comparisons show, in words."""
    return "\n".join(
        f"- {'' if judged.primary else summary.EXPLORATORY}**{tables.markdown_text(words)}**: {numbers}"
        for judged in judge(study)
        for words, numbers in [summary.verdict(judged)]
    )


def _facts(study: StudyResult) -> str:
    """What it takes to repeat the study, and what it took."""
    cells = [cell for arm in study.arms for cell in arm.cells]
    hours = sum(cell.seconds for cell in cells) / 3600
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    return (
        f"    {study.command}\n\n{len(cells)} trained models, {hours:.1f} hours of training in all; finished "
        f"{study.created[:10]}. {tables.markdown_text(versions)}; "
        f"{tables.markdown_text(str(study.extra.get('machine', 'machine not recorded')))}; commit {study.git_commit}."
    )


def _table(make: Callable[[StudyResult], tables.Grid | None]) -> Callable[[StudyResult], str]:
    def part(study: StudyResult) -> str:
        grid = make(study)
        if grid is None:
            raise ValueError(f"Study {study.name} has no such table. Take its marker out of the page.")
        return tables.for_markdown(grid)

    return part


PARTS: dict[str, Callable[[StudyResult], str]] = {
    "answers": _answers,
    "comparisons": _table(tables.comparisons),
    "costs": _table(tables.costs),
    "facts": _facts,
    "other_measures": _table(tables.other_measures),
    "scores": _table(tables.scores),
    "shipped": _table(tables.shipped),
    "tuning": _table(tables.tuning),
}


def _without_paper(picture: str) -> str:
    """A picture that a snippet wrote, dark on white, with the text colour of its page and nothing behind it."""
    return _INK.sub("currentColor", _PAPER.sub("none", picture))


def _alone(picture: str) -> str:
    """A picture that takes the text colour of its page, as a file of its own."""
    return re.sub(r"(<svg[^>]*>)", rf"\1{_COLORS}", picture.strip(), count=1) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
