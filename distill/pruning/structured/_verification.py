"""Proves that a pruned model computes what the original does with the removed channels set to zero."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from distill._graphs import functional_of, nested_calls
from distill._keras import get_keras_mask, set_keras_mask
from distill._types import Arrays, Tensor
from distill._untouched import untouched
from distill.pruning.structured._call import Rule
from distill.pruning.structured._cutting import keep_labels
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._running import run
from distill.pruning.structured._sharing import Weights, difference_in_sharing
from distill.pruning.structured._structure import Key, Slot, Structure
from distill.pruning.structured._tracing import read

VERIFIED = 1e-6  # computed in float64, but rescaled weights are rounded to float32
COPIED = 1e-4  # computed in the model's own precision, which may be half


@dataclasses.dataclass
class Proof:
    """Records how much a pruned model differs from the original with the removed channels set to zero.

    ```python
    from distill import pruning

    proof = pruning.Proof()
    small = pruning.prune_channels(model, 0.5, verify=proof)
    print(proof.largest_error, proof.where)
    ```

    Args:
        examples: inputs, as for the model; by default two random examples: normal numbers, or integers 0 and 1.

    Attributes:
        examples: see above.
        largest_error: largest difference in any tensor and round, as a share of the largest absolute value of that
            tensor, or of 1 if that value is smaller than 1; `None` before the first comparison.
        where: path of the layer that makes the tensor.
    """

    examples: Arrays = None
    largest_error: float | None = dataclasses.field(default=None, init=False)
    where: str = dataclasses.field(default="", init=False)


def prove(
    structure: Structure,
    keep: np.ndarray,
    pruned: keras.Model,
    rules: Mapping[type, Rule],
    proof: Proof,
    *,
    exact: bool = True,
) -> None:
    """Compares a pruned model with the original and records the largest difference.

    Args:
        structure: as for `largest_error`, like the three that follow.
        keep: what was kept.
        pruned: the pruned model.
        rules: the rules.
        proof: takes the difference.
        exact: whether the structure is exact.

    Raises:
        RuntimeError: the models differ by more than rounding explains, or share weights differently.
    """
    if difference := _difference_in_sharing(structure.model, pruned):
        raise RuntimeError(
            "Layers of the pruned model must share weights as those of the original do. Received: "
            f"{difference}. Please report this."
        )
    error, where = largest_error(structure, keep, pruned, rules, proof.examples)
    if proof.largest_error is None or not error <= proof.largest_error:
        proof.largest_error, proof.where = error, where
    if not error <= (max(map(_rounding, structure.slots)) if structure.rescaled else VERIFIED):
        raise RuntimeError(
            "Every tensor of the pruned model must equal that of the original with the removed channels set to zero. "
            f"Received: a relative difference of {error:.1e} at {where!r}. "
            + (
                "A rule is wrong: check your own, or exclude the layers around it."
                if exact
                else "exact=False removes channels that a normalization averages over, which changes it and all that "
                "follows, so only a model that is pruned with exact=True can be verified."
            )
        )


def _difference_in_sharing(model: keras.Model, pruned: keras.Model) -> str:
    """What the calls of two models share differently; "" if nothing."""
    one, other = (list(_weights_of_calls(model)) for model in (model, pruned))
    pairs = zip(one, other, strict=True)
    return difference_in_sharing(
        Weights(path, list(zip(sources, targets, strict=True))) for (path, sources), (_, targets) in pairs
    )


def _weights_of_calls(model: keras.Model) -> Iterator[tuple[str, list[keras.Variable]]]:
    """The weights that each call uses, of its layer or among its arguments, except weights that belong to no layer."""
    graph: Any = functional_of(model)
    own = {id(variable) for variable in model.variables}
    for path, node, _ in nested_calls(graph):
        given = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
        used = [leaf for leaf in given if isinstance(leaf, keras.Variable) and id(leaf) in own]
        is_graph = functional_of(node.operation) is not None
        yield path, [*used, *(() if is_graph else getattr(node.operation, "variables", ()))]


def _rounding(slot: Slot) -> float:
    """The error that rounding explains: weights that are rescaled are rounded again, in their own type."""
    return {"float16": 1e-2, "bfloat16": 1e-1}.get(slot.variable.dtype, VERIFIED)


def largest_error(
    structure: Structure,
    keep: np.ndarray,
    pruned: keras.Model,
    rules: Mapping[type, Rule],
    examples: Arrays = None,
    *,
    seed: int = 0,
) -> tuple[float, str]:
    """Compares every tensor of the pruned model with that of the masked original, in float64.

    In the masked original all weights of removed channels are zero. Those channels of its tensors need not be.

    Args:
        structure: structure of the original.
        keep: (atoms,) bool, what was kept.
        pruned: the pruned model.
        rules: rules that the structure was read with.
        examples: inputs, as for the model; if not given, two random ones: normal numbers, or integers 0 and 1.
        seed: seed of the random examples.

    Returns:
        The largest difference, as a share of the largest absolute value of its tensor, or of 1 if that is smaller; and
        the path of the layer that makes that tensor.
    """
    everything = np.ones(structure.atoms.count, bool)
    original = rebuild(structure, keep, dtype="float64", masked=True)
    again = read(pruned, rules, exact=False)
    smaller = rebuild(again, np.ones(again.atoms.count, bool), dtype="float64")
    kept = keep_labels(structure, keep)
    given = _random_examples(structure.model, seed) if examples is None else examples
    axes = structure.tensors
    # What a layer was told after it was made may be missing from its config. A copy in the model's own precision, with
    # nothing removed, shows it.
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
            "The pruned model must make the same calls as the original. Received: calls that only one of them makes, "
            f"{sorted(one.keys() ^ other.keys())}."
        )
    for key, value in one.items():
        yield key, (value, other[key])


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, as a share of the largest finite number or of 1; infinities and NaN equal themselves."""
    if expected.shape != found.shape:
        return np.inf
    equal = (expected == found) | (np.isnan(expected) & np.isnan(found))
    unequal = np.abs(np.where(equal, 0, expected) - np.where(equal, 0, found))
    size = np.abs(expected, where=np.isfinite(expected), out=np.zeros(expected.shape)).max(initial=1)
    largest = float(unequal.max(initial=0) / size)
    return largest if np.isfinite(largest) else np.inf


