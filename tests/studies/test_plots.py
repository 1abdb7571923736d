"""The figures of a study."""

import dataclasses
import itertools

import numpy as np
import pytest

from distill.studies import (
    plots,
    read,
)
from tests.studies.made_up import LAST, SEEDS, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return read(write_study(tmp_path_factory.mktemp("study")))


def test_figures_are_described_and_follow_the_text_colour(study):
    for figure in (plots.forest(study), plots.curves(study), plots.size(study)):
        assert figure.startswith('<svg role="img" aria-label="')
        assert figure.rstrip().endswith("</svg>")
        assert "currentColor" in figure
        assert "#010203" not in figure
    assert "distilled minus alone +1.07 points" in plots.forest(study)
    assert "alone-120 77.00% with 7402 parameters" in plots.size(study)


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
    monkeypatch.setattr(plots, "svg", lambda figure, **names: figure)
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
