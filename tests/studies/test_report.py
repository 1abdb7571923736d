import ast
import dataclasses
import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rich.console

from distill.studies import _results as results
from distill.studies import plots, read, report, statistics, tables

SEEDS = 8
# Test accuracies in percent of the last epoch, seed by seed.
NOISE = np.array([0.3, -0.1, 0.2, -0.4, 0.0, 0.1, -0.2, 0.1])
LAST = {
    "teacher": 98 + NOISE,
    "alone": 95 + NOISE,
    # Better than "alone" at p = .047, which is not enough among five comparisons.
    "smoothing": 95 + NOISE + np.array([0.3, 0.2, 0.4, 0.1, 0.5, 0.2, -0.1, -0.05]),
    "distilled": 96 + NOISE + 0.02 * np.arange(SEEDS),
    "alone-120": 77 + 4 * NOISE,
    "pseudo-labels": 94 + NOISE,
    "distilled-unlabelled": 93.5 + NOISE[::-1] / 4,
}
COMPARISONS = [
    ["alone", "distilled"],
    ["alone", "smoothing"],
    ["alone-120", "distilled-unlabelled"],
    ["pseudo-labels", "distilled-unlabelled"],
    ["smoothing", "alone"],
]


def scores(accuracy, agreement):
    wrong = 1 - accuracy / 100
    return {"accuracy": accuracy / 100, "nll": 4 * wrong, "ece": wrong / 4, "agreement": agreement}


def write_study(folder, *, seeds=SEEDS, epochs=4, **changes):
    """A made-up study: seven arms in two groups.

    Selected epochs are half a point better than last ones, those of "distilled" three quarters.
    """
    arms = []
    for name, last in LAST.items():
        cells = []
        for seed in range(seeds):
            cell = folder / "cells" / f"{name}-seed{seed}"
            cell.mkdir(parents=True)
            cells.append(str(cell.relative_to(folder)))
            epoch_lines = [
                {
                    "step": e,
                    "loss": 1.0,
                    "val_loss": 1 / (e + 1),
                    "val_accuracy": last[seed] / 100 - 0.1 / (e + 1),
                }
                for e in range(epochs)
            ]
            (cell / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in epoch_lines))
            agreement = None if name == "teacher" else 0.97
            gain = 0.75 if name == "distilled" else 0.5
            test = {"last": scores(last[seed], agreement), "selected": scores(last[seed] + gain, agreement)}
            size = 216_000 if name == "teacher" else 7_402
            result = {
                "arm": name, "seed": seed, "selected_epoch": 2, "epochs": epochs, "seconds": 9.0, "test": test,
                "dev": test, "cost": {"parameters": size, "macs": 37 * size, "file_bytes": 4 * size + 500},
            }  # fmt: skip
            if name == "distilled":
                result["cost"] |= {"nonzero": 6_910, "gzip_bytes": 7_000}
            (cell / "result.json").write_text(json.dumps(result))
        group = "120 labels" if name in list(LAST)[4:] else "full labels"
        arms.append(
            {
                "name": name,
                "label": f"{name}, T=4",
                "description": f"About {name}.",
                "group": group,
                "cells": cells,
            }
        )
    study = {
        "study": "compare",
        "title": "Does it help?",
        "question": "Is a distilled student better?",
        "command": "scripts/compare --seeds 8",
        "created": "2025-11-22T23:00:00+00:00",
        "versions": {"keras": "3.15.1"},
        "git_commit": None,
        "smoke": False,
        "notes": ["4,000 labels."],
        "arms": arms,
        "comparisons": COMPARISONS,
        "tuning": [
            {
                "arm": "distilled",
                "choices": [
                    {"settings": {"temperature": 2.0}, "dev_accuracy": 0.951},
                    {"settings": {"temperature": 4.0}, "dev_accuracy": 0.962},
                ],
                "chosen": {"temperature": 4.0},
            }
        ],
        "latency_ms": {
            "teacher": {"median": 1.2345, "low": 1.1, "high": 1.5, "runs": 200},
            "distilled": {"median": 0.0124, "low": 0.0118, "high": 0.0131, "runs": 200},
        },
    }
    (folder / "study.json").write_text(json.dumps(study | changes))
    return folder


