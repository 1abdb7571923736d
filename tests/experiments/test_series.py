"""The study of series: what its arms see, and a smoke run of all of them."""

import dataclasses

import keras
import numpy as np
import pytest

from distill import studies
from experiments import series

ARMS = series.study.design.arms


@pytest.fixture
def run(tmp_path):
    x = np.random.default_rng(0).normal(size=(4000, 40, 1)).astype("float32")
    split = x, np.arange(4000) % 10
    return studies.Run(
        seed=3, train=split, dev=split, callbacks=[], directory=tmp_path, smoke=True, _files={}
    )


def test_few_labels_are_drawn_by_seed_equally_many_of_each_class(run):
    seen = series.labelled(run)
    assert len(set(seen)) == series.FEW
    assert np.bincount(run.train[1][seen]).tolist() == [series.FEW // 10] * 10
    assert set(seen) != set(series.labelled(dataclasses.replace(run, seed=4)))


def test_pairs_differ_in_the_teacher_alone():
    """Both of a pair have as many epochs and the same shifts; both choose from as many settings."""
    trained = {}

    def fit(model, examples, run, *, epochs, rate, places=0):
        trained[name] = epochs, rate, places, len(examples[0])

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


def test_students_start_alike_whatever_their_dropout():
    """Dropout draws a seed, which must not change what is drawn after it."""
    made = []
    for dropout in (0.0, 0.3):
        keras.utils.set_random_seed(5)
        made.append(series.mlp(dropout))
    assert [type(layer).__name__ for layer in made[1].layers][-1] == "Dense"
    for one, other in zip(*(model.get_weights() for model in made), strict=True):
        np.testing.assert_array_equal(one, other)
