"""Prunes channels and weights around every layer and operation of Keras, and proves what is left.

Each of the tiny models of layer_models.py loses half of its channels to `prune_channels` with verify=True, once with
exact=False, and half of its weights to `prune`. Models whose only channels are their outputs get two more dense layers,
so that there is something to remove behind the layer that they are about. A smaller model is also saved and loaded, and
must answer as before; the model that it came from must not have changed. Pruned weights must stay zero in a step of
training, and pruning must not change the others.

Command: scripts/checks/surgery. It takes about 8 minutes on two cores; give names to check only some of the models.
Writes docs/surgery.md, unless names are given, and prints the table.
Expected: no proof fails, and nothing is refused by an error of Keras or TensorFlow. Exit status 1 otherwise.
"""

import dataclasses
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tyro
from layer_models import MODELS
from sweep import DOCS, Cell, Page, answers, examples_of, number, part_of, run, short

import distill
from distill import pruning

COLUMNS = {
    "channels": "cut with proof",
    "channels, exact=False": "cut with exact=False",
    "which channels stay, and why": "",
    "weights": "pruned by single weights",
}
HEAD = """# What pruning can do with each layer of Keras

Each row is a tiny model around one layer or operation, usually between two layers with weights: their channels pass
through it. A dash means that nothing can be removed.

- **channels**: `pruning.prune_channels(model, 0.5, round_to=1, verify=True)`. The share of the parameters that is left,
  and the largest difference that the proof found: every tensor of the smaller model against the original's with the
  removed channels set to zero, in float64, relative to the tensor's largest value.
- **channels, exact=False**: the same with `exact=False`, which also removes channels that a layer averages over. The
  averages then change by intention, so there is nothing to prove. "=" means that `exact` makes no difference here.
- **which channels stay, and why**: the layer in the way and the reason, with `exact=True`. Outputs of the model, which
  always stay, are left out.
- **weights**: `pruning.prune(model, 0.5)`. The number of kernels that got a mask and the share of zeros in them, which
  stay zero in training; then weights that were left alone, apart from biases and the like.

{counts}

Written by `scripts/checks/surgery`; do not edit. Versions: {versions}. The models are in
`scripts/checks/layer_models.py`.

"""
PAGE = Page(DOCS / "surgery.md", HEAD, COLUMNS, ("keras", "tensorflow"))
OUTPUT = "it is an output of the model"
PACKAGE = Path(distill.__file__).parent


@dataclasses.dataclass(frozen=True)
class Check:
    """Prunes channels and weights around the layers and operations of Keras.

    Attributes:
        names: models of layer_models.py, such as "Conv2D"; all by default.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = tuple(MODELS)


def built(name: str) -> keras.Model:
    """The model, with two dense layers more if its outputs are its only channels."""
    keras.utils.clear_session()  # names of layers begin at 0, whatever was built before
    model = MODELS[name]()
    output = model.output
    only_outputs = {group.locked for group in pruning.explain(model).groups} <= {OUTPUT}
    if not only_outputs or not isinstance(output, keras.KerasTensor) or "float" not in output.dtype:
        return model
    more = keras.layers.Dense(6, activation="relu", name="more")(output)
    return keras.Model(model.input, keras.layers.Dense(3, name="last")(more), name="tiny")


def channels(name: str) -> Cell:
    """Cuts channels with proof."""
    model = built(name)
    x = examples_of(model)
    words = any(one.dtype == "string" for one in keras.tree.flatten(model.input))
    proof = pruning.Proof(x if words else None)
    before = [np.array(weight) for weight in model.weights]
    try:
        small = pruning.prune_channels(model, 0.5, round_to=1, verify=proof)
    except RuntimeError as error:
        if proof.largest_error is None:
            raise
        return Cell(f"WRONG: {short(str(error))}", wrong=True)
    if not all(map(np.array_equal, before, [np.array(weight) for weight in model.weights])):
        raise AssertionError("the original has changed")
    with tempfile.TemporaryDirectory() as folder:
        small.save(Path(folder, "small.keras"))
        again = keras.models.load_model(Path(folder, "small.keras"))
    if not all(map(np.array_equal, answers(small, x), answers(again, x))):
        raise AssertionError("the smaller model answers otherwise after it is loaded")
    share = small.count_params() / model.count_params()
    return Cell(f"{share:.0%}, {number(proof.largest_error)}", done=True)


def channels_not_exact(name: str) -> Cell:
    """Cuts channels that are averaged over too."""
    model = built(name)
    small = pruning.prune_channels(model, 0.5, round_to=1, exact=False)
    if str(pruning.explain(model, exact=True)) == str(pruning.explain(model, exact=False)):
        return Cell("=", done=True)
    return Cell(f"{small.count_params() / model.count_params():.0%}", done=True)


def staying(name: str) -> Cell:
    """The layers in the way of channels."""
    found = pruning.explain(built(name))
    return Cell(
        "; ".join(dict.fromkeys(short(one.locked) for one in found.groups if one.locked not in ("", OUTPUT)))
    )


def weights(name: str) -> Cell:
    """Prunes single weights, which must stay zero in training."""
    model = built(name)
    before = {weight.path: np.array(weight) for weight in model.weights}
    found = pruning.prune(model, 0.5)
    for weight in model.weights:
        value, old = np.array(weight), before.get(weight.path)
        if old is not None and not np.array_equal(value, np.where(value == 0, 0, old)):
            raise AssertionError(f"{weight.path} has changed where it is not zero")
    if not np.array_equal(*(answers(one, examples_of(one))[0] for one in (model, _zeroed(name, model)))):
        raise AssertionError("the model answers otherwise than one with the same zeros and no masks")
    _train(model)
    if pruning.measure_sparsity(model).zeros < found.zeros:
        raise AssertionError("zeros are lost in training")
    kernels = f"{len(found.kernels)} kernel{'s' * (len(found.kernels) != 1)}, {found.sparsity:.0%}"
    left = f"; not {', '.join(found.skipped)}" * bool(found.skipped)
    return Cell(kernels + left, done=True)


def _zeroed(name: str, pruned: keras.Model) -> keras.Model:
    """The model as it is built, with the weights of the pruned one."""
    model = built(name)
    values = {weight.path: np.array(weight) for weight in pruned.weights}
    for weight in model.weights:
        weight.assign(values[weight.path])
    return model


def _train(model: keras.Model) -> None:
    """Trains for a step."""
    size = keras.tree.flatten(model.input)[0].shape[0] or 8
    x = part_of(examples_of(model), 0, size)
    model.compile("sgd", "mse", run_eagerly=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist")  # behind argmax and the like
        model.train_on_batch(x, keras.tree.map_structure(keras.ops.zeros_like, model(x)))


CELLS = (channels, channels_not_exact, staying, weights)


def row(name: str) -> list[Cell]:
    """One model in all columns."""
    return [safe(cell, name) for cell in CELLS]


def safe(cell: Any, name: str) -> Cell:
    """Returns a cell, which may also say what the library refused or what broke."""
    try:
        return cell(name)
    except Exception as error:
        ours = PACKAGE in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parents
        if isinstance(error, ValueError) and ours:
            text = str(error)
            return Cell("–" if text.startswith("Nothing in ") else f"– {short(text)}")
        return Cell(f"BROKEN: {type(error).__name__}: {short(str(error))}", wrong=True)


if __name__ == "__main__":
    sys.exit(run(row, tyro.cli(Check).names, PAGE))