@pytest.fixture(scope="module")
def study_dir(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study(study_dir):
    return read(study_dir)


def test_no_name_is_cut_short_in_a_terminal_of_80_columns(study):
    arm = dataclasses.replace(study.arm("distilled"), name="distilled-int8-x")
    long = dataclasses.replace(study, arms=(*study.arms, arm))
    text = terminal(long, 80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.fixture(scope="module")
def page(study):
    return report.html(study)


def terminal(study, width):
    console = rich.console.Console(width=width, file=io.StringIO())
    console.print(tables.table(study))
    return console.file.getvalue()


def row(text, name):
    """The cells of the first table row that starts with the name."""
    (line, *_) = [line for line in text.splitlines() if re.match(rf"\|? *{re.escape(name)} *(  |\|)", line)]
    return [cell.strip() for cell in re.split(r" \| |  +", line.strip("| ")) if cell.strip()]


def test_the_report_needs_no_keras_and_no_other_room():
    for module in (report, tables, plots, results, statistics):
        imported = set()
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
        assert not {name.split(".")[0] for name in imported} & {"keras", "tensorflow"}
        assert all(name.startswith("distill.studies._") for name in imported if name.startswith("distill"))


def test_read_returns_what_was_written(study):
    assert (study.name, study.title, study.smoke, study.git_commit) == (
        "compare",
        "Does it help?",
        False,
        None,
    )
    assert [arm.name for arm in study.arms] == list(LAST)
    assert study.comparisons[0] == ("alone", "distilled")
    arm = study.arm("distilled")
    assert (arm.label, arm.group) == ("distilled, T=4", "full labels")
    assert [cell.seed for cell in arm.cells] == list(range(SEEDS))
    assert arm.values(results.ACCURACY) == pytest.approx(LAST["distilled"])
    assert arm.values(results.ACCURACY, "selected") == pytest.approx(LAST["distilled"] + 0.75)
    assert arm.values(results.NLL) == pytest.approx(4 - LAST["distilled"] / 25)
    assert study.arm("teacher").values(results.AGREEMENT) is None
    cell = arm.cells[3]
    assert (cell.selected_epoch, cell.epochs, cell.seconds) == (2, 4, 9.0)
    assert cell.cost == {
        "parameters": 7402, "macs": 37 * 7402, "file_bytes": 30108, "nonzero": 6910, "gzip_bytes": 7000
    }  # fmt: skip
    assert [epoch["val_loss"] for epoch in cell.history] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert study.tuning[0].choices[1] == ({"temperature": 4.0}, 0.962)
    assert study.latency_ms["distilled"] == {"median": 0.0124, "low": 0.0118, "high": 0.0131}


def test_cells_are_paired_by_seed_whatever_their_order(tmp_path):
    write_study(tmp_path)
    raw = json.loads((tmp_path / "study.json").read_text())
    raw["arms"][3]["cells"].reverse()
    (tmp_path / "study.json").write_text(json.dumps(raw))
    assert read(tmp_path).arm("distilled").values(results.ACCURACY) == pytest.approx(LAST["distilled"])


def test_judged_comparisons_are_arm_minus_baseline_adjusted_together(study):
    judged = results.judge(study)
    assert [(j.baseline, j.arm) for j in judged] == [tuple(names) for names in COMPARISONS]
    assert judged[0].differences == pytest.approx(LAST["distilled"] - LAST["alone"])
    assert [j.adjusted.verdict for j in judged] == ["better", "not shown", "better", "worse", "not shown"]
    p_values = [statistics.compare(LAST[a], LAST[b]).p for a, b in COMPARISONS]
    assert [j.raw.p for j in judged] == pytest.approx(p_values)
    assert [j.adjusted.p for j in judged] == pytest.approx(statistics.holm(p_values))
    assert judged[1].raw.verdict == "better"
    # Lower NLL is better: the verdicts are those of accuracy, the signs are not.
    nll = results.judge(study, results.NLL)
    assert [j.adjusted.verdict for j in nll] == ["better", "not shown", "better", "worse", "not shown"]
    assert [np.sign(j.raw.difference) for j in nll] == [-1, -1, -1, 1, 1]
    assert nll[0].raw.difference == pytest.approx(-judged[0].raw.difference / 25)


def test_comparisons_without_the_measure_are_left_out(tmp_path):
    study = read(write_study(tmp_path, comparisons=[["teacher", "alone"], ["alone", "distilled"]]))
    assert [(j.baseline, j.arm) for j in results.judge(study, results.AGREEMENT)] == [("alone", "distilled")]


def test_the_terminal_table_fits_its_names(study):
    text = terminal(study, 90)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 90
    assert row(text, "distilled-unlabelled")[0:2] == ["distilled-unlabelled", "93.50 ± 0.06"]
    assert "over 8 seeds" in text
    assert len(text.splitlines()) < 70


@pytest.mark.parametrize(
    "rendered", [lambda study: terminal(study, 140), tables.markdown], ids=["rich", "markdown"]
)
def test_tables_hold_the_numbers(study, rendered):
    text = rendered(study)
    accuracy = np.array(LAST["distilled"])
    deviation = np.sqrt(np.sum((accuracy - accuracy.mean()) ** 2) / 7)
    name, last, selected, nll, ece, agreement = row(text, "distilled")
    assert name == "distilled"
    assert "mean ± standard deviation over 8 seeds" in text
    assert last == f"{accuracy.mean():.2f} ± {deviation:.2f}"
    assert selected == f"{accuracy.mean() + 0.75:.2f} ± {deviation:.2f}"
    assert nll == f"{4 - accuracy.mean() / 25:.3f} ± {deviation / 25:.3f}"
    assert ece == f"{25 - accuracy.mean() / 4:.1f} ± {deviation / 4:.1f}"
    assert agreement == "97.00 ± 0.00"
    assert row(text, "teacher")[-1] == "–"
    costs = text[text.index("latency") :]
    assert row(costs, "teacher") == ["teacher", "216k", "–", "7.99M", "864 kB", "–", "1.23 ms (1.10–1.50)"]
    assert row(costs, "distilled") == [
        "distilled",
        "7.40k",
        "6.91k",
        "274k",
        "30.1 kB",
        "7.00 kB",
        "12.4 µs (11.8–13.1)",
    ]
    assert row(costs, "alone")[-1] == "–"
    compared = text[text.index("verdict") :]
    first = results.judge(study)[0]
    assert row(compared, "distilled − alone") == [
        "distilled − alone", "+1.07", f"{first.raw.low:+.2f} to {first.raw.high:+.2f}", "0.008", "0.039", "better",
        "+1.32",
    ]  # fmt: skip
    assert "distilled-unlabelled is worse than pseudo-labels" in text.replace("\\-", "-")
    assert "no difference shown between smoothing and alone" in text
    for words in ("read once", "Last epoch", "Dev-selected", "mean ± standard deviation", "Holm"):
        assert words in text


def test_verdicts_in_words(study):
    words, numbers = tables.verdict(results.judge(study)[0])
    low, high = results.judge(study)[0].raw.low, results.judge(study)[0].raw.high
    verdicts = ["better", "not shown", "better", "worse", "not shown"]
    assert [row[5] for row in tables.comparisons(study).rows] == verdicts
    assert words == "distilled is better than alone"
    assert numbers == f"+1.07 points, 95 % interval {low:+.2f} to {high:+.2f}"


def test_other_measures_and_tuning(study):
    grid = tables.other_measures(study)
    assert len(grid.rows) == 2 * len(COMPARISONS)
    assert grid.rows[0][:3] == ("distilled − alone", "NLL (nats)", "-0.043")
    assert grid.rows[5][:3] == ("distilled − alone", "ECE (points)", "-0.3")
    assert {r[-1] for r in grid.rows} == {"better", "worse", "not shown"}
    assert tables.tuning(study).rows == (
        ("distilled", "temperature = 2.0", "95.10", ""),
        ("distilled", "temperature = 4.0", "96.20", "chosen"),
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (7402, "7.40k"),
        (21_640, "21.6k"),
        (215_946, "216k"),
        (4.1e9, "4.10G"),
    ],
)
def test_counts_are_short(number, text):
    assert tables.count(number) == text


def test_a_smoke_run_and_too_few_seeds_are_said_first(tmp_path, study):
    assert tables.remarks(study) == []
    few = read(write_study(tmp_path, seeds=5, smoke=True))
    (smoke, power) = tables.remarks(few)
    assert smoke == tables.SMOKE
    assert power.startswith("Too few seeds: 5 comparisons, adjusted together, need 8 seeds")
    for text in (terminal(few, 140), tables.markdown(few), report.html(few)):
        assert (
            text.index("Smoke run")
            < text.index("Too few seeds: 5 comparisons")
            < text.index("no difference shown")
        )


class Page(HTMLParser):
    """Collects what a page shows and loads."""

    VOID = ("meta", "br", "use", "path")

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
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_nothing_else(page):
    text, page = page, Page(page)
    assert not page.open
    assert page.tags.count("svg") == 3
    assert len(page.ids) == len(set(page.ids)) > 100
    assert {link.lstrip("#") for link in page.loads} <= set(page.ids)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert "@import" not in text
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)


