"""Verdicts that are printed before a study ends."""

import re

import numpy as np
import pytest
from scipy import stats

from distill import studies
from distill.studies import _early
from distill.studies._early import early_verdicts, stages
from tests.studies.tiny import classifier, run, study_of


def low(run):
    return classifier(0.1 + 0.1 * run.seed)


def high(run):
    assert run.model("low")
    return classifier(5.0 + run.seed)


def sharper(run):
    return classifier(5.0 + run.seed)


def last(run):
    return classifier(0.2 + 0.1 * run.seed)


def failing(run):
    raise ZeroDivisionError("as told")


def needing(run):
    return run.model("failing")


def study():
    made = study_of((last, {}), (low, {}), (high, {"needs": "low"}), seeds=4)
    made.compare("high", "low")
    made.compare("last", "low")
    return made


def test_arms_of_the_first_comparison_come_first():
    assert stages(study().design) == [["low", "high"], ["last"]]
    assert stages(study().design.only(["last"])) == [["last"]]
    more = study_of((last, {}), (low, {}), (high, {"needs": "low"}))
    assert stages(more.design) == [["last", "low", "high"]]
    more.compare("high", "last", primary=False)
    assert stages(more.design) == [["last", "low", "high"]]
    more.compare("last", "high")
    assert stages(more.design) == [["last", "low", "high"]]


def test_a_verdict_that_stands_is_printed_before_the_others(here, bare, tmp_path, capsys):
    found = run(study(), tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    differences = np.subtract(*(found.arm(name).values(studies.ACCURACY) for name in ("high", "low")))
    # Of two comparisons, so at half the level.
    half = stats.t.ppf(1 - 0.025 / 2, 3) * differences.std(ddof=1) / 2
    mean = differences.mean()
    said = f"high is better than low: {mean:+.2f} points, 97.5% interval {mean - half:+.2f} to {mean + half:+.2f}"
    assert shown.count("so far: ") == 1
    assert f"so far: {said}" in shown
    before, after = shown.split(f"so far: {said}")
    assert "high seed 3" in before
    assert "last seed 0" not in before
    assert "last seed 0" in after


@pytest.mark.parametrize(("mean", "count"), [(2.0, 0), (2.6, 1)])  # p of .04 and .02
def test_what_the_other_comparison_can_change_is_not_a_verdict_yet(mean, count, monkeypatch, tmp_path):
    monkeypatch.setattr(_early, "_scores", lambda scores, *_: scores or None)
    scores = {
        "low": dict.fromkeys(range(4), 10.0),
        "high": {seed: 10 + mean + (-1) ** seed for seed in range(4)},
        "last": {},
    }
    assert len(early_verdicts(study().design, scores, tmp_path)) == count


@pytest.mark.parametrize("options", [{"smoke": True}, {"budget": 60.0}, {"arms": ["high"]}])
def test_nothing_is_said_where_numbers_mean_nothing_or_the_report_follows(
    options, here, bare, tmp_path, capsys
):
    run(study(), tmp_path, **options)
    assert "so far" not in capsys.readouterr().out


def test_what_needs_a_cell_that_failed_before_is_not_tried(here, bare, tmp_path, capsys):
    made = study_of((low, {}), (failing, {}), (needing, {"needs": "failing"}))
    made.compare("failing", "low")
    made.compare("needing", "low")
    found = run(made, tmp_path)
    shown = capsys.readouterr().out
    assert shown.count("ZeroDivisionError: as told") == 2  # once a seed
    assert "FileNotFoundError" not in shown
    assert [arm.name for arm in found.arms] == ["low"]


def test_what_needs_a_cell_that_fails_beside_it_is_not_tried(here, bare, tmp_path, capsys):
    made = study_of((low, {}), (failing, {}), (needing, {"needs": "failing"}))
    made.compare("needing", "failing")
    found = run(made, tmp_path)
    shown = capsys.readouterr().out
    assert shown.count("ZeroDivisionError: as told") == 2  # once a seed
    assert shown.count("Traceback") == 1  # of the first, whose failure is that of the second
    assert re.search(r"Cell failing-seed\d-\w+ failed where failing-seed\d-\w+ did: ZeroDivisionError", shown)
    assert "FileNotFoundError" not in shown
    assert "needing: " not in shown
    assert [arm.name for arm in found.arms] == ["low"]


HISTORY = {}


def remembers(run):
    HISTORY[str(run.seed)] = 1.0
    return classifier(9.0)


def reads(run):
    return run.model("remembers")


def test_what_a_study_does_to_its_file_and_variables_loses_no_later_stage(here, bare, tmp_path):
    """Digests of the code are taken once, before anything runs."""
    made = study_of((remembers, {}), (last, {}), (reads, {"needs": "remembers"}))
    made.compare("last", "remembers")
    assert [arm.name for arm in run(made, tmp_path).arms] == ["remembers", "last", "reads"]


def test_a_budget_shows_no_verdict_before_its_last_seed(here, bare, tmp_path, capsys):
    made = study_of((low, {}), (high, {"needs": "low"}), (failing, {}), seeds=4)
    made.compare("high", "low")
    run(made, tmp_path, budget=60.0)
    assert "so far" not in capsys.readouterr().out


def test_names_in_brackets_are_printed_whole(here, bare, tmp_path, capsys):
    made = study_of((last, {}), seeds=4)
    made.arm(low, name="kd[t=2]")
    made.arm(sharper, name="kd[t=4]")
    made.compare("kd[t=4]", "kd[t=2]")
    made.compare("last", "kd[t=2]")
    run(made, tmp_path)
    shown = " ".join(capsys.readouterr().out.split())
    assert "so far: kd[t=4] is better than kd[t=2]:" in shown
    assert "cells, kd[t=2], kd[t=4]: 8 of 8 cells (" in shown
