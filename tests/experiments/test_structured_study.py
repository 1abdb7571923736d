"""The study of channels: what each arm starts from and learns from, and a smoke run."""

import keras
import numpy as np
import pytest

from distill import cost, data, studies
from experiments import structured
from experiments._networks import Network

pytestmark = pytest.mark.slow

ARMS = structured.study.design.arms
SMALL = ("fine-tuned-60", "distilled-60", "scratch-60", "scratch-distilled-60", "random-60", "obd-60")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run on digits, with a whole network that is not trained."""
    monkeypatch.setattr(structured, "NETWORK", Network(filters=(4, 8), units=16, dropout=0.2))
    x, y = data.arrays(data.load("digits").train)
    made = studies.Run(
        seed=5, train=(x, y), dev=(x, y), callbacks=[], directory=tmp_path, smoke=True, _files={}
    )
    network = structured.normalized_cnn(structured.NETWORK, input_shape=(8, 8, 1), classes=10, name="whole")
    monkeypatch.setattr(studies.Run, "model", lambda *_: network)
    return made


def channels(network):
    return np.moveaxis(np.asarray(network.get_layer("conv0").kernel), -1, 0)


def test_small_networks_have_one_size_and_differ_in_what_their_names_say(run, monkeypatch):
    found = {}

    def fit(model, examples, run, *, epochs, rate, places=0):
        found[name] = model, epochs, rate, examples[1].max(), places

    monkeypatch.setattr(structured, "fit", fit)
    whole = run.model("whole")
    kept = {}
    for name in SMALL:
        network = ARMS[name].function(run, **ARMS[name].settings)
        model, epochs, rate, largest, places = found[name]
        assert places == 0
        assert abs(cost.macs(network) / cost.macs(whole) - 0.4) <= 0.02 * 0.4
        widths = [layer.weights[0].shape[-1] for layer in network.layers if hasattr(layer, "kernel")]
        assert widths == [2, 5, 14, 10]
        new, taught = name.startswith("scratch"), "distilled" in name
        assert (epochs, rate) == (60 if new else 30, ARMS[name].settings["rate"])
        assert largest == pytest.approx(1 - 0.9 * ARMS[name].settings.get("smoothing", 0.0))
        assert (model is not network) == taught
        if taught:
            assert model.student is network
            assert model.teacher.model is whole
        taken = [[np.array_equal(row, old) for old in channels(whole)] for row in channels(network)]
        assert [any(row) for row in taken] == [not new] * 2
        kept[name] = np.flatnonzero(np.any(taken, axis=0)).tolist()
    assert kept["fine-tuned-60"] == kept["distilled-60"]


def test_arms_at_the_judged_share_have_as_much_to_choose_from():
    trained = [f"{method}-80" for method in structured.METHODS]
    moved = ["fine-tuned-80-moved", "distilled-80-moved"]
    trained += [*moved, "random-80"]
    assert [len(ARMS[name].trials) for name in trained] == [4] * 7
    for name in moved:
        still = ARMS[name.removesuffix("-moved")]
        assert ARMS[name].function is still.function
        assert ARMS[name].settings == {**still.settings, "places": structured.PLACES}
    assert not any(arm.tune for name, arm in ARMS.items() if name not in trained)
    assert {name for name, arm in ARMS.items() if not arm.on_request} == {
        *("whole", "fine-tuned-80", "distilled-80", "scratch-80", "random-80")
    }


def test_criteria_choose_different_channels_and_nothing_is_trained(run):
    kept = set()
    for criterion in structured.CRITERIA:
        network = ARMS[f"{criterion}-60-untrained"].function(
            run, **ARMS[f"{criterion}-60-untrained"].settings
        )
        kept.add(channels(network).tobytes() + np.asarray(network.get_layer("conv1").kernel).tobytes())
    assert len(kept) >= 4


@pytest.mark.slow
def test_a_smoke_run_shows_accuracy_against_multiply_adds(here, tmp_path, monkeypatch):
    monkeypatch.setattr(structured, "NETWORK", Network(filters=(4, 8), units=16, dropout=0.2))
    names = ("fine-tuned-60", "l2-60-untrained", "fine-tuned-80", "distilled-80", "scratch-80", "random-80")
    found = structured.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms=names,
        data={"dataset": "digits"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert {arm.name for arm in found.arms} == {"whole", *names}
    assert found.primary == (
        ("fine-tuned-80", "distilled-80"),
        ("scratch-80", "fine-tuned-80"),
        ("random-80", "fine-tuned-80"),
    )
    assert found.arm("l2-60-untrained").cells[0].epochs == 0
    costs = {name: found.arm(name).cells[0].cost["macs"] for name in ("whole", *names)}
    assert costs["fine-tuned-80"] == costs["distilled-80"] == costs["scratch-80"] == costs["random-80"]
    assert abs(costs["fine-tuned-80"] / costs["whole"] - 0.2) < 0.02
    assert structured.macs(found, "fine-tuned-60") == costs["l2-60-untrained"]
    figure, _ = structured.accuracy_against_multiply_adds(found)
    assert all(axes.yaxis_inverted() for axes in figure.axes)
    lines = [[line.get_label() for line in axes.get_lines()] for axes in figure.axes]
    assert lines == [
        ["fine-tuned", "distilled", "scratch", "whole"],
        ["fine-tuned", "random", "whole"],
    ]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [
        costs["fine-tuned-60"],
        costs["fine-tuned-80"],
    ]
    page = (tmp_path / "structured-digits-smoke" / "report.html").read_text()
    assert 'aria-label="Accuracy against multiply-adds"' in page
    (file,) = tmp_path.glob("*/cells/random-80-seed0-*/model.keras")
    assert keras.models.load_model(file).output_shape == (None, 10)
