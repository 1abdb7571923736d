"""The batch-size study: gradient noise against exact values, the table, and a smoke run."""

import dataclasses
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import dense_net

import distill
from distill.studies import read
from experiments.batch_size import noise, report, rows, study
from experiments.batch_size.__main__ import main
from experiments.batch_size.config import BatchSize

ROOT = Path(__file__).parents[2]


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
    model.fit(x, y[:, None], epochs=3, verbose=0, callbacks=[watch])
    drawn = np.random.default_rng(0).integers(200, size=(6, 10))
    expected = noise.estimate(linear_gradients(x, y, weights)[drawn].mean(axis=1), batch_size=10)
    assert [found.epoch for found in watch.found] == [0, 2, 3]
    for found in watch.found:
        np.testing.assert_allclose([found.variance, found.squared_gradient], expected, rtol=1e-4)


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
        trained.append((logs, model.student.get_weights()))
    assert trained[0][0] == trained[1][0]
    for one, other in zip(trained[0][1], trained[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("scaling", "factor"), [("sqrt", 4.0), ("linear", 16.0)])
def test_the_scaled_rate_follows_the_size(scaling, factor):
    options = BatchSize(scaling=scaling)
    assert study.learning_rate(options, 1024, "scaled") == pytest.approx(factor * options.learning_rate)
    assert study.learning_rate(options, 4, "scaled") == pytest.approx(options.learning_rate / factor)
    assert study.learning_rate(options, 64, "scaled") == options.learning_rate
    assert study.learning_rate(options, 1024, "constant") == options.learning_rate


def test_cells_of_a_seed_differ_in_what_is_compared_alone():
    options = BatchSize()
    arms = study.student_arms(options)
    assert len(arms) == len({arm.name for arm in arms}) == 2 * (2 * len(options.sizes) - 1)
    reference = dataclasses.asdict(
        study.student_cell(options, next(arm for arm in arms if arm.name == "alone-64"), 3).config
    )
    for arm in arms:
        config = dataclasses.asdict(study.student_cell(options, arm, 3).config)
        changed = {key for key, value in config.items() if value != reference[key]}
        expected = set() if "-64" in arm.name else {"batch_size"}
        expected |= {"learning_rate"} if "scaled" in arm.name else set()
        expected |= {"temperature", "student_loss_weight"} if "distilled" in arm.name else set()
        assert changed == expected, arm.name


def test_every_question_compares_arms_that_exist_and_differ_in_one_thing():
    options = BatchSize()
    names = {arm.name for arm in study.student_arms(options)}
    asked = study.questions(options)
    assert [len(pairs) for pairs in asked.values()] == [7, 7, 7, 7, 8, 8]
    for question, pairs in asked.items():
        for pair in pairs:
            assert set(pair) <= names
            kinds, sizes = ({name.split("-")[part] for name in pair} for part in (0, 1))
            assert (len(kinds), len(sizes)) == ((2, 1) if "distilled against" in question else (1, 2))


@pytest.mark.parametrize(
    ("target", "expected"), [(0.5, 1), (0.7, 3), (0.9, 3), (0.91, math.inf)], ids=["1", "3", "equal", "never"]
)
def test_epochs_to_the_target(target, expected):
    assert rows.epochs_to(target, [0.5, 0.6, 0.9, 0.8]) == expected


def row(size, rule="constant", **changes):
    fields = {
        "kind": "alone",
        "rule": rule,
        "size": size,
        "examples": 100,
        "epochs": 4,
        "accuracy": (95.0, 96.0, 97.0),
        "to_target": (2.0, 3.0, math.inf),
        "noise": {0: 10.0, 4: 100.0},
        "examples_per_second": 50.0,
        "peak_bytes": 700_000_000,
    }
    return rows.Row(**{**fields, **changes})


def test_the_table_says_what_a_size_costs_and_gives():
    lost = row(64, to_target=(math.inf, math.inf, 1.0), examples_per_second=math.nan, peak_bytes=None)
    grid = report.table([row(16), lost, row(16, "scaled", accuracy=(90.0,))], 0.94)
    assert [line[0] for line in grid.rows] == ["alone, constant rate", "16", "64", "alone, scaled rate", "16"]
    # 7 steps per epoch; t(.975, 2) · 1 / √3 = 2.48.
    assert grid.rows[1] == ("16", "28", "50", "700", "3", "21", "6.0", "100", "96.00 ± 2.48")
    assert grid.rows[2] == ("64", "8", "–", "–", "–", "–", "–", "100", "96.00 ± 2.48")
    assert grid.rows[4][-1] == "90.00"
    assert "to 94%" in grid.headings[4]
    assert grid.headings[-2] == "noise\nscale"
    assert grid.title.endswith("Noise scale after epoch 4")


def test_the_noise_of_several_seeds_is_averaged_before_it_is_divided():
    values = [[(2.0, 1.0), (9.0, -2.0)], [(4.0, 2.0), (9.0, 1.0)]]
    seeds = [
        [
            {"epoch": epoch, "variance": variance, "squared_gradient": squared}
            for epoch, (variance, squared) in zip((0, 4), points, strict=True)
        ]
        for points in values
    ]
    found = rows.noise_scales(seeds)
    assert found[0] == pytest.approx(2.0)
    assert math.isnan(found[4])


@pytest.mark.slow
def test_a_smoke_run_ends_in_a_table_and_curves(tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.batch_size",
        "--smoke",
        "--out",
        str(tmp_path),
        "--jobs",
        "2",
    ]
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    study_dir = tmp_path / "batch_size-smoke"
    assert "Smoke run" in done.stdout
    assert f"Report: {study_dir / 'report.html'}" in done.stdout.replace("\n", "")
    lines = [line.split() for line in done.stdout.splitlines() if re.match(r"(16|64) +\d", line)]
    assert [line[0] for line in lines] == ["16", "64"] * 4
    for _, updates, speed, *_, accuracy in lines:
        assert int(updates.replace(",", "")) > 0
        assert float(speed.replace(",", "")) > 0
        assert 0 <= float(accuracy) <= 100

    found = read(study_dir)
    lines = rows.rows(found)
    assert [(row.kind, row.rule, row.size) for row in lines] == [
        (kind, rule, size) for kind in study.KINDS for rule in study.RULES for size in (16, 64)
    ]
    for line in lines:
        assert set(line.noise) == {0, 1, 2}
        assert line.noise[0] > 0
        assert line.peak_bytes is None or line.peak_bytes > 1e8
        assert line.steps == math.ceil(line.examples / line.size)
    # At the start of training, nothing depends on batch size or learning rate.
    assert lines[0].noise[0] == pytest.approx(lines[3].noise[0], rel=1e-4)
    assert lines[1].accuracy == lines[3].accuracy  # the reference size is one arm
    assert len(found.arms) == 7
    page = (study_dir / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert all(question in page for question in found.extra["questions"])
    assert set(found.arms[1].cells[0].extra["noise"][0]) == {"epoch", "variance", "squared_gradient"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--runs", "0"], "--runs must be at least 1"),
        (["--sizes", "64"], "two or more ascending integers"),
        (["--sizes", "64", "8"], "ascending integers, each at least 1. Received: --sizes 64 8"),
        (["--sizes", "0", "64"], "each at least 1. Received: --sizes 0 64"),
        (["--sizes", "8", "16"], "--reference must be one of --sizes. Received: --reference 64"),
        (["--target", "94"], "at most 1. Received: --target 94"),
        (["--learning-rate", "0"], "--learning-rate must be above 0"),
        (["--temperature", "0"], "--temperature must be above 0"),
        (["--student-loss-weight", "0"], "--student-loss-weight must be above 0"),
    ],
)
def test_impossible_options_are_refused_before_any_work(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert message in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.iterdir())


def test_unknown_scalings_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--scaling", "cubic"])
    assert stopped.value.code == 2
    assert "sqrt" in capsys.readouterr().err
