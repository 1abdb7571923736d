"""Finished models compared on the same examples."""

import keras
import numpy as np
import pytest
import rich
from keras import layers
from rich.console import Console

import distill
from distill import studies

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 2)).astype("float32")
Y = (X[:, 0] + 0.3 * RNG.normal(size=200) > 0).astype("int64")


def classifier(slope, other):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    model.set_weights([np.array([[0, slope], [0, other]], "float32"), np.zeros(2, "float32")])
    return model


@pytest.fixture(scope="module")
def found():
    return studies.compare_models({"good": classifier(3, 0), "bad": classifier(1, 1)}, (X, Y), resamples=400)


def right(slope, other):
    return (X @ [slope, other] > 0) == Y


def test_scores_and_differences_are_those_of_all_examples(found):
    good, bad = right(3, 0), right(1, 1)
    assert found.scores["good"]["accuracy"].value == good.mean()
    assert found.differences["bad"]["accuracy"].value == pytest.approx(bad.mean() - good.mean())
    assert list(found.differences) == ["bad"]
    assert "agreement" not in found.scores["good"]
    assert found.scores["bad"]["agreement"].value == np.mean((X @ [3, 0] > 0) == (X @ [1, 1] > 0))
    assert found.costs["good"] == {"parameters": 6, "macs": 4, "file_bytes": None}


def test_intervals_are_those_of_a_mean_and_pairs_are_resampled_together(found):
    """For means of many examples, a percentile interval is that of the normal distribution."""
    good, bad = right(3, 0).astype(float), right(1, 1).astype(float)
    one = found.scores["good"]["accuracy"]
    half = 1.96 * good.std() / np.sqrt(200)
    assert (one.low, one.high) == pytest.approx((good.mean() - half, good.mean() + half), abs=0.012)
    paired = found.differences["bad"]["accuracy"]
    half = 1.96 * (bad - good).std() / np.sqrt(200)
    assert (paired.high - paired.low) / 2 == pytest.approx(half, rel=0.15)
    apart = 1.96 * np.sqrt((bad.var() + good.var()) / 200)
    assert abs(half - apart) / half > 0.05  # a mutant that draws anew for each model would have this
    again = studies.compare_models({"good": classifier(3, 0), "bad": classifier(1, 1)}, (X, Y), resamples=400)
    assert again.scores == found.scores


def test_a_number_that_resampling_shifts_has_no_interval():
    """The calibration error of a calibrated model is all noise, to which a resample adds as much again."""
    p = RNG.uniform(0.5, 1, 400)
    x, y = np.stack([np.zeros(400), np.log(p / (1 - p))], axis=1), (RNG.random(400) < p).astype("int64")
    calibrated = keras.Sequential([keras.Input((2,)), layers.Identity()])
    found = studies.compare_models({"calibrated": calibrated}, (x.astype("float32"), y))
    error = found.scores["calibrated"]["ece"]
    assert (error.low, error.high) == (None, None)
    assert f"| {100 * error.value:.1f} |" in str(found)
    assert (
        found.scores["calibrated"]["accuracy"].low < np.mean(y) < found.scores["calibrated"]["accuracy"].high
    )
    assert "A number has no interval if resampling" in str(found)
    only = studies.compare_models({"it": calibrated}, (x.astype("float32"), y), metrics=[studies.ACCURACY])
    assert "has no interval" not in str(only)


def test_a_number_that_resampling_leaves_as_it_is_has_an_interval_without_width():
    """The mean of a thousand equal numbers may differ from them in its last digit."""
    tenth = studies.Measure("tenth", lambda y, outputs: 0.1, name="a tenth")
    found = studies.compare_models({"it": classifier(3, 0)}, (X, Y), metrics=[tenth])
    assert np.full(1000, 0.1).mean() != 0.1
    assert found.scores["it"]["tenth"] == studies.Interval(0.1, 0.1, 0.1)


def test_answers_that_are_no_numbers_are_refused():
    x = X.copy()
    x[3, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"for 1 of 200 examples, from good\. The inputs of 1 of them have NaN"
    ):
        studies.compare_models({"good": classifier(3, 0)}, (x, Y))


def test_it_says_what_it_cannot_show(found):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found)
    for text in (console.export_text(), str(found), found._repr_html_()):
        assert "nothing about training again" in " ".join(text.split())
        assert "Scores on 200 examples" in text
        assert "bad − good" in text
    console.file.close()
    assert rich.get_console() is not console


def test_files_and_other_metrics(tmp_path):
    model = classifier(3, 0)
    model.save(tmp_path / "m.keras")
    distill.export(model, tmp_path / "m.tflite")
    found = studies.compare_models(
        {"keras": tmp_path / "m.keras", "phone": str(tmp_path / "m.tflite")}, (X, Y), resamples=100
    )
    assert found.differences["phone"]["accuracy"] == studies.Interval(0.0, 0.0, 0.0)
    assert found.costs["phone"]["file_bytes"] == (tmp_path / "m.tflite").stat().st_size
    assert found.costs["phone"]["parameters"] is None
    assert found.costs["keras"]["parameters"] == 6
    inputs = keras.Input((2,))
    line = keras.Model(inputs, layers.Dense(1, kernel_initializer="ones")(inputs))
    (rmse, *_) = (
        studies.compare_models({"line": line}, (X, X[:, 0]), metrics=studies.REGRESSION, resamples=100)
        .scores["line"]
        .values()
    )
    assert rmse.value == pytest.approx(np.sqrt(np.mean(X[:, 1].astype(float) ** 2)), rel=1e-5)
    assert rmse.low < rmse.value < rmse.high


def test_too_little_to_compare_is_refused():
    with pytest.raises(ValueError, match="a dictionary that names each model or file. Received: a list"):
        studies.compare_models([classifier(1, 1)], (X, Y))
    with pytest.raises(
        ValueError, match="at least 100 resamples. Received: 0 models, 4 metrics and resamples=1000"
    ):
        studies.compare_models({}, (X, Y))
    with pytest.raises(ValueError, match="Received: 1 models, 4 metrics and resamples=5"):
        studies.compare_models({"one": classifier(1, 1)}, (X, Y), resamples=5)


def test_a_number_that_some_resamples_do_not_have_has_no_interval():
    """Three of 200 examples have the label, and 5 % of the resamples none of them."""
    y = np.zeros((200, 1), "int64")
    y[:3] = 1
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(inputs))
    found = studies.compare_models({"it": model}, (X, y), metrics=studies.MULTI_LABEL)
    precision = found.scores["it"]["average_precision"]
    assert (precision.low, precision.high) == (None, None)
    assert 0 < precision.value <= 1
    assert "if some resamples leave it undefined" in " ".join(str(found).split())
    with pytest.raises(ValueError, match="a label that occurs"):
        studies.compare_models({"it": model}, (X, 0 * y), metrics=studies.MULTI_LABEL)
