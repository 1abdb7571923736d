"""What a study declares, and what tells its code."""

import json

import numpy as np
import pytest
from keras import layers

from distill import studies
from distill.studies import _execution
from tests.studies.tiny import TAUGHT, classifier, run, splits, study_of, taught, teacher, trained


def grandchild(run):
    return run.model("taught")


def test_what_an_arm_needs_is_run_however_deep(tmp_path):
    study = study_of(*TAUGHT, (grandchild, {"needs": "taught"}), (trained, {}))
    assert list(study.design.only(["grandchild"]).arms) == ["teacher", "taught", "grandchild"]


def test_progress_names_few_arms_and_counts_many():
    assert _execution._listed(["b", "a", "b"]) == "b, a"
    assert _execution._listed(list("abcde") * 2) == "5 arms"


def test_declarations_that_do_not_fit():
    study = study_of((teacher, {}))

    def bare(run, rate):
        pass

    def odd(run, layer=layers.Dense):
        pass

    for function, options, message in (
        (teacher, {}, "Received: 'teacher'; declared are teacher"),
        (taught, {"needs": "nobody"}, r"which needs \['nobody'\]; declared are \['teacher'\]"),
        (taught, {"tune": {"width": (1,)}}, r"Received: \['width'\]; arm 'taught' has slope, sure"),
        (taught, {"tune": {"slope": ()}}, r"Received: \['slope'\]"),
        (taught, {"settings": {"width": 1}}, r"Received: \['width'\]; arm 'taught' has slope, sure"),
        (taught, {"settings": {"slope": layers.Dense}}, "numbers, strings, booleans"),
        (
            taught,
            {"name": "a/b"},
            "without spaces, slashes and angle brackets; pass name=... Received: 'a/b'",
        ),
        (taught, {"name": ""}, "Each arm needs a name of its own, .* Received: ''"),
        (lambda: None, {}, "whose function takes nothing"),
        (bare, {}, "each needs a default"),
        (odd, {}, "numbers, strings, booleans"),
    ):
        with pytest.raises(ValueError, match=message):
            study.arm(function, **options)
    assert list(study.design.arms) == ["teacher"]
    with pytest.raises(
        ValueError, match=r"first metric on dev. Received: agreement, .* the arm 'taught' with tune"
    ):
        studies.Study("tiny", data=splits, metrics=[studies.AGREEMENT]).arm(taught, tune={"slope": (1.0,)})
    with pytest.raises(ValueError, match=r"Declared arms are \['teacher'\]. Received: \['taught'\]"):
        study.compare("taught", "teacher")
    with pytest.raises(ValueError, match="Compare two different arms, and each pair once"):
        study.compare("teacher", "teacher")
    with pytest.raises(ValueError, match="name that can be that of a folder. Received: 'a/b'"):
        studies.Study("a/b", data=splits)
    with pytest.raises(ValueError, match="at least one seed and one metric. Received: seeds=0"):
        studies.Study("a", data=splits, seeds=0)
    with pytest.raises(ValueError, match="A study needs an arm. Received: none"):
        studies.Study("a", data=splits).run()
    with pytest.raises(ValueError, match="seeds must be at least 1. Received: seeds=0"):
        study.run(seeds=0)
    for metrics in ([studies.Measure("f1", name="F1")], [studies.RMSE, studies.RMSE]):
        with pytest.raises(ValueError, match="a function that scores, and a key of its own"):
            studies.Study("a", data=splits, metrics=metrics)
    with pytest.raises(ValueError, match="budget must be above 0 minutes. Received: budget=0"):
        study.run(budget=0)
    with pytest.raises(ValueError, match=r"three splits: train, dev and test. Received: tuple of 2"):
        studies.Study("a", data=lambda seed: (1, 2)).design.splits(0)
    with pytest.raises(ValueError, match=r"Received: the function of the data with \{'noise': <class"):
        studies.Study("a", data=lambda seed, noise: None)
    with pytest.raises(
        ValueError, match=r"must name settings of the study's data. Received: noise; there are none"
    ):
        study.run(data={"noise": 1})
    for first_seed in (-1, 999, 1002):
        with pytest.raises(ValueError, match="keep clear of the seeds"):
            study.run(first_seed=first_seed)


def noisy(seed, noise=0.0, source="a/b"):
    train, dev, (x, y) = splits(seed)
    return train, dev, (x, y) if noise == 0 else (x, 1 - y)


def sloped(run, slope=1.0):
    return classifier(slope)


def test_one_function_as_several_arms_on_other_data_and_seeds(here, bare, tmp_path):
    study = studies.Study("tiny", data=noisy, seeds=2)
    for slope in (5.0, -5.0):
        study.arm(sloped, name=f"slope{slope:g}", settings={"slope": slope})
    study.compare("slope5", "slope-5")
    plain = run(study, tmp_path)
    assert [arm.label for arm in plain.arms] == ["slope5, slope = 5.0", "slope-5, slope = -5.0"]
    up, down = (np.array(arm.values(studies.ACCURACY)) for arm in plain.arms)
    assert up.min() > 80
    assert down.max() < 20
    # On labels turned round, with other seeds and in a directory of its own.
    turned = run(study, tmp_path, data={"noise": 1.5, "source": "a/b"}, first_seed=7)
    np.testing.assert_allclose(turned.arm("slope5").values(studies.ACCURACY), 100 - up)
    assert [cell.seed for cell in turned.arm("slope5").cells] == [7, 8]
    assert turned.notes[0] == "The data's noise is 1.5."
    assert {folder.name for folder in tmp_path.iterdir()} == {"tiny", "tiny-noise=1.5"}
    config = json.loads(
        next((tmp_path / "tiny-noise=1.5" / "cells").glob("slope5-*/config.json")).read_text()
    )
    assert config["config"]["data"] == {"noise": 1.5, "source": "a/b"}
    both = study.design.on({"noise": 1.5, "source": "c d"})
    assert both.folder(smoke=True) == "tiny-noise=1.5-source=c_d-8010f7-smoke"
    assert studies.read(tmp_path / "tiny").arm("slope5").values(studies.ACCURACY) == list(up)


def test_functions_that_no_process_can_import_are_refused(tmp_path):
    study = study_of((teacher, {}))
    study.arm(lambda run: classifier(1.0), name="one")
    with pytest.raises(ValueError, match=r"defined at the top of a file.* Received: study 'tiny': .*lambda"):
        run(study, tmp_path)
