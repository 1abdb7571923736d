"""The study of channels: its cells, tables and figures, and a smoke run."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from distill import cost
from distill.studies import Surroundings, read
from experiments._networks import Network, normalized_cnn
from experiments.structured import cell, report, study
from experiments.structured.__main__ import main
from experiments.structured.config import Structured

STUDY = Structured(datasets=("digits",), network=Network((4, 8), 16))


def test_small_networks_of_a_seed_share_all_but_what_their_names_say():
    whole = study.whole_cell(STUDY, "digits", 3)
    one = dataclasses.asdict(study.small_cell(STUDY, "digits", "distilled", 0.8, 3).config)
    assert one["whole"] == whole.name
    for method in study.METHODS:
        other = dataclasses.asdict(study.small_cell(STUDY, "digits", method, 0.8, 3).config)
        changed = {key for key, value in other.items() if value != one[key]} - {"method"}
        labels = {"temperature", "student_loss_weight"} if method in ("fine-tuned", "scratch") else set()
        assert changed == labels | ({"learning_rate"} if method.startswith("scratch") else set())
    assert study.arm_name("mnist1d", "random", 0.3) == "mnist1d-random-30"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 2 for an interval. Received: --seeds 1"),
        (["--removed", "0.9", "0.5"], "ascending. Received: --removed 0.9 0.5"),
        (["--removed", "0.5", "1.0"], "between 0 and 1"),
        (["--judged", "0.7"], "--judged must be one of --removed. Received: --judged 0.7"),
        (["--datasets", "digits", "digits"], "none twice. Received: --datasets digits digits"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--further-rate", "0"], "--further-rate must be above 0"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_trained(option, message, tmp_path, capsys):
    assert main(["--out", str(tmp_path), *option]) == 1
    assert message in " ".join(capsys.readouterr().out.split())
    assert not list(tmp_path.glob("*/cells"))


@pytest.fixture(scope="module")
def whole():
    return normalized_cnn(STUDY.network, input_shape=(8, 8, 1), classes=10, name="whole")


@pytest.mark.parametrize("method", study.METHODS)
@pytest.mark.sweep(3)
def test_a_network_starts_small_from_the_weights_that_its_method_says(method, whole, tmp_path, monkeypatch):
    small = study.small_cell(STUDY, "digits", method, 0.6, 5)
    (tmp_path / small.config.whole).mkdir()
    whole.save(tmp_path / small.config.whole / "teacher.keras")
    seen = {}

    def fit_and_measure(model, network, batches, **kwargs):
        seen.update(kwargs, model=model, network=network)
        return dict(kwargs["also"]())

    monkeypatch.setattr(cell, "fit_and_measure", fit_and_measure)
    found = cell.train(small, tmp_path / "own", surroundings=Surroundings())
    network = seen["network"]
    assert abs(cost.macs(network) / cost.macs(whole) - 0.4) <= 0.02 * 0.4
    assert found["widths"] == {
        "conv0": 2,
        "conv1": 5,
        "embedding": 14,
        "logits": 10,
    }  # the same for every method
    assert (seen["model"] is network) == (method in ("fine-tuned", "scratch"))
    first, own = (np.moveaxis(np.asarray(m.get_layer("conv0").kernel), -1, 0) for m in (whole, network))
    taken = [any(np.array_equal(row, old) for old in first) for row in own]
    assert taken == [not method.startswith("scratch")] * 2
    assert 0 <= found["untrained"] <= 1
    assert seen["model"].optimizer.learning_rate.numpy() == np.float32(small.config.learning_rate)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        kept = ("distilled", "fine-tuned", "scratch-distilled", "random")
        patch.setattr(study, "METHODS", {name: study.METHODS[name] for name in kept})
        arguments = ["--smoke", "--removed", "0.8", "--jobs", "1", "--wandb", "disabled", "--out", str(out)]
        assert main(arguments) == 0
    return out / "structured-smoke"


@pytest.mark.slow
def test_the_report_has_its_tables_and_pictures(smoke):
    found = read(smoke)
    grid = report.table(found)
    assert [row[0] for row in grid.rows[1:]] == ["distilled", "fine-tuned", "scratch-distilled", "random"]
    accuracies = [100 * one.test["last"]["accuracy"] for one in found.arm("digits-fine-tuned-80").cells]
    assert grid.rows[2][1].startswith(f"{np.mean(accuracies):.2f} ± ")
    whole, small = (found.arm(f"digits-{name}").cells[0].cost["macs"] for name in ("whole", "distilled-80"))
    assert report.costs(found).rows[2][2] == f"{whole / small:.2f}"
    (folder,) = smoke.glob("cells/digits-random-80-seed0-*")
    (other,) = smoke.glob("cells/digits-random-80-seed1-*")
    before = [json.loads((one / "result.json").read_text())["untrained"] for one in (folder, other)]
    assert report.untrained(found).rows[1][2] == f"{100 * np.mean(before):.1f}"
    page = (smoke / "report.html").read_text()
    assert page.count("<svg") == 2
    for text in ("Test accuracy against cost: digits distilled", "scripts/study structured --smoke"):
        assert text in page, text
    assert keras.models.load_model(folder / "student.keras").output_shape == (None, 10)