def _random_examples(model: keras.Model, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)

    def example(tensor: keras.KerasTensor) -> np.ndarray:
        shape = [tensor.shape[0] or 2, *(64 if size is None else size for size in tensor.shape[1:])]
        if tensor.dtype == "string":
            raise ValueError(
                f"Random examples can only be numbers. Received: input {tensor.name!r} of strings. Pass examples of "
                "your own as verify."
            )
        if "float" in tensor.dtype:
            return rng.normal(size=shape)
        return rng.integers(0, 2, shape).astype(tensor.dtype)

    graph: Any = functional_of(model)
    return keras.tree.map_structure(example, graph.input)


def _tensors(
    model: keras.Model, inputs: Arrays, axes: Mapping[Key, Axes], kept: np.ndarray
) -> dict[Key, np.ndarray]:
    """All tensors of a forward pass. Infinities in channels that are removed become zero on the way."""
    found: dict[Key, np.ndarray] = {}

    def mask(key: Key, value: Tensor) -> Tensor:
        implicit = get_keras_mask(value)
        for i, axis in enumerate(axes.get(key, ())):
            if axis is not None:
                shape = [-1 if j == i else 1 for j in range(len(value.shape))]
                # An infinity times a weight of zero would be NaN.
                stays = ops.logical_or(kept[axis].reshape(shape), ops.isfinite(value))
                value = ops.where(stays, value, ops.zeros_like(value))
        found[key] = np.asarray(ops.convert_to_numpy(value), np.float64)
        if implicit is not None:
            set_keras_mask(value, implicit)
        return value

    with untouched(model):
        run(model, inputs, mask)
    return found
