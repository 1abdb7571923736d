"""The study of series: what its arms see, and a smoke run of all of them."""

import dataclasses

import keras
import numpy as np
import pytest

from distill import studies
from experiments import series

X = np.arange(4 * 40, dtype="float32").reshape(4, 40, 1)
ARMS = series.study.design.arms


@pytest.fixture
def run(tmp_path):
    x = np.random.default_rng(0).normal(size=(4000, 40, 1)).astype("float32")
    split = x, np.arange(4000) % 10
    return studies.Run(
        seed=3, train=split, dev=split, callbacks=[], directory=tmp_path, smoke=True, _files={}
    )


def test_series_are_moved_and_their_ends_repeated():
    moved = series.shifted(X, (1, 2)).numpy()
    seen = set()
    for one, other in zip(X[..., 0], moved[..., 0], strict=True):
        (shift,) = (
            shift
            for shift in range(-series.SHIFT, series.SHIFT + 1)
            if np.array_equal(other, one[np.clip(np.arange(40) + shift, 0, 39)])
        )
        seen.add(shift)
    assert len(seen) > 1
    many = series.shifted(np.repeat(X[:1], 500, 0), (1, 2)).numpy()[:, 20, 0]
    assert set(many) == set(range(20 - series.SHIFT, 21 + series.SHIFT))


def test_all_arms_see_the_same_series_in_the_same_order(run):
    def seen(shift, seed=3):
        batches = series.batches(run.train, dataclasses.replace(run, seed=seed), shift=shift)
        return [[(x.numpy(), y.numpy()) for x, y in batches] for _ in range(2)]

    one, again, plain, other = seen(True), seen(True), seen(False), seen(True, seed=4)
    for epoch, (first, second) in enumerate(zip(one, again, strict=True)):
        assert len(first) == 63
        for (x, y), (same, labels), (raw, raw_labels) in zip(first, second, plain[epoch], strict=True):
            np.testing.assert_array_equal(x, same)
            np.testing.assert_array_equal(y, labels)
            np.testing.assert_array_equal(y, raw_labels)  # shifts leave the order
            assert not np.array_equal(x, raw)
    assert not np.array_equal(one[0][0][0], one[1][0][0])
    assert not np.array_equal(one[0][0][0], other[0][0][0])


def test_few_labels_are_drawn_by_seed_equally_many_of_each_class(run):
    seen = series.labelled(run)
    assert len(set(seen)) == series.FEW
    assert np.bincount(run.train[1][seen]).tolist() == [series.FEW // 10] * 10
    assert set(seen) != set(series.labelled(dataclasses.replace(run, seed=4)))


def test_smoothed_labels():
    np.testing.assert_allclose(
        series.one_hot(np.array([3]), 0.1)[0], np.where(np.arange(10) == 3, 0.91, 0.01)
    )


def test_pairs_differ_in_the_teacher_alone():
    """Both of a pair have as many epochs and the same shifts; both choose from as many settings."""
    trained = {}

    def fit(model, examples, run, *, epochs, shift=False):
        trained[name] = epochs, shift, len(examples[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "fit", fit)
        patch.setattr(studies.Run, "model", lambda *_: series.cnn())
        x = np.zeros((4000, 40, 1), "float32")
        run = studies.Run(
            seed=0,
            train=(x, np.arange(4000) % 10),
            dev=(x, x),
            callbacks=[],
            directory=None,
            smoke=False,
            _files={},
        )
        for name, arm in ARMS.items():
            made = arm.function(run)
            assert made.count_params() == (24_026 if name == "teacher" else 15_210)
    for baseline, arm in series.study.design.comparisons:
        if {arm, baseline} not in ({"distilled_patient", "distilled"}, {"alone_patient", "alone"}):
            assert trained[arm] == trained[baseline]
    pairs = [("distilled", "alone"), ("distilled_patient", "alone_patient"), ("distilled_long", "alone_long")]
    for arm, baseline in pairs:
        assert len(ARMS[arm].trials) == len(ARMS[baseline].trials) == 6
    assert [len(ARMS[arm].trials) for arm in ("few_alone", "few_distilled", "few_pseudo")] == [3, 3, 3]
    assert all(setting in trial for one in ARMS.values() for trial in one.trials for setting in one.tune)


@pytest.mark.slow
def test_a_smoke_run_of_all_arms(tmp_path):
    found = series.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms="all",
        jobs=2,
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert [arm.name for arm in found.arms] == list(ARMS)
    assert found.primary == (("alone_patient", "distilled_patient"), ("alone", "distilled"))
    assert keras.models.load_model(
        next(tmp_path.glob("series-smoke/cells/alone-*/model.keras"))
    ).output_shape == (
        None,
        10,
    )
