"""A study in words and tables: what is said first, and how it fits a terminal."""

import dataclasses

import pytest

from distill.studies import (
    judge,
    read,
    report,
    summary,
    tables,
)
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
    low, high = judge(study)[0].raw.low, judge(study)[0].raw.high
    verdicts = ["better", "not shown", "better", "worse", "not shown"]
    assert [row[5] for row in tables.comparisons(study).rows] == verdicts
    assert words == "distilled is better than alone"
    assert numbers == f"+1.07 points, 95% interval {low:+.2f} to {high:+.2f}"


def test_a_smoke_run_and_too_few_seeds_are_said_first(tmp_path, study):
    assert summary.remarks(study) == []
    few = read(write_study(tmp_path, seeds=5, smoke=True))
    (smoke, power) = summary.remarks(few)
    assert smoke == summary.SMOKE
    assert power.startswith(
        "Too few seeds: at least 8 are needed to show 5 comparisons that are adjusted together."
    )
    for text in (terminal(few, 140), summary.markdown(few), report.html(few)):
        assert (
            text.index("Smoke run")
            < text.index("Too few seeds: at least 8")
            < text.index("no difference shown")
        )
