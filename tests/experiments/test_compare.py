"""The main study: its cells, its command line, and a smoke run."""

import contextlib
import dataclasses
import json

import keras
import numpy as np
import pytest

from distill import cost
from distill.studies import Cell, Surroundings, _cells, _command
from distill.studies import _execution as execution
from experiments._networks import Network, plain_cnn
from experiments.compare import cell, study
from experiments.compare.__main__ import main
from experiments.compare.config import Compare, Training

SMOKE = ["--smoke", "--seeds", "1"]
SAME_SIZE = ("alone", "smoothing", "distilled", "few-alone", "few-hard", "few-soft")


def test_a_smoke_run_ends_in_tables_and_a_report(tmp_path, monkeypatch, capsys):
    """Its cells run in this process; what becomes of a run that was killed is in tests/studies/test_faults.py."""
    study_dir = tmp_path / "compare-smoke"
    monkeypatch.setattr(_command, "workers", lambda *_, **__: contextlib.nullcontext(execution._Here()))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main([*SMOKE, "--jobs", "1", "--out", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    results = [json.loads(path.read_text()) for path in study_dir.glob("cells/*/result.json")]
    assert sorted(result["arm"] for result in results) == sorted(
        [
            *("teacher", "deep", "alone", "smoothing", "distilled", "pruned", "channels", "layers"),
            *("few-alone", "few-hard", "few-soft", "teacher-int8", "distilled-int8", "channels-int8"),
        ]
    )
    for result in results:
        assert 0 <= result["test"]["last"]["accuracy"] <= 1
        assert (result["test"]["last"]["agreement"] is None) == (result["arm"] in ("teacher", "deep"))
    sizes = [result["cost"]["file_bytes"] for result in results if result["arm"] in SAME_SIZE]
    assert (
        max(sizes) - min(sizes) < 300
    )  # the same network: only names differ, and no file contains an optimizer
    study = json.loads((study_dir / "study.json").read_text())
    assert set(study["latency_ms"]) == set(study["litert_bytes"]) == {result["arm"] for result in results}
    for arm in study["arms"]:
        name = arm["name"]
        if name.endswith("-int8"):
            file = study_dir / arm["cells"][0] / "int8.tflite"
            assert file.stat().st_size < study["litert_bytes"][name.removesuffix("-int8")]
            agreement = json.loads((file.parent / "result.json").read_text())["test"]["last"]["agreement"]
            assert agreement > 0.9 or name != "teacher-int8"
        else:
            file = study_dir / "litert" / f"{name}.tflite"
        assert file.stat().st_size == study["litert_bytes"][name]
    assert study["litert_bytes"]["pruned"] < 0.5 * study["litert_bytes"]["teacher"]  # its zeros are left out
    (pruned,) = (result["cost"] for result in results if result["arm"] == "pruned")
    (teacher,) = (result["cost"] for result in results if result["arm"] == "teacher")
    assert pruned["parameters"] == teacher["parameters"]
    kernels = 3 * 3 * 16, 3 * 3 * 16 * 32, 128 * 64, 64 * 10
    biases = 16 + 32 + 64 + 10
    assert pruned["nonzero"] == sum(kernels) - round(0.95 * sum(kernels)) + biases
    assert pruned["gzip_bytes"] < 0.4 * teacher["gzip_bytes"]
    (channels,) = (result["cost"] for result in results if result["arm"] == "channels")
    assert abs(channels["macs"] / teacher["macs"] - 0.1) <= 0.02 * 0.1
    deep, shorter = (r["cost"] for arm in ("deep", "layers") for r in results if r["arm"] == arm)
    convolution = 4 * 9 * 32 * 32
    assert deep["macs"] == teacher["macs"] + 4 * convolution
    assert (deep["macs"] - shorter["macs"]) / convolution in (2, 3, 4)  # two convolutions or blocks of two
    assert "Smoke run" in output
    assert str(study_dir / "report.html") in output.replace("\n", "")
    assert "<svg" in (study_dir / "report.html").read_text()
    for arm in study["arms"]:
        if arm["name"].endswith("-int8"):
            continue
        file = "teacher.keras" if arm["name"] in ("teacher", "deep") else "student.keras"
        assert keras.models.load_model(study_dir / arm["cells"][0] / file).output_shape == (None, 10)


def test_an_unknown_option_is_refused_with_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--temprature", "3"])
    assert stopped.value.code == 2
    assert "--temperature" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--epochs", "1"], "--epochs must be at least 2"),
        (["--sparsity", "1"], "as a share of zeros. Received: --sparsity 1"),
        (["--channels", "0"], "that remain. Received: --channels 0"),
        (
            ["--layers", "3"],
            "must lie between 1 and 2, the number of the deep network's residual blocks. Received: --layers 3",
        ),
        (["--labels", "9"], "--labels must be at least 10"),
    ],
)
def test_impossible_options_are_refused_before_any_work(arguments, message, capsys, tmp_path):
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert message in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.iterdir())


