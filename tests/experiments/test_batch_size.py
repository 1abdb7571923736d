"""The study of batch sizes: gradient noise against exact values, its arms and section, and a smoke run."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from conftest import dense_net

import distill
from distill import studies
from experiments import _noise as noise
from experiments import batch_size

ARMS = batch_size.study.design.arms


def linear_gradients(x, y, weights):
    """Returns the gradients (n, 4) of each example's squared error (x·w − y)², in float64."""
    return 2 * (x @ weights - y)[:, None] * x


@pytest.fixture
def linear():
    """200 examples of a linear problem, with weights that do not solve it."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(200, 4))
    return x, x @ [1.0, -1.0, 0.5, 0.0] + rng.normal(size=200), np.array([0.4, 0.1, 0.0, 0.3])


def test_the_noise_scale_is_unbiased(linear):
    """Compares both parts with the values from the gradients of all examples."""
    gradients = linear_gradients(*linear)
    mean = gradients.mean(axis=0)
    squared, variance = np.square(mean).sum(), np.square(gradients - mean).sum(axis=1).mean()
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(4000):
        drawn = rng.integers(len(gradients), size=(5, 8))
        estimates.append(noise.estimate(gradients[drawn].mean(axis=1), batch_size=8))
    found, error = np.mean(estimates, axis=0), np.std(estimates, axis=0) / math.sqrt(len(estimates))
    np.testing.assert_array_less(np.abs(found - [variance, squared]), 3 * error)
    np.testing.assert_array_less(error, [0.03 * variance, 0.03 * squared])
    # A naive estimate would be too large: the large batch's gradient contains its share of the noise.
    assert squared + variance / 40 > squared + 10 * error[1]


def test_the_estimate_follows_its_formula():
    # |G_b|² = (9 + 25) / 2 = 17, |G_B|² = |(1.5, 2.5)|² = 8.5, b = 2, B = 4.
    variance, squared = noise.estimate([[3.0, 0.0], [0.0, 5.0]], batch_size=2)
    assert variance == pytest.approx((17 - 8.5) / (1 / 2 - 1 / 4))
    assert squared == pytest.approx((4 * 8.5 - 2 * 17) / 2)


@pytest.mark.parametrize(("shape", "size"), [((1, 3), 4), ((3,), 4), ((2, 3), 0)])
def test_a_noise_scale_needs_two_batches(shape, size):
    with pytest.raises(ValueError, match="at least two batches"):
        noise.estimate(np.ones(shape), batch_size=size)


def test_the_callback_measures_the_gradient_of_the_loss(linear):
    x, y, weights = linear
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([weights[:, None]])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    watch = noise.NoiseScale(
        x.astype("float32"), y.astype("float32")[:, None], epochs={2, 3}, batch_size=10, batches=6
    )
    read = []
    after = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: read.append(dict(logs)))
    model.fit(x, y[:, None], epochs=3, verbose=0, callbacks=[watch, after])
    drawn = np.random.default_rng(0).integers(200, size=(6, 10))
    expected = noise.estimate(linear_gradients(x, y, weights)[drawn].mean(axis=1), batch_size=10)
    assert [sorted(logs) for logs in read] == [["loss"], *[["loss", "noise_gradient", "noise_variance"]] * 2]
    for logs in read[1:]:
        np.testing.assert_allclose([logs["noise_variance"], logs["noise_gradient"]], expected, rtol=1e-4)


@pytest.mark.slow
def test_measuring_noise_leaves_training_as_it_is(batch):
    x, y = batch
    trained = []
    for watched in (False, True):
        keras.utils.set_random_seed(3)
        student = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dropout(0.3), *dense_net(4, batch_norm=True).layers[1:]]
        )
        cooling = keras.optimizers.schedules.CosineDecay(8.0, 6, alpha=0.25)
        model = distill.Distiller(dense_net(8), student, distill.SoftTargets(cooling))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        watch = [noise.NoiseScale(x, y, epochs={1}, batch_size=4, batches=3)] if watched else []
        logs = model.fit(x, y, epochs=2, verbose=0, callbacks=watch).history
        trained.append(({key: logs[key] for key in ("accuracy", "loss")}, model.student.get_weights()))
    assert trained[0][0] == trained[1][0]
    for one, other in zip(trained[0][1], trained[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_arms_differ_in_size_rate_and_teacher():
    assert len(ARMS) == 1 + 2 * (2 * len(batch_size.SIZES) - 1)
    for kind in ("alone", "distilled"):
        for size in batch_size.SIZES:
            arm = ARMS[f"{kind}-{size}"]
            assert arm.settings == {"size": size, "rate": pytest.approx(6e-3 * math.sqrt(size / 64))}
            assert arm.needs == (("teacher",) if kind == "distilled" else ())
            if size != 64:
                same = ARMS[f"{kind}-same-rate-{size}"]
                assert same.settings == {"size": size, "rate": 6e-3}
                assert same.function is arm.function
    default = batch_size.study.design.only(None)
    assert len(default.arms) == 7
    assert len(default.primary) == 3


def arm_of(*seeds):
    """An arm whose seeds had these dev accuracies, and these parts of the noise scale after the first epoch."""
    cells = [
        studies.CellResult(
            arm="alone-8",
            seed=seed,
            epochs=4,
            seconds=1.0,
            test={},
            dev={},
            cost={},
            history=(
                {"noise_variance": variance, "noise_gradient": gradient, "val_accuracy": 0.1},
                *({"val_accuracy": one} for one in accuracies),
            ),
        )
        for seed, (variance, gradient, accuracies) in enumerate(seeds)
    ]
    return studies.ArmResult("alone-8", "alone-8", "", "alone", tuple(cells))


def test_epochs_to_the_target_and_noise_are_of_all_seeds():
    one, two, never = (2.0, 1.0, [0.94, 0.9]), (4.0, 2.0, [0.9, 0.95]), (9.0, -4.0, [0.9, 0.9])
    assert batch_size.epochs_to_target(arm_of(one, two, never)) == 3
    assert batch_size.epochs_to_target(arm_of(one, never, never)) == math.inf
    assert batch_size.noise_scale(arm_of(one, two), 1) == pytest.approx(2.0)  # averaged before it is divided
    assert math.isnan(batch_size.noise_scale(arm_of(one, two, never), 1))  # a squared gradient below 0
    assert math.isnan(batch_size.noise_scale(arm_of(one, two), 2))
    assert math.isnan(batch_size.noise_scale(arm_of(one, two), 30))
    shown = dataclasses.replace(arm_of(one, two))
    grid, words = batch_size.speed_of_learning_and_noise(
        dataclasses.make_dataclass("Found", ["arms"])((shown,))
    )
    assert grid.rows == (("alone-8", "2", "2", *["–"] * 5),)
    assert "to\n94%" in grid.headings[1]
    assert "Each estimate uses 3,000" in words


@pytest.mark.slow
def test_a_smoke_run(here, tmp_path):
    found = batch_size.study.run(
        out=tmp_path,
        smoke=True,
        seeds=1,
        arms=["alone-64", "alone-1024", "distilled-1024"],
        data={"dataset": "digits"},
        surroundings=studies.Surroundings(wandb="disabled"),
    )
    assert [arm.name for arm in found.arms] == ["teacher", "alone-64", "alone-1024", "distilled-1024"]
    for arm in found.arms[1:]:
        assert all(logs["noise_variance"] > 0 for logs in arm.cells[0].history)
    page = (tmp_path / "batch_size-digits-smoke" / "report.html").read_text()
    assert "Accuracy by batch size" in page
    assert "how noisy its gradients are" in page
