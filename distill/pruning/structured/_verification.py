"""Proof that a pruned model computes what the original does with the removed channels set to zero."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

# Keras exports no names for the masks that tensors carry.
from distill._graphs import functional_of
from distill._keras import get_keras_mask, set_keras_mask
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._rebuild import keep_labels, rebuild
from distill.pruning.structured._running import run
from distill.pruning.structured._structure import Key, Slot, Structure
from distill.pruning.structured._tracing import Rule, read

VERIFIED = 1e-6  # computed in float64, but rescaled weights are rounded to float32
COPIED = 1e-4  # in the model's own precision, which may be half


@dataclasses.dataclass
class Proof:
    """How far a pruned model is from the original in which the removed channels are zero.

        proof = pruning.Proof()
        small = pruning.prune_channels(model, 0.5, verify=proof)
        print(proof.largest_error, proof.where)

    Attributes:
        inputs: examples, as for the model; 2 random ones if not given: normal, integers 0 or 1.
        largest_error: difference of any tensor, as a share of the largest absolute value of that tensor, or of 1 where
            that is smaller; of all steps, and `None` before the first.
        where: path of the layer that makes the tensor.
    """

    inputs: Any = None
    largest_error: float | None = None
    where: str = ""

    def find(
        self, structure: Structure, keep: np.ndarray, pruned: keras.Model, rules: Mapping[type, Rule]
    ) -> None:
        """Compares a pruned model with the original; arguments as for `largest_error`.

        Raises:
            RuntimeError: they differ by more than rounding explains.
        """
        error, where = largest_error(structure, keep, pruned, rules, self.inputs)
        if self.largest_error is None or not error <= self.largest_error:
            self.largest_error, self.where = error, where
        if not error <= (max(map(_rounding, structure.slots)) if structure.rescaled else VERIFIED):
            raise RuntimeError(
                f"Every tensor of a pruned model is the original's where the removed channels are zero. Received: a "
                f"difference of {error:.1e} at {where!r}. Is exact=False, or a rule of your own wrong?"
            )


def _rounding(slot: Slot) -> float:
    """Weights that are rescaled are rounded anew, in their own type."""
    return {"float16": 1e-2, "bfloat16": 1e-1}.get(slot.variable.dtype, VERIFIED)


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

    In the masked original all weights of removed channels are zero; these channels of its tensors need not be.

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
    original = rebuild(structure, keep, dtype="float64", masked=True)
    again = read(pruned, rules, exact=False)
    smaller = rebuild(again, np.ones(again.atoms.count, bool), dtype="float64")
    kept = keep_labels(structure, keep)
    given = _examples(structure.model, seed) if inputs is None else inputs
    axes = structure.tensors
    # What comes of a config may lack what a layer was told later; no mask here, and the model's own precision.
    copy = rebuild(structure, everything)
    same = _tensors(structure.model, given, {}, kept), _tensors(copy, given, {}, kept)
    unlike = [(_difference(*pair), key[0]) for key, pair in _paired(*same) if _difference(*pair) > COPIED]
    expected = _tensors(original, given, axes, kept)
    for key, whole in expected.items():
        for i, axis in enumerate(axes[key]):
            if axis is not None:
                whole = np.compress(kept[axis], whole, i)
        expected[key] = whole
    pairs = _paired(expected, _tensors(smaller, given, {}, kept))
    errors = [(_difference(whole, found), key[0]) for key, (whole, found) in pairs]
    return max([*unlike, *errors], key=lambda one: one[0], default=(0.0, ""))


def _paired(
    one: dict[Key, np.ndarray], other: dict[Key, np.ndarray]
) -> Iterator[tuple[Key, tuple[np.ndarray, np.ndarray]]]:
    if one.keys() != other.keys():
        raise RuntimeError(
            f"A pruned model has the calls of the original. Received: {sorted(one.keys() ^ other.keys())}."
        )
    for key, value in one.items():
        yield key, (value, other[key])


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest, as a share of the largest finite number, or of 1; infinities and NaN are equal to themselves."""
    if expected.shape != found.shape:
        return np.inf
    equal = (expected == found) | (np.isnan(expected) & np.isnan(found))
    unequal = np.abs(np.where(equal, 0, expected) - np.where(equal, 0, found))
    size = np.abs(expected, where=np.isfinite(expected), out=np.zeros(expected.shape)).max(initial=1)
    largest = float(unequal.max(initial=0) / size)
    return largest if np.isfinite(largest) else np.inf


def _examples(model: keras.Model, seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def example(tensor: keras.KerasTensor) -> np.ndarray:
        shape = [tensor.shape[0] or 2, *(64 if size is None else size for size in tensor.shape[1:])]
        if tensor.dtype == "string":
            raise ValueError(
                f"Random examples are numbers. Received: an input {tensor.name!r} of strings. Give verify examples."
            )
        if "float" in tensor.dtype:
            return rng.normal(size=shape)
        return rng.integers(0, 2, shape).astype(tensor.dtype)

    graph: Any = functional_of(model)
    return keras.tree.map_structure(example, graph.input)


def _tensors(
    model: keras.Model, inputs: Any, axes: Mapping[Key, Axes], kept: np.ndarray
) -> dict[Key, np.ndarray]:
    """All tensors of a pass; infinities on channels that are removed are taken out on the way."""
    found: dict[Key, np.ndarray] = {}

    def mask(key: Key, value: Any) -> Any:
        implicit = get_keras_mask(value)
        for i, axis in enumerate(axes.get(key, ())):
            if axis is not None:
                shape = [-1 if j == i else 1 for j in range(len(value.shape))]
                # A weight of zero makes NaN of an infinity.
                stays = ops.logical_or(kept[axis].reshape(shape), ops.isfinite(value))
                value = ops.where(stays, value, ops.zeros_like(value))
        found[key] = np.asarray(ops.convert_to_numpy(value), np.float64)
        if implicit is not None:
            set_keras_mask(value, implicit)
        return value

    run(model, inputs, mask)
    return found