def test_every_field_can_be_set_from_the_command_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(Compare):
        prefix = {
            "teacher": "teacher.units",
            "deep": "deep.units",
            "student": "student.units",
            "surroundings": "wandb",
        }
        assert f"--{prefix.get(field.name, field.name).replace('_', '-')}" in shown


def test_arms_of_a_seed_share_all_but_what_is_compared():
    options = Compare()
    cells = {arm.name: study.student_cell(options, arm, 3) for arm in study.student_arms(options)}
    alone = dataclasses.asdict(cells["alone"].config)
    changed = {
        name: {key: value for key, value in dataclasses.asdict(one.config).items() if value != alone[key]}
        for name, one in cells.items()
    }
    assert changed["smoothing"] == {"label_smoothing": options.smoothing}
    assert changed["distilled"] == {
        "temperature": options.temperature, "student_loss_weight": options.student_loss_weight
    }  # fmt: skip
    pruned = changed["pruned"]
    assert pruned.pop("network") == dataclasses.asdict(options.teacher)
    assert pruned == {**changed["distilled"], "sparsity": options.sparsity}
    teacher, deep = dataclasses.asdict(options.teacher), dataclasses.asdict(options.deep)
    assert changed["channels"] == {**changed["distilled"], "network": teacher, "macs": options.channels}
    own = {"network": deep, "layers": options.layers, "teacher": study.deep_cell(options, 3).name}
    assert changed["layers"] == {**changed["distilled"], **own}
    assert changed["few-alone"] == {"labels": 120}
    assert set(changed["few-hard"]) <= {"labels", "pseudo_labels", "label_smoothing"}
    assert changed["few-soft"] == {"labels": 120, "temperature": options.low_temperature}
    assert cells.pop("layers").config.teacher == study.deep_cell(options, 3).name
    assert {one.config.teacher for one in cells.values()} == {study.teacher_cell(options, 3).name}


def test_every_tuned_arm_has_as_many_trials_and_its_default_among_them():
    options = Compare()
    assert {len(trials) for trials in study.TRIALS.values()} == {4}
    for trials in study.TRIALS.values():
        assert {name: getattr(options, name) for name in trials[0]} in trials
    assert not set(study.TUNING_SEEDS) & set(range(options.seeds))


def training_set(**changes):
    """Returns the batches of an arm: 60 one-pixel images whose values are their indices, and their targets."""
    x = np.arange(60, dtype="float32").reshape(60, 1, 1, 1)
    y = np.arange(60) % 10
    teacher = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    teacher.set_weights([np.zeros((1, 10), "float32"), np.eye(10, dtype="float32")[7]])  # always answers 7
    config = Training("digits", Network((4,), 4), 1, 16, 0.1, **changes)
    batches = cell._training_batches(config, 5, (x, y), teacher, 10)
    return [batch if isinstance(batch, tuple) else (batch, None) for batch in batches.as_numpy_iterator()]


def flat(batches):
    x = np.concatenate([x for x, _ in batches]).ravel().astype(int)
    return x, np.concatenate([y for _, y in batches])


def test_all_labels_once_an_epoch():
    x, targets = flat(training_set())
    assert sorted(x) == list(range(60))
    np.testing.assert_array_equal(targets, np.eye(10)[x % 10])
    assert not np.array_equal(x, np.sort(x))


def test_label_smoothing_spreads_its_share_evenly():
    x, targets = flat(training_set(label_smoothing=0.2))
    np.testing.assert_allclose(targets, 0.8 * np.eye(10)[x % 10] + 0.02, rtol=1e-6)


def test_few_labels_come_again_for_as_many_steps():
    batches = training_set(labels=20)
    x, targets = flat(batches)
    assert [len(x) for x, _ in batches] == [16, 16, 16, 12]
    assert len(set(x)) == 20
    assert np.bincount(np.array(sorted(set(x))) % 10).tolist() == [2] * 10
    np.testing.assert_array_equal(targets, np.eye(10)[x % 10])