def test_the_page_answers_first_and_tells_the_rest(page):
    text = Page(page).text
    order = [
        "Does it help?", "Is a distilled student better?", "distilled is better than alone",
        "distilled-unlabelled is worse than pseudo-labels", "read once", "Paired comparisons", "Negative is better",
        "Accuracy against size", "Learning curves", "About distilled.", "temperature = 4.0", "4,000 labels.",
        "scripts/compare --seeds 8", "commit none", "keras 3.15.1",
    ]  # fmt: skip
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)


def test_figures_are_described_and_follow_the_text_colour(study):
    for figure in (plots.forest(study), plots.curves(study), plots.size(study)):
        assert figure.startswith('<svg role="img" aria-label="')
        assert figure.rstrip().endswith("</svg>")
        assert "currentColor" in figure
        assert "#010203" not in figure
    assert "distilled minus alone +1.07 points" in plots.forest(study)
    assert "alone-120 77.00 % with 7402 parameters" in plots.size(study)


def test_colours_are_those_of_the_verdicts(study, page):
    figure = plots.forest(study)
    for color in plots.VERDICTS.values():
        assert color.lower() in figure
    answers = re.findall(r'--verdict: (#\w+)"><b>([^<]*)', page)
    assert [color for color, _ in answers] == [
        plots.VERDICTS[v] for v in ("better", "not shown", "better", "worse", "not shown")
    ]  # fmt: skip


