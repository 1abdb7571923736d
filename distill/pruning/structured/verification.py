"""Proof that a pruned model computes what the original does with the removed channels set to zero."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from distill.graphs import functional_of
from distill.pruning.structured.labels import Axes
from distill.pruning.structured.rebuild import keep_labels, rebuild
from distill.pruning.structured.running import run
from distill.pruning.structured.structure import Key, Rule, Structure, read


def largest_error(
    structure: Structure,
    keep: np.ndarray,
    pruned: keras.Model,
    rules: Mapping[type, Rule],
    inputs: Any = None,
    *,
    seed: int = 0,
) -> tuple[float, str]:
    """Compares every tensor of the pruned model with that of the masked original, in float64.

    In the masked original all weights of removed channels are zero, and so are these channels of every tensor.

    Args:
        structure: of the original.
        keep: (atoms,) bool, what was kept.
        pruned: what was made of it.
        rules: that the structure was read by.
        inputs: as for the model; 2 random examples if not given: normal, integers 0 or 1.
        seed: of the random examples.

    Returns:
        The largest difference, as a share of the largest absolute value of its tensor or of 1 where that is smaller;
        and the path of that tensor.
    """
    everything = np.ones(structure.atoms.count, bool)
    original = rebuild(structure, everything, dtype="float64")
    again = read(pruned, rules, exact=False)
    smaller = rebuild(again, np.ones(again.atoms.count, bool), dtype="float64")
    kept = keep_labels(structure, keep)
    _mask_weights(structure, kept, original)
    given = _examples(structure.model, seed) if inputs is None else inputs
    axes = structure.tensors
    expected = _tensors(original, given, axes, kept)
    found = _tensors(smaller, given, {}, kept)
    if expected.keys() != found.keys():
        raise RuntimeError(
            f"A pruned model has the calls of the original. Received: {sorted(expected.keys() ^ found.keys())}."
        )
    worst = 0.0, ""
    for key, value in found.items():
        whole = expected[key]
        for i, axis in enumerate(axes[key]):
            if axis is not None:
                whole = np.compress(kept[axis], whole, i)
        if whole.shape != value.shape:
            return np.inf, key[0]
        error = float(np.abs(whole - value).max(initial=0) / max(1.0, np.abs(whole).max(initial=0)))
        if not error <= worst[0]:  # NaN too
            worst = error, key[0]
    return worst


def _examples(model: keras.Model, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def example(tensor: keras.KerasTensor) -> np.ndarray:
        shape = [2, *(64 if size is None else size for size in tensor.shape[1:])]
        if "float" in tensor.dtype:
            return rng.normal(size=shape)
        return rng.integers(0, 2, shape).astype(tensor.dtype)

    graph: Any = functional_of(model)
    return keras.tree.map_structure(example, graph._inputs_struct)


def _mask_weights(structure: Structure, kept: np.ndarray, original: keras.Model) -> None:
    ids = [id(variable) for variable in structure.model.variables]
    targets = dict(zip(ids, original.variables, strict=True))
    for slot in structure.slots:
        target = targets[id(slot.variable)]
        shape = [-1 if i == slot.axis else 1 for i in range(len(target.shape))]
        target.assign(ops.convert_to_numpy(target) * kept[slot.labels].reshape(shape))


def _tensors(
    model: keras.Model, inputs: Any, axes: Mapping[Key, Axes], kept: np.ndarray
) -> dict[Key, np.ndarray]:
    """All tensors of a pass; those with labels are masked on the way."""
    found: dict[Key, np.ndarray] = {}

    def mask(key: Key, value: Any) -> Any:
        for i, axis in enumerate(axes.get(key, ())):
            if axis is not None:
                shape = [-1 if j == i else 1 for j in range(len(value.shape))]
                value = value * ops.cast(kept[axis].reshape(shape), value.dtype)
        found[key] = np.asarray(ops.convert_to_numpy(value), np.float64)
        return value

    run(model, inputs, mask)
    return found
