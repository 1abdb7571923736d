"""Counts parameters and multiply-adds of a model from what stays of it, and measures its latency."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from distill.cost import Lengths, calls_of, latency
from distill.pruning.structured._structure import Size, Structure

# (atoms,) bool, which atoms stay -> parameters or multiply-adds.
Cost = Callable[[np.ndarray], int]


def parameters_of(structure: Structure) -> Cost:
    """Parameters, counted as `distill.cost.parameters` does."""
    return _cost(structure, [(variable, ()) for variable in structure.model.weights])


def macs_of(structure: Structure, lengths: Lengths = None) -> Cost:
    """Multiply-adds with kernels, counted as `distill.cost` does.

    Raises:
        ValueError: an input has a size that lengths do not tell, or the multiply-adds of a layer with weights are
            unknown.
    """
    cost = _cost(structure, [(product.variable, product.sizes) for product in structure.products])
    rest = _uncounted(structure, lengths)
    return lambda keep: cost(keep) + rest


def milliseconds(model: keras.Model, lengths: Lengths = None) -> float:
    """The time of one example on this machine, by `distill.cost.latency`."""
    return latency(model, lengths=lengths).median_ms


def _uncounted(structure: Structure, lengths: Lengths) -> int:
    """Multiply-adds that no rule counts, because none of their sizes can change."""
    own = {path for path, _, _ in structure.tensors}
    everything = np.ones(structure.atoms.count, bool)
    counted: dict[str, int] = collections.defaultdict(int)
    for product in structure.products:
        counted[_within(product.path, own)] += _cost(structure, [(product.variable, product.sizes)])(
            everything
        )
    rest: dict[str, int] = collections.defaultdict(int)
    for call in calls_of(structure.model, lengths=lengths).calls:
        path = _within(call.path, own)
        if call.products is not None:
            rest[path] += call.products.weights
        elif path in counted:
            rest[path] = counted[path]  # the count of the rule stands
        elif isinstance(call.operation, keras.Layer) and call.operation.weights:
            raise ValueError(call.unknown)
    for slot in structure.slots:
        path = _within(slot.path, own)
        if rest[path] and path not in counted:
            raise ValueError(
                "For a target of multiply-adds, a rule must say how often the weights that it cuts are used. Received: "
                f"the rule of {path!r}, without call.multiplies. Add it, or use ratio."
            )
    return sum(rest.values()) - sum(counted[path] for path in rest)


def _within(path: str, known: set[str]) -> str:
    """The layer of the graph that a layer inside it belongs to."""
    while path not in known:
        path = path.rpartition("/")[0]
    return path


def _cost(structure: Structure, uses: Sequence[tuple[Any, Sequence[Size]]]) -> Cost:
    """The sum over `uses` of the size of a weight times the number of positions that it is used at."""
    axes: dict[int, dict[int, np.ndarray]] = {}
    for slot in structure.slots:
        axes.setdefault(id(slot.variable), {})[slot.axis] = slot.labels
    terms = []
    for variable, along in uses:
        cut = axes.get(id(variable), {})
        sizes = [
            *along,
            *(cut.get(i, size) for i, size in enumerate(() if variable is None else variable.shape)),
        ]
        if any(size is None for size in sizes):
            raise ValueError(
                "Multiply-adds are counted for one example, so all its sizes must be known. Received: "
                f"{structure.model.name!r}, where some are not. Give them with lengths=, a number or examples, or "
                "rebuild the model with a fixed keras.Input shape."
            )
        fixed = math.prod(size for size in sizes if not isinstance(size, np.ndarray))
        terms.append((fixed, [structure.atoms.of[size] for size in sizes if isinstance(size, np.ndarray)]))

    def cost(keep: np.ndarray) -> int:
        return sum(
            fixed * math.prod(int(np.count_nonzero(keep[axis])) for axis in cut) for fixed, cut in terms
        )

    return cost
