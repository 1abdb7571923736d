"""Comparisons are paired by seed and adjusted together."""

import dataclasses

import numpy as np
import pytest

from distill.studies import AGREEMENT, NLL, judge, read, statistics
from tests.studies.made_up import COMPARISONS, LAST, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read(write_study(tmp_path_factory.mktemp("study")))


def test_judged_comparisons_are_arm_minus_baseline_adjusted_together(study):
    judged = judge(study)
    assert [(j.baseline, j.arm) for j in judged] == [tuple(names) for names in COMPARISONS]
    assert judged[0].differences == pytest.approx(LAST["distilled"] - LAST["alone"])
    assert [j.adjusted.verdict for j in judged] == ["better", "not shown", "better", "worse", "not shown"]
    p_values = [statistics.compare(LAST[a], LAST[b]).p for a, b in COMPARISONS]
    assert [j.raw.p for j in judged] == pytest.approx(p_values)
    assert [j.adjusted.p for j in judged] == pytest.approx(statistics.holm(p_values))
    assert judged[1].raw.verdict == "better"
    # Lower NLL is better, so verdicts are those of accuracy, with opposite signs.
    nll = judge(study, measure=NLL)
    assert [j.adjusted.verdict for j in nll] == ["better", "not shown", "better", "worse", "not shown"]
    assert [np.sign(j.raw.difference) for j in nll] == [-1, -1, -1, 1, 1]
    assert nll[0].raw.difference == pytest.approx(-judged[0].raw.difference / 25)


def test_arms_are_paired_by_the_seeds_that_both_have(study):
    """Each lacks a seed of the other, in the middle."""
    missing = {"alone": 2, "distilled": 5}
    arms = tuple(
        dataclasses.replace(
            arm, cells=tuple(cell for cell in arm.cells if cell.seed != missing.get(arm.name))
        )
        for arm in study.arms
    )
    (judged,) = judge(
        dataclasses.replace(study, arms=arms, comparisons=COMPARISONS[:1], primary=COMPARISONS[:1])
    )
    assert judged.seeds == (0, 1, 3, 4, 6, 7)
    assert judged.differences == pytest.approx((LAST["distilled"] - LAST["alone"])[[0, 1, 3, 4, 6, 7]])


def test_primary_comparisons_are_adjusted_among_themselves(tmp_path):
    study = read(write_study(tmp_path, primary=COMPARISONS[1:2]))
    judged = judge(study)
    assert [one.primary for one in judged] == [True] + [False] * 4
    assert [one.together for one in judged] == [1] + [4] * 4
    assert judged[0].arm == "smoothing"
    assert judged[0].adjusted.p == judged[0].raw.p  # one alone
    assert judged[0].adjusted.verdict == "better"  # which it is not among five


def test_comparisons_without_the_measure_are_left_out(tmp_path):
    study = read(write_study(tmp_path, comparisons=[["teacher", "alone"], ["alone", "distilled"]]))
    assert [(j.baseline, j.arm) for j in judge(study, measure=AGREEMENT)] == [("alone", "distilled")]
