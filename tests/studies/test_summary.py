"""A study in words and tables: what is said first, and how it fits a terminal."""

import dataclasses
import re

import numpy as np
import pytest

from distill.studies import BrokenStudyError, judge, read, report, statistics, summary, tables
from tests.studies.made_up import row, terminal, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read(write_study(tmp_path_factory.mktemp("study")))


def test_no_name_is_cut_short_in_a_terminal_of_80_columns(study):
    arm = dataclasses.replace(study.arm("distilled"), name="distilled-int8-x")
    long = dataclasses.replace(study, arms=(*study.arms, arm))
    text = terminal(long, 80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_terminal_table_fits_its_names(study):
    text = terminal(study, 90)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 90
    assert row(text, "distilled-unlabelled")[0:2] == ["distilled-unlabelled", "93.50 ± 0.06"]
    assert "over 8 seeds" in text
    assert len(text.splitlines()) < 70


def test_verdicts_in_words(study):
    words, numbers = summary.verdict(judge(study)[0])
    low, high = judge(study)[0].adjusted.low, judge(study)[0].adjusted.high
    verdicts = ["better", "not shown", "better", "worse", "not shown"]
    assert [row[5] for row in tables.comparisons(study).rows] == verdicts
    assert words == "distilled is better than alone"
    assert numbers == f"+1.07 points, 99% interval {low:+.2f} to {high:+.2f}"


def test_the_terminal_says_by_what_arms_are_compared(study):
    assert "\nCompared by accuracy on test; higher is better:\ndistilled is better than alone" in terminal(
        study, 240
    )
    measures = tuple(sorted(study.measures, key=lambda one: one.key != "nll"))
    by_errors = terminal(dataclasses.replace(study, measures=measures, question=""), 240)
    assert by_errors.startswith("Does it help?\n\n8 seeds")  # without a question, no empty line for it
    assert "\nCompared by NLL on test; lower is better:\n" in by_errors
    uncompared = dataclasses.replace(study, comparisons=(), primary=())
    assert "Compared by" not in terminal(uncompared, 240)


def test_a_smoke_run_and_what_seeds_cannot_show_are_said_first(tmp_path):
    few = read(write_study(tmp_path, smoke=True))
    smoke, power, other = summary.remarks(few)
    assert smoke == summary.SMOKE
    found = statistics.detectable(judge(few)[1].raw.deviation, 8, comparisons=5)
    assert power == (
        f"8 seeds are too few to tell smoothing from alone unless they differ by {found:.2g} points or more, which is "
        "shown with 95% probability."
    )
    assert other.startswith("8 seeds are too few to tell alone from smoothing")
    noise = np.array([1, -1] * 4) * 60.0
    assert statistics.detectable(noise.std(ddof=1), 8) > 90  # which is said without an exponent
    cells = [
        dataclasses.replace(cell, test=cell.test | {"accuracy": 0.5 + value / 100})
        for cell, value in zip(few.arm("smoothing").cells, noise, strict=True)
    ]
    wild = dataclasses.replace(few.arm("smoothing"), cells=tuple(cells))
    arms = tuple(wild if arm.name == "smoothing" else arm for arm in few.arms)
    assert re.search(r"differ by \d+ points", summary.power(dataclasses.replace(few, arms=arms))[0])
    assert tables.comparisons(few).rows[1][6] == f"{found:.2f}"
    for text in (terminal(few, 240), summary.markdown(few)):
        assert text.index("Smoke run") < text.index("8 seeds are too few") < text.index("no difference shown")
    text = report.html(few)  # where the verdicts come first
    assert text.index("Smoke run") < text.index("no difference shown") < text.index("8 seeds are too few")


def test_exploratory_comparisons_are_marked_and_come_last(tmp_path):
    study = read(write_study(tmp_path, primary=[["alone", "distilled"], ["smoothing", "alone"]]))
    judged = judge(study)
    assert [(one.arm, one.primary, one.together) for one in judged] == [
        *(("distilled", True, 2), ("alone", True, 2), ("smoothing", False, 3)),
        *(("distilled-unlabelled", False, 3), ("distilled-unlabelled", False, 3)),
    ]
    assert [one.adjusted.p / one.raw.p for one in judged[:2]] == pytest.approx([2, 1])
    for text in (terminal(study, 240), summary.markdown(study), report.html(study)):
        plain = re.sub(r"</?b>|\*|\\", "", text)
        assert "exploratory: distilled-unlabelled is worse than pseudo-labels" in plain
        assert "exploratory: distilled is better" not in plain
    counted = "<summary>3 exploratory comparisons: 2 better, 1 worse</summary>"
    assert f'<details class="exploratory">\n{counted}' in report.html(study)
    unasked = report.html(read(write_study(tmp_path / "unasked", primary=[])))
    assert (
        '<details class="exploratory" open>\n<summary>5 exploratory' in unasked
    )  # nothing stands before them


def test_a_primary_comparison_must_be_a_comparison(tmp_path):
    with pytest.raises(BrokenStudyError, match=r"\[\('alone', 'teacher'\)\] are primary, but no comparisons"):
        read(write_study(tmp_path, primary=[["alone", "teacher"]]))