def test_curves_are_of_the_epochs_that_all_seeds_have(tmp_path, study):
    values = plots._history(study.arm("alone"), "val_accuracy")
    assert values.shape == (SEEDS, 4)
    np.testing.assert_allclose(values[:, 3], LAST["alone"] / 100 - 0.1 / 4)
    assert plots._history(study.arm("alone"), "unknown") is None
    write_study(tmp_path)
    log = tmp_path / "cells/alone-seed2/metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    np.testing.assert_allclose(plots._history(read(tmp_path).arm("alone"), "val_accuracy"), values[:, :3])


def test_what_has_no_curve_has_no_panel_and_names_of_sizes_lie_apart(study, monkeypatch):
    monkeypatch.setattr(plots, "svg", lambda figure, *names: figure)
    groups = list(dict.fromkeys(arm.group for arm in study.arms))
    assert len(groups) > 1
    sizes = itertools.cycle((1000, 1400, 1600, 5000))
    arms = []
    for arm in study.arms:
        cells = [
            dataclasses.replace(
                cell,
                history=() if arm.group == groups[-1] else cell.history,
                cost={**cell.cost, "parameters": size},
            )
            for cell, size in zip(arm.cells, [next(sizes)] * len(arm.cells), strict=True)
        ]
        arms.append(dataclasses.replace(arm, cells=tuple(cells)))
    changed = dataclasses.replace(study, arms=tuple(arms))
    assert [axes.get_title(loc="left") for axes in plots.curves(changed).axes[: len(groups) - 1]] == groups[
        :-1
    ]
    assert len(plots.curves(changed).axes) == 2 * (len(groups) - 1)
    ticks = [label.get_text() for label in plots.size(changed).axes[0].get_xticklabels()]
    assert ticks == ["1.00k", "1.60k", "5.00k"]


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
    assert "script" not in page.tags
    assert (
        page.text.count("<script>alert(1)</script> [bold]x[/bold]") == 2 + 1 + 2 * 2 + 2 * 7 + 2 + 1 + 1 + 2
    )
    assert terminal(study, 400).count("</style><script>alert(1)</script> [bold]x[/bold] |") == 2 + 2 * 2
    text = tables.markdown(study)
    # The command is an indented block, where nothing is markup.
    prose = [line for line in text.splitlines() if not line.startswith("    ")]
    assert len(prose) == len(text.splitlines()) - len(NASTY.splitlines())
    assert not re.search(r"(?<!\\)[<&`]", "\n".join(prose))
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (0, 6, 7, 8) for line in prose)


