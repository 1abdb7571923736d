"""The study of sparsities: its cells, tables and figures, and a smoke run."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from distill.studies import Surroundings, read
from experiments._networks import Network, plain_cnn
from experiments.sparsity import cell, report, study
from experiments.sparsity.__main__ import main
from experiments.sparsity.config import Sparsities

STUDY = Sparsities()
ARGUMENTS = ["--smoke", "--sparsities", "0.9", "--jobs", "1", "--wandb", "disabled"]


def test_pruned_networks_of_a_seed_share_all_but_what_their_names_say():
    dense = study.dense_cell(STUDY, 3)
    one = dataclasses.asdict(study.further_cell(STUDY, "one-shot", 0.9, 3).config)
    assert one["dense"] == dense.name
    for method in study.METHODS:
        other = dataclasses.asdict(study.further_cell(STUDY, method, 0.9, 3).config)
        changed = {key for key, value in other.items() if value != one[key]} - {"method"}
        assert changed == ({"temperature", "student_loss_weight"} if method == "distilled" else set())
    assert study.arm_name("gradual", 0.98) == "gradual-98"
    assert study.arm_name("longer", 0.0) == "longer"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 2 for an interval. Received: --seeds 1"),
        (["--sparsities", "0.9", "0.5"], "ascending. Received: --sparsities 0.9 0.5"),
        (["--sparsities", "0.5", "1.0"], "between 0 and 1"),
        (["--judged", "0.6"], "--judged must be one of --sparsities. Received: --judged 0.6"),
        (["--epochs", "1"], "--epochs must be at least 2"),
        (["--further-rate", "0"], "--further-rate must be above 0"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_trained(option, message, tmp_path, capsys):
    assert main(["--out", str(tmp_path), *option]) == 1
    assert message in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("*/cells"))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert main([*ARGUMENTS, "--out", str(out)]) == 0
    return out / "sparsity-smoke"


@pytest.mark.slow
def test_each_network_has_the_zeros_of_its_arm(smoke):
    raw = json.loads((smoke / "study.json").read_text())
    assert len(raw["arms"]) == 2 + len(study.METHODS)
    for arm in raw["arms"]:
        _, _, percent = arm["name"].rpartition("-")
        share = float(percent) / 100 if percent.isdigit() else 0.0
        for folder in arm["cells"]:
            found = json.loads((smoke / folder / "result.json").read_text())
            size = sum(np.prod(row["shape"]) for row in found["kernels"])
            assert sum(row["zeros"] for row in found["kernels"]) == round(size * share), arm["name"]


@pytest.mark.slow
def test_masks_move_once_an_epoch_and_early_epochs_are_not_selected(smoke):
    for method in ("gradual", "distilled"):
        (folder,) = smoke.glob(f"cells/{method}-90-seed0-*")
        found = json.loads((folder / "result.json").read_text())
        assert len(found["updates"]) == 2
        assert found["selected_epoch"] == 2
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines[2]["sparsity"] == pytest.approx(0.9, abs=1e-4)
        for row in found["kernels"]:
            assert lines[2][f"sparsity/{row['name']}"] == row["zeros"] / np.prod(row["shape"])
            assert found["updates"][-1][1][row["name"]] == pytest.approx(row["zeros"] / np.prod(row["shape"]))
    (folder,) = smoke.glob("cells/gradual-90-seed0-*")
    kernels = [w for w in keras.models.load_model(folder / "student.keras").get_weights() if w.ndim > 1]
    assert sum((w == 0).sum() for w in kernels) == round(0.9 * sum(w.size for w in kernels))


@pytest.mark.slow
def test_the_report_has_its_tables_and_pictures(smoke):
    found = read(smoke)
    grid = report.table(found)
    assert [row[0] for row in grid.rows] == ["90%"]
    accuracies = [100 * one.test["last"]["accuracy"] for one in found.arm("gradual-90").cells]
    assert grid.rows[0][2].startswith(f"{np.mean(accuracies):.2f} ± ")
    page = (smoke / "report.html").read_text()
    assert page.count("<svg") == 3
    for text in (
        "Test accuracy against sparsity: one-shot",
        "conv2d",
        "LiteRT",
        "scripts/study sparsity --smoke",
    ):
        assert text in page, text


@pytest.mark.slow
def test_a_second_run_trains_nothing(smoke, capsys):
    before = {path: path.stat().st_mtime_ns for path in smoke.glob("cells/*/result.json")}
    arguments = [*ARGUMENTS, "--out", str(smoke.parent)]
    assert main(arguments) == 0
    assert "cells already finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in smoke.glob("cells/*/result.json")} == before


@pytest.mark.parametrize("method", ["longer", "one-shot", "random", "gradual", "distilled"])
def test_networks_go_on_from_the_unpruned_one(method, tmp_path, monkeypatch):
    options = dataclasses.replace(STUDY, dataset="digits", network=Network((4,), 4))
    made = study.further_cell(options, method, 0.0 if method == "longer" else 0.5, 5)
    dense = plain_cnn(made.config.network, input_shape=(8, 8, 1), classes=10)
    (tmp_path / made.config.dense).mkdir()
    dense.save(tmp_path / made.config.dense / "teacher.keras")
    seen = {}

    def fit_and_measure(model, network, batches, **kwargs):
        seen.update(kwargs, weights=network.get_weights())
        return {}

    monkeypatch.setattr(cell, "fit_and_measure", fit_and_measure)
    cell.train(made, tmp_path / "own", surroundings=Surroundings())
    moves = method in ("gradual", "distilled")
    assert (len(seen["callbacks"]), seen["first_epoch"]) == ((1, 10) if moves else (0, 0))
    kernels = zip(seen["weights"][::2], dense.get_weights()[::2], strict=True)
    zeros = 0
    for weights, before in kernels:
        np.testing.assert_array_equal(weights[weights != 0], before[weights != 0])
        zeros += int((weights == 0).sum())
    size = sum(w.size for w in seen["weights"][::2])
    assert zeros == (round(size / 2) if method in ("one-shot", "random") else 0)
