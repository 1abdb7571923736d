"""The cores of scripts/checks/formats and surgery on a few models: what they count as done, refused and broken."""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import BACKEND

from distill import pruning

if BACKEND != "tensorflow":
    pytest.skip("LiteRT and SavedModel are TensorFlow's", allow_module_level=True)

CHECKS = Path(__file__).parents[2] / "scripts" / "checks"


@pytest.fixture(scope="module")
def checks():
    """The modules formats, surgery and sweep, which import each other by name as the commands do."""
    sys.path.insert(0, str(CHECKS))
    try:
        yield {name: importlib.import_module(name) for name in ("formats", "surgery", "sweep")}
    finally:
        sys.path.remove(str(CHECKS))


@pytest.mark.slow
def test_a_dense_model_is_written_to_every_format(checks):
    formats = checks["formats"]
    cells = dict(zip(formats.FORMATS, formats.row("Dense"), strict=True))
    assert all(cell.done and not cell.wrong for cell in cells.values()), cells
    for name in ("LiteRT float32", "ONNX", "SavedModel", ".keras"):
        assert float(cells[name].text) < 1e-5
    assert float(cells["LiteRT int8"].text) < 0.1


def test_a_file_that_answers_otherwise_is_wrong(checks, monkeypatch):
    formats = checks["formats"]
    monkeypatch.setattr(formats, "write_checked", _writes_zeros)
    cell = formats.cell("Dense", "SavedModel")
    assert cell.wrong
    assert cell.text.startswith("WRONG: ")


def _writes_zeros(model, path, form, inputs):
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    model.export(path, verbose=False)


def test_channels_of_a_convolution_are_cut_with_proof(checks):
    surgery = checks["surgery"]
    cells = surgery.row("Conv2D")
    assert [cell.wrong for cell in cells] == [False] * 4
    # before: 4 → 2 filters of 3 × 3 × 4; conv2d: 6 → 3 of 3 × 3 × 2; after: 6 · 6 · 3 inputs of 3 units.
    left, whole = (36 * 2 + 2) + (18 * 3 + 3) + (108 * 3 + 3), (36 * 4 + 4) + (36 * 6 + 6) + (216 * 3 + 3)
    share, error = cells[0].text.split(", ")
    assert share == f"{left / whole:.0%}"
    assert float(error) < 1e-12
    assert [cell.text for cell in cells[1:]] == ["=", "", "3 kernels, 50%"]


def test_a_layer_that_averages_over_channels_is_cut_if_not_exact(checks):
    exact, free, why, _ = checks["surgery"].row("LayerNormalization")
    assert (exact.text, exact.done) == ("–", False)
    assert free.done
    assert free.text.endswith("%")
    assert "LayerNormalization averages over channels" in why.text


def test_a_proof_that_fails_and_an_error_of_keras_are_wrong(checks, monkeypatch):
    surgery = checks["surgery"]

    def unlike(model, ratio, *, round_to, verify):
        verify.largest_error, verify.where = 0.5, "before"
        raise RuntimeError("Every tensor of the pruned model must equal that of the original.")

    monkeypatch.setattr(pruning, "prune_channels", unlike)
    assert surgery.channels("Dense").wrong

    def raw(*args, **kwargs):
        keras.ops.reshape(np.zeros(3), (2,))

    monkeypatch.setattr(pruning, "prune_channels", raw)
    broken = surgery.safe(surgery.channels, "Dense")
    assert broken.wrong
    assert broken.text.startswith("BROKEN: ")


def test_the_page_counts_what_is_done(checks, tmp_path):
    sweep = checks["sweep"]
    page = sweep.Page(
        tmp_path / "page.md", "Of {versions}: {counts}\n\n", {"a": "cut", "b": "", "c": "kept"}, ("keras",)
    )
    done, not_done = sweep.Cell("1", done=True), sweep.Cell("– no")
    text = page.text(["| x |"], [[done, done, not_done], [done, not_done, not_done]])
    assert text == f"Of keras {keras.__version__}: Of 2 models, 2 are cut, 0 are kept.\n\n| x |\n"
