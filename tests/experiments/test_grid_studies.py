"""The studies of grids: what their arms see and choose from, what their sections draw, and smoke runs."""

from unittest import mock

import keras
import numpy as np
import pytest

import distill
from distill import studies
from experiments import patience, series, sizes, temperature, transfer

STUDIES = [patience, sizes, temperature, transfer]
RECORDED = [sizes, temperature]  # whose teachers answer once


@pytest.fixture
def run(tmp_path):
    """3,000 examples with ten labels, as the studies' own."""

    def made(shape):
        x = np.random.default_rng(0).normal(size=(3000, *shape)).astype("float32")
        split = x, np.arange(3000) % 10
        return studies.Run(
            seed=3, train=split, dev=split, callbacks=[], directory=tmp_path, smoke=False, _files={}
        )

    return made


@pytest.mark.parametrize("module", STUDIES, ids=lambda module: module.__name__)
@pytest.mark.sweep(1)
def test_pairs_differ_in_the_teacher_alone(module, run, monkeypatch):
    """Both of a pair have the same network, examples, labels and steps, and choose from as many settings."""
    run = run((40, 1) if module in (patience, sizes) else (8, 8, 1))
    arms, begun, seen, asked = module.study.design.arms, {}, [], []

    def fit(model, examples, run, *, epochs, rate, places=0):
        if not asked:
            shown = examples[0], examples[1].argmax(axis=1)
            if module in RECORDED and isinstance(model, distill.Distiller):
                shown = examples[0].inputs, shown[1]
                np.testing.assert_array_equal(examples[0].ids, np.arange(3000))
            seen.append((getattr(model, "student", model).count_params(), epochs, rate, places, *shown))

    def model(_, needed):
        asked.append(needed)  # which is not what is looked at
        made = arms[needed].function(run, **arms[needed].settings)
        asked.pop()
        return made

    def answers(run, needed):
        teacher = model(run, needed)
        teacher.with_ids = lambda x: distill.Identified(x, np.arange(len(x)))
        return teacher

    for one in (module, series):
        monkeypatch.setattr(one, "fit", fit)
    monkeypatch.setattr(studies.Run, "model", model)
    if module in RECORDED:
        monkeypatch.setattr(module, "record_answers", lambda network, run: None)
        monkeypatch.setattr(module, "recorded_answers", answers)
    for name, arm in arms.items():
        arm.function(run, **arm.settings)
        begun[name] = seen.pop()
    pairs = module.study.design.comparisons
    assert len(pairs) > 3
    for baseline, arm in pairs:
        for one, other in zip(begun[baseline], begun[arm], strict=True):
            np.testing.assert_array_equal(one, other)
        if arms[baseline].tune and arms[arm].tune:
            assert len(arms[arm].trials) == len(arms[baseline].trials) == 4


def test_examples_and_wrong_labels_are_drawn_by_seed(run):
    run = run((8, 8, 1))
    for count in transfer.EXAMPLES:
        rows = transfer.seen(run, count)
        assert len(rows) == 3000
        assert len(set(rows)) == count
        assert np.bincount(run.train[1][list(set(rows))]).tolist() == [count // 10] * 10
    for wrong in (0, 20, 40):
        labels = transfer.labels_of(run, wrong)
        assert (labels != run.train[1]).sum() == 30 * wrong
        assert set(labels) == set(range(10))
    np.testing.assert_array_equal(run.train[1], np.arange(3000) % 10)  # which are as they were


@pytest.mark.slow
@pytest.mark.parametrize("module", STUDIES, ids=lambda module: module.__name__)
@pytest.mark.timeout(1200)  # up to 30 arms, each in seconds of a slow core
def test_a_smoke_run_of_all_arms_of_a_grid(module, tmp_path):
    found = module.study.run(
        out=tmp_path,
        smoke=True,
        seeds=2,
        arms="all",
        jobs=2,
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert [arm.name for arm in found.arms] == list(module.study.design.arms)
    assert keras.models.load_model(next(tmp_path.glob("*/cells/*/model.keras"))).output_shape == (None, 10)


def test_the_heat_map_has_a_place_for_each_pair():
    """Two arms of the grid: their scores on dev, and the others' places without one."""

    arms = [scored(temperature.name_of(1.0, 0.1), 0.5), scored(temperature.name_of(4.0, 0.1), 0.75)]
    figure, text = temperature.accuracy_on_dev(mock.Mock(arms=arms))
    drawn = [one.get_text() for one in figure.axes[0].texts]
    places = len(temperature.TEMPERATURES)
    assert len(drawn) == places * len(temperature.WEIGHTS)
    assert drawn[places] == "50.00"
    assert drawn[places + 2] == "75.00"
    assert drawn.count("–") == len(drawn) - 2
    assert "Without a teacher" not in text
    arms.append(scored("alone", 0.25))
    _, text = temperature.accuracy_on_dev(mock.Mock(arms=arms))
    assert "Without a teacher it is 25.00." in text


def scored(name, accuracy):
    """An arm with one cell."""
    arm = mock.Mock(cells=[mock.Mock(dev={"accuracy": accuracy})])
    arm.name = name  # of a mock, an argument names something else
    return arm