def test_pseudo_labels_are_the_teachers_where_labels_may_not_be_seen():
    seen = set(flat(training_set(labels=20))[0])
    x, targets = flat(training_set(labels=20, pseudo_labels=True))
    assert sorted(x) == list(range(60))
    expected = [index % 10 if index in seen else 7 for index in x]
    np.testing.assert_array_equal(targets.argmax(axis=1), expected)


def test_distilling_without_labels_sees_every_image_and_no_label():
    batches = training_set(labels=20, temperature=4.0, student_loss_weight=0.0)
    assert all(y is None for _, y in batches)
    assert sorted(np.concatenate([x for x, _ in batches]).ravel()) == list(range(60))


def test_the_best_epoch_on_dev_is_kept_and_the_earliest_of_equals():
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    best = _cells.BestOnDev(network)
    for epoch, accuracy in enumerate([0.5, 0.75, 0.75, 0.25]):
        network.set_weights([np.full((1, 1), epoch)])
        best.on_epoch_end(epoch, {"val_accuracy": accuracy})
    assert best.epoch == 1
    np.testing.assert_array_equal(best.weights[0], [[1.0]])
    late = _cells.BestOnDev(network, first=2)
    for epoch, accuracy in enumerate([0.75, 0.9, 0.5, 0.25]):
        late.on_epoch_end(epoch, {"val_accuracy": accuracy})
    assert late.epoch == 2


def prepared(config, directory, monkeypatch):
    """Returns what a cell is about to train: how, with the network's weights, and the weights of its teacher."""
    teacher = plain_cnn(config.network, input_shape=(8, 8, 1), classes=10)
    (directory / "teacher-cell").mkdir(parents=True)
    teacher.save(directory / "teacher-cell" / "teacher.keras")
    seen = {}

    def fit_and_measure(model, network, batches, **kwargs):
        seen.update(kwargs, weights=network.get_weights(), macs=cost.macs(network))
        return {}

    monkeypatch.setattr(cell, "fit_and_measure", fit_and_measure)
    made = Cell(study="compare", arm="arm", seed=5, config=config)
    cell.train(made, directory / "own", surroundings=Surroundings())
    return seen, teacher.get_weights()


def test_the_pruned_network_starts_as_its_teacher_and_is_selected_once_it_is_pruned(tmp_path, monkeypatch):
    config = Training(
        "digits", Network((4,), 4), 5, 16, 0.1, teacher="teacher-cell", temperature=4.0, sparsity=0.5
    )
    seen, weights = prepared(config, tmp_path / "pruned", monkeypatch)
    assert all(map(np.array_equal, seen["weights"], weights))
    assert (len(seen["callbacks"]), seen["first_epoch"]) == (1, 2)
    seen, weights = prepared(dataclasses.replace(config, sparsity=0.0), tmp_path / "plain", monkeypatch)
    assert not np.array_equal(seen["weights"][0], weights[0])
    assert (len(seen["callbacks"]), seen["first_epoch"]) == (0, 0)


def test_networks_without_channels_and_layers_start_as_what_is_left_of_their_teacher(tmp_path, monkeypatch):
    config = Training(
        "digits", Network((8,), 8, blocks=1), 5, 16, 0.1, teacher="teacher-cell", temperature=4.0, layers=1
    )
    seen, weights = prepared(config, tmp_path / "layers", monkeypatch)
    assert [np.shape(one) for one in seen["weights"]] == [
        np.shape(one) for one in (*weights[:2], *weights[6:])
    ]
    assert all(map(np.array_equal, seen["weights"], [*weights[:2], *weights[6:]]))
    config = dataclasses.replace(config, layers=0, macs=0.25)
    seen, weights = prepared(config, tmp_path / "channels", monkeypatch)
    columns = {column.tobytes() for column in weights[0].reshape(9, 8).T}
    kept = {column.tobytes() for column in seen["weights"][0].reshape(9, -1).T}
    assert kept < columns
    whole = cost.macs(plain_cnn(config.network, input_shape=(8, 8, 1), classes=10))
    assert abs(seen["macs"] / whole - 0.25) <= 0.02 * 0.25
    assert (len(seen["callbacks"]), seen["first_epoch"]) == (0, 0)
