"""The report: one page that is whole, needs nothing else and answers first."""

import ast
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distill.studies import (
    charts,
    plots,
    read,
    report,
    summary,
    tables,
)
from tests.studies.made_up import row, terminal, write_study


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study(study_dir):
    return read(study_dir)


@pytest.fixture(scope="module")
def page(study):
    return report.html(study)


ROOM = Path(report.__file__).parent
PURE = (
    *("charts", "curves", "details", "forest", "grids", "insides", "judging", "labels", "levels", "measures"),
    *(
        "merging",
        "metrics",
        "notebook",
        "page",
        "pareto",
        "pictures",
        "plots",
        "reading",
        "report",
        "results",
    ),
    *("sections", "statistics", "summary", "tables", "trade"),
)


def test_reports_need_no_keras_and_no_other_room():
    for module in PURE:
        imported = set()
        for node in ast.walk(ast.parse((ROOM / f"_{module}.py").read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
        assert not {name.split(".")[0] for name in imported} & {"keras", "tensorflow"}
        own = ("distill.studies", "distill._atomic", "distill._extras")
        assert all(name.startswith(own) for name in imported if name.startswith("distill")), module


class Page(HTMLParser):
    """Collects what a page shows and loads."""

    VOID = ("meta", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.loads, self.open, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        self.loads += [
            value for key, value in attrs if key in ("src", "href", "xlink:href", "data", "poster")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open:
            self.text += data


def test_the_page_is_whole_and_needs_nothing_else(page):
    text, page = page, Page(page)
    assert not page.open
    # Still pictures of what scripts draw: three of costs, two groups of comparisons and of curves.
    assert page.tags.count("figure") == 3 + 2 + 4
    assert page.tags.count("script") == 3 + 2 + 4 + 2
    assert len(page.ids) == len(set(page.ids))
    assert {link.lstrip("#") for link in page.loads} <= set(page.ids)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in text
    assert "@import" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_the_page_answers_first_and_tells_the_rest(page):
    text = Page(page).text
    order = [
        "Does it help?", "Is a distilled student better?", "distilled is better than alone",
        "distilled-unlabelled is worse than pseudo-labels", "8 seeds are too few", "4,000 labels.",
        "Better is up and to the left", "Dominated: alone by distilled", "read once",
        "Diamond: mean difference", "adjustment is made within each measure", "Mean over seeds",
        "About distilled.", "temperature = 4.0", "scripts/compare --seeds 8", "commit none", "keras 3.15.1",
    ]  # fmt: skip
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)


def test_colours_are_those_of_the_verdicts(study, page):
    drawn = "".join(picture.svg for picture in charts.forest(study))
    for color in plots.VERDICTS.values():
        assert f'fill="{color}"' in drawn
    answers = re.findall(r'--verdict: (#\w+)"><b>([^<]*)', page)
    assert [color for color, _ in answers] == [
        plots.VERDICTS[v] for v in ("better", "not shown", "better", "worse", "not shown")
    ]  # fmt: skip


NASTY = "--> $\\frac$ </style><script>alert(1)</script> [bold]x[/bold] | `a` *b* & \"c\" 'd'\n# e"


def test_whatever_files_hold_is_text(tmp_path):
    folder = write_study(
        tmp_path, title=NASTY, question=NASTY, command=NASTY, notes=[NASTY], versions={NASTY: NASTY}
    )
    raw = json.loads((folder / "study.json").read_text())
    for arm in raw["arms"]:
        arm |= {"label": NASTY, "description": NASTY, "group": NASTY + arm["group"]}
    raw["tuning"][0]["choices"][0]["settings"] = {NASTY: NASTY}
    (folder / "study.json").write_text(json.dumps(raw))
    study = read(folder)
    page = Page(report.html(study))
    assert page.tags.count("script") == 3 + 2 + 4 + 2  # those of the page itself
    assert page.text.count("<script>alert(1)</script> [bold]x[/bold]") > 30
    assert terminal(study, 400).count("</style><script>alert(1)</script> [bold]x[/bold] |") == 2 + 2 * 2
    text = summary.markdown(study)
    # The command is an indented block, in which nothing is markup.
    prose = [line for line in text.splitlines() if not line.startswith("    ")]
    assert len(prose) == len(text.splitlines()) - len(NASTY.splitlines())
    assert not re.search(r"(?<!\\)(?:[<`]|&(?!(?:lt|gt|amp);))", "\n".join(prose))
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (0, 6, 7, 8, 9) for line in prose)


@pytest.mark.parametrize("changes", [{"comparisons": [], "tuning": [], "notes": []}, {"latency_ms": {}}])
def test_optional_parts_may_be_empty(tmp_path, changes):
    study = read(write_study(tmp_path, **changes))
    page = Page(report.html(study))
    assert ("Paired comparisons" in page.text) == ("comparisons" not in changes)
    assert ("median and quartiles" in page.text) == ("latency_ms" not in changes)
    assert ("Chosen on dev" in page.text) == ("tuning" not in changes)
    assert summary.markdown(study).endswith("\n")
    assert terminal(study, 100)


def test_one_seed_one_epoch_and_unknown_costs(tmp_path):
    folder = write_study(tmp_path, seeds=1, epochs=1)
    for path in folder.glob("cells/*/result.json"):
        raw = json.loads(path.read_text()) | {"cost": {"parameters": None, "macs": None, "file_bytes": None}}
        path.write_text(json.dumps(raw))
    (folder / "cells/alone-seed0/metrics.jsonl").write_text("")
    study = read(folder)
    assert not Page(report.html(study)).open
    assert row(terminal(study, 100), "alone")[1] == "95.30"
    assert tables.comparisons(study).rows[0][2:6] == ("–", "1.000", "1.000", "not shown")
    assert tables.costs(study).rows[1] == ("teacher", "–", "–", "–", "–", "–", "1.23 ms (1.10–1.50)")


def test_write_replaces_the_report_at_once_with_the_same_page(study_dir, page):
    (study_dir / "report.html").write_text("older")
    path = report.write(str(study_dir))
    assert path == study_dir / "report.html"
    assert path.read_text(encoding="utf-8") == page
    assert sorted(p.name for p in study_dir.iterdir()) == ["cells", "report", "report.html", "study.json"]


def test_a_report_that_cannot_be_put_in_place_leaves_the_older_one(study_dir, monkeypatch):
    def fail(draft, path):
        raise PermissionError(path)

    (study_dir / "report.html").write_text("older")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError):
        report.write(study_dir)
    assert (study_dir / "report.html").read_text() == "older"
    assert sorted(p.name for p in study_dir.iterdir()) == ["cells", "report", "report.html", "study.json"]
