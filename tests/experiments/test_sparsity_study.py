"""The study of sparsities: what each arm prunes, when and how it recovers, and a smoke run."""

import keras
import numpy as np
import pytest

from distill import data, studies
from experiments import sparsity
from experiments._networks import Network

ARMS = sparsity.study.design.arms
JUDGED = ("one-shot-95", "random-95", "gradual-95", "distilled-95")


@pytest.fixture
def tiny(monkeypatch):
    """A smaller network and smaller images."""
    monkeypatch.setattr(sparsity, "NETWORK", Network(filters=(4,), units=8, dropout=0.4))
    return data.arrays(data.load("digits").train)


def zeros(network):
    kernels = [weights for weights in network.get_weights() if weights.ndim > 1]
    return sum(int((kernel == 0).sum()) for kernel in kernels), sum(kernel.size for kernel in kernels)


@pytest.fixture
def begun(tiny, tmp_path, monkeypatch):
    """What the training of each arm at 95 % begins with: model, network and the options of `fit`."""
    run = studies.Run(seed=5, train=tiny, dev=tiny, callbacks=[], directory=tmp_path, smoke=False, _files={})
    dense = sparsity.cnn(run)
    found = {}

    def model(*_):
        network = keras.models.clone_model(dense)
        network.set_weights(dense.get_weights())
        return network

    def fit(model, examples, run, *, epochs, rate, places=0, callbacks=()):
        assert places == 0
        network = getattr(model, "student", model)
        weights = [np.array(one) for one in network.get_weights()]
        found[name] = model, weights, zeros(network), examples[1], epochs, rate, callbacks

    monkeypatch.setattr(studies.Run, "model", model)
    monkeypatch.setattr(sparsity, "fit", fit)
    for name in ("dense", "longer", *JUDGED):
        made = ARMS[name].function(run, **ARMS[name].settings)
        assert made is getattr(found[name][0], "student", found[name][0])
    return dense.get_weights(), found


def test_pruned_networks_of_a_seed_differ_in_what_their_names_say(begun):
    dense, found = begun
    for name in ("longer", *JUDGED):
        _, weights, (count, size), labels, epochs, rate, callbacks = found[name]
        at_once = name in ("one-shot-95", "random-95")
        assert count == (round(0.95 * size) if at_once else 0)
        for before, after in zip(dense, weights, strict=True):
            np.testing.assert_array_equal(after[after != 0], before[after != 0])
        assert (epochs, rate) == (sparsity.FURTHER, sparsity.FURTHER_RATE)
        assert len(callbacks) == (name in ("gradual-95", "distilled-95"))
        smoothing = ARMS[name].settings.get("smoothing", 0.0)
        np.testing.assert_allclose(labels.max(axis=1), 1 - 0.9 * smoothing, rtol=1e-6)
    kept = {name: [one != 0 for one in found[name][1]] for name in ("one-shot-95", "random-95")}
    magnitudes = np.concatenate([np.abs(one).ravel() for one in dense if one.ndim > 1])
    stays = np.concatenate([one.ravel() for one in kept["one-shot-95"] if one.ndim > 1])
    assert magnitudes[stays].min() >= magnitudes[~stays].max()  # over all layers together
    assert any(np.any(a != b) for a, b in zip(*kept.values(), strict=True))
    distiller = found["distilled-95"][0]
    for weights, before in zip(distiller.teacher.model.get_weights(), dense, strict=True):
        np.testing.assert_array_equal(weights, before)
    assert found["dense"][4:6] == (sparsity.EPOCHS, sparsity.RATE)


def test_there_is_as_much_to_choose_from_with_a_teacher_as_without():
    moved = ("gradual-95-moved", "distilled-95-moved")
    tried = [len(ARMS[name].trials) for name in ("one-shot-95", "gradual-95", "distilled-95", *moved)]
    assert tried == [4] * 5
    for name in moved:
        still = ARMS[name.removesuffix("-moved")]
        assert ARMS[name].function is still.function
        assert ARMS[name].settings == {**still.settings, "places": sparsity.PLACES}
    for name in JUDGED:
        assert set(ARMS[name].tune) < set(ARMS[name].settings)


def test_dropout_of_the_further_training_is_a_setting(tiny, monkeypatch):
    run = studies.Run(seed=0, train=tiny, dev=tiny, callbacks=[], directory=None, smoke=True, _files={})
    monkeypatch.setattr(studies.Run, "model", lambda *_: sparsity.cnn(run))
    rates = [layer.rate for layer in sparsity.unpruned(run, 0.1).layers if hasattr(layer, "rate")]
    assert rates == [0.1, 0.1]


def test_masks_move_once_an_epoch_until_the_share_is_reached(tiny):
    run = studies.Run(seed=0, train=tiny, dev=tiny, callbacks=[], directory=None, smoke=False, _files={})
    steps = -(-len(tiny[0]) // sparsity.BATCH)
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    callback = sparsity.step_by_step(run, 0.5, "global")
    network.compile("sgd", "mse", steps_per_execution=steps)
    x = np.zeros((steps, 8, 8, 1), "float32")
    network.fit(
        x, np.zeros((steps, 10)), batch_size=1, epochs=sparsity.RAMP + 2, callbacks=[callback], verbose=0
    )
    # Seen at the first step of the next epoch.
    assert [step for step, _ in callback.updates] == [
        1 + steps * epoch for epoch in range(1, sparsity.RAMP + 1)
    ]
    assert zeros(network) == (320, 640)


@pytest.mark.slow
def test_a_smoke_run_makes_the_zeros_of_each_arm_and_draws_them(here, tiny, tmp_path):
    names = ("gradual-50", "lottery-95", "one-shot-95-evenly", *JUDGED)
    found = sparsity.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms=names,
        data={"dataset": "digits"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert [arm.name for arm in found.arms] == [name for name in ARMS if name in ("dense", *names)]
    assert found.primary == tuple(
        (f"{baseline}-95", f"{arm}-95")
        for baseline, arm in (("random", "one-shot"), ("one-shot", "gradual"), ("gradual", "distilled"))
    )
    folder = tmp_path / "sparsity-digits-smoke"
    for name in names:
        (file,) = folder.glob(f"cells/{name}-seed0-*/model.keras")
        network = keras.models.load_model(file)
        kernels = [weights for weights in network.get_weights() if weights.ndim > 1]
        shares = [np.mean(kernel == 0) for kernel in kernels]
        count, size = zeros(network)
        if name.endswith("evenly"):
            assert [round(share * kernel.size) for share, kernel in zip(shares, kernels, strict=True)] == [
                round(0.95 * kernel.size) for kernel in kernels
            ]
        else:
            assert count == round(size * float(name.rpartition("-")[2]) / 100), name
            assert max(shares) - min(shares) > 0.01
    figure, _ = sparsity.accuracy_against_sparsity(found)
    (axes,) = figure.axes
    assert axes.xaxis_inverted()
    assert axes.yaxis_inverted()
    drawn = {line.get_label(): list(line.get_xdata()) for line in axes.get_lines()}
    assert drawn["gradual"] == [50, 5]
    assert drawn["lottery"] == [5]
    page = (folder / "report.html").read_text()
    assert "<h3>Accuracy against sparsity</h3>" in page
    assert 'aria-label="Accuracy against sparsity"' in page