@pytest.mark.parametrize("changes", [{"comparisons": [], "tuning": [], "notes": []}, {"latency_ms": {}}])
def test_optional_parts_may_be_empty(tmp_path, changes):
    study = read(write_study(tmp_path, **changes))
    page = Page(report.html(study))
    assert ("Paired comparisons" in page.text) == ("comparisons" not in changes)
    assert ("Chosen on dev" in page.text) == ("tuning" not in changes)
    assert tables.markdown(study).endswith("\n")
    assert terminal(study, 100)


def test_what_a_phone_gets_is_compared_with_the_first_file(tmp_path):
    study = read(write_study(tmp_path, litert_bytes={"teacher": 400_000, "distilled": 30_000}))
    (grid,) = tables.shipped(study)
    assert [row[0] for row in grid.rows] == ["teacher", "distilled"]
    assert grid.rows[0][2:] == ("400 kB", "1.0", "1.23 ms (1.10–1.50)", "1.0")
    assert grid.rows[1][2:] == ("30.0 kB", "13.3", "12.4 µs (11.8–13.1)", "99.6")
    assert grid.rows[1][1] == next(row[1] for row in tables.scores(study).rows if row[0] == "distilled")
    for text in (report.html(study), tables.markdown(study), terminal(study, 100)):
        assert "What a phone gets" in text
    assert tables.shipped(read(write_study(tmp_path / "none"))) == []


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
    assert sorted(p.name for p in study_dir.iterdir()) == ["cells", "report.html", "study.json"]


def test_a_report_that_cannot_be_put_in_place_leaves_the_older_one(study_dir, monkeypatch):
    def fail(draft, path):
        raise PermissionError(path)

    (study_dir / "report.html").write_text("older")
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError):
        report.write(study_dir)
    assert (study_dir / "report.html").read_text() == "older"
    assert sorted(p.name for p in study_dir.iterdir()) == ["cells", "report.html", "study.json"]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: (d / "study.json").unlink(),
            r"Received: \S*/study\.json, .*FileNotFoundError.*Run the study's",
        ),
        (lambda d: (d / "study.json").write_text("{"), r"/study\.json, .*JSONDecodeError"),
        (lambda d: (d / "study.json").write_text("[]"), r"/study\.json, .*TypeError"),
        (lambda d: edit(d / "study.json", arms=[{}]), r"/study\.json, .*KeyError: 'cells'"),
        (
            lambda d: edit(d / "study.json", comparisons=[["alone", "nobody"]]),
            r"/study\.json, .*KeyError: 'nobody'",
        ),
        (
            lambda d: (d / "cells/alone-seed3/result.json").unlink(),
            r"/cells/alone-seed3/result\.json, .*NotFound",
        ),
        (
            lambda d: (d / "cells/alone-seed3/metrics.jsonl").unlink(),
            r"/alone-seed3/metrics\.jsonl, .*NotFound",
        ),
        (
            lambda d: (d / "cells/alone-seed3/metrics.jsonl").write_text('{"a": 1'),
            r"/alone-seed3/metrics\.jsonl",
        ),
        (
            lambda d: edit(d / "cells/alone-seed3/result.json", test={"last": {}}),
            r"result\.json, .*'accuracy'",
        ),
        (
            lambda d: edit(
                d / "cells/alone-seed3/result.json",
                test=dict.fromkeys(results.EPOCHS, scores(90.0, 0.9) | {"nll": None}),
            ),
            r"alone-seed3/result\.json, .*TypeError",
        ),
        (
            lambda d: edit(d / "cells/alone-seed3/result.json", cost={}),
            r"result\.json, .*KeyError: 'parameters'",
        ),
        (
            lambda d: edit(d / "cells/alone-seed3/result.json", seed=9),
            r"study\.json, .*has seeds \[0, .*, 9\]",
        ),
        (
            lambda d: edit(d / "cells/alone-seed3/result.json", arm="x"),
            r"study\.json, .*arm alone lists 8 .*'x'",
        ),
        (
            lambda d: edit(
                d / "cells/alone-seed3/result.json",
                dev=dict.fromkeys(results.EPOCHS, scores(float("nan"), 0.9)),
            ),
            r"alone-seed3/result\.json, .*accuracy is nan",
        ),
    ],
)
def test_what_is_missing_or_broken_is_named(tmp_path, damage, message):
    folder = write_study(tmp_path)
    (folder / "report.html").write_text("older")
    damage(folder)
    with pytest.raises(results.BrokenStudyError, match=message):
        report.write(folder)
    assert (folder / "report.html").read_text() == "older"
