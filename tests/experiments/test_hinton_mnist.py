"""The repetition of Hinton et al. 2015: the digit that is left out and its bias, what arms see, and a smoke run."""

import keras
import numpy as np
import pytest

from distill import studies
from experiments import hinton_mnist as hinton

ARMS = hinton.study.design.arms


@pytest.fixture
def run(tmp_path):
    """A run on 300 images whose first pixel is their number."""
    x = np.zeros((300, 28, 28, 1), "float32")
    x[:, 0, 0, 0] = np.arange(300)
    split = x, np.arange(300) % 10
    return studies.Run(
        seed=3, train=split, dev=split, callbacks=[], directory=tmp_path, smoke=True, _files={}
    )


def test_the_arms_differ_in_what_they_are_named_for(run, monkeypatch):
    fitted = {}
    monkeypatch.setattr(
        hinton, "fit", lambda model, examples, run, **options: fitted.update({name: (examples, options)})
    )
    monkeypatch.setattr(studies.Run, "model", lambda *_: hinton.dense_net(run.train[0], units=8))
    made = {}
    for name, arm in ARMS.items():
        if arm.function is not hinton.biased:
            made[name] = arm.function(run, **arm.settings)
    dropped = {name: sum("dropout" in layer.name for layer in model.layers) for name, model in made.items()}
    assert {name for name, count in dropped.items() if count} == {"teacher"}
    assert made["teacher"].count_params() == 785 * 1200 + 1201 * 1200 + 1201 * 10
    assert {one.count_params() for name, one in made.items() if name != "teacher"} == {
        785 * 800 + 801 * 800 + 801 * 10
    }
    for name, ((x, y), options) in fitted.items():
        np.testing.assert_array_equal(x[:, 0, 0, 0] % 10, y.argmax(axis=1))
        digits = y.any(axis=0)
        assert (digits[3], len(y)) == ((False, 270) if name.startswith("omitted") else (True, 300))
        assert options["places"] == (2 if name == "teacher" or name.startswith("shifted") else 0)
        assert options["epochs"] == (60 if name == "teacher" else 40)
    assert ARMS["distilled"].settings["temperature"] == 20


def test_the_bias_of_the_omitted_digit_is_chosen_on_dev(run, monkeypatch):
    network = hinton.dense_net(run.train[0], units=8)
    before = network.get_weights()
    monkeypatch.setattr(studies.Run, "model", lambda *_: network)
    arm = ARMS["omitted-distilled-biased"]
    assert arm.needs == (arm.settings["of"],) == ("omitted-distilled",)
    x, y = run.dev
    expected = hinton.best_bias(y, studies.logits(network, x))
    *others, bias = arm.function(run, **arm.settings).get_weights()
    assert all(map(np.array_equal, others, before))
    assert expected != 0
    np.testing.assert_allclose(bias, before[-1] + np.where(np.arange(10) == 3, expected, 0), rtol=1e-6)
    assert hinton.errors(y, studies.logits(network, x)) == hinton.errors_at_best(
        y, studies.logits(network, x)
    )


def errors(logits, labels, bias):
    raised = np.array(logits, "float64")
    raised[:, 3] += bias
    return int((raised.argmax(axis=1) != labels).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_bias_has_the_fewest_errors_that_any_bias_can_have(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, 200)
    logits = (rng.normal(size=(200, 10)) + 2 * np.eye(10)[labels]).astype("float32")
    logits[:, 3] -= 3
    bias = hinton.best_bias(labels, logits)
    found = errors(logits, labels, bias)
    assert bias > 0
    assert found <= min(errors(logits, labels, tried) for tried in np.arange(-10, 10, 0.01))
    assert found == hinton.errors_at_best(labels, logits) < hinton.errors(labels, logits)
    assert hinton.errors(labels, logits) == errors(logits, labels, 0.0)
    assert hinton.errors_on_omitted(labels, logits) == np.sum(logits[labels == 3].argmax(axis=1) != 3)


@pytest.mark.parametrize(("labels", "sign"), [([0, 1, 2], -1), ([3, 3, 3], 1)])
def test_a_digit_that_is_never_or_always_right(labels, sign):
    logits = np.array([[2, 0, 0, 1], [0, 2, 0, 3], [0, 0, 2, 2]], "float32")
    bias = hinton.best_bias(np.array(labels), logits)
    assert sign * bias > 0
    assert errors(logits, np.array(labels), bias) == 0


@pytest.mark.slow
def test_a_smoke_run_of_all_arms(here, tmp_path):
    found = hinton.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms="all",
        data={"dataset": "mnist5k"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert [arm.name for arm in found.arms] == list(ARMS)
    assert found.primary == (("alone", "distilled"), ("omitted-alone", "omitted-distilled"))
    test = {arm.name: arm.cells[0].test for arm in found.arms}
    assert test["teacher"]["errors"] < 600  # of 1,500: it learns
    assert test["omitted-alone"]["errors_on_omitted"] > 140  # of 150
    assert test["omitted-distilled-biased"]["errors_on_omitted"] < 140
    for scores in test.values():
        assert scores["errors_at_best"] <= scores["errors"]
    folder = next(tmp_path.glob("hinton_mnist-mnist5k-smoke/cells/omitted-distilled-biased-*"))
    assert keras.models.load_model(folder / "model.keras").output_shape == (None, 10)
