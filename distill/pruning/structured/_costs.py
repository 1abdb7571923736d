"""What a model has of parameters and multiply-adds, by what stays of it."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from distill.cost import calls_of
from distill.pruning.structured._structure import Size, Structure

Cost = Callable[[np.ndarray], int]  # which atoms stay -> parameters or multiply-adds


def parameters_of(structure: Structure) -> Cost:
    """Parameters, as `distill.cost.parameters` counts them, by what stays."""
    return _cost(structure, [(variable, ()) for variable in structure.model.weights])


def macs_of(structure: Structure) -> Cost:
    """Multiply-adds of products with kernels, as `distill.cost` counts them, by what stays.

    Raises:
        ValueError: the model's inputs have unknown sizes; those of a layer with weights are not known.
    """
    cost = _cost(structure, [(product.variable, product.sizes) for product in structure.products])
    rest = _uncounted(structure)
    return lambda keep: cost(keep) + rest


def _uncounted(structure: Structure) -> int:
    """Multiply-adds that no rule counts, because all that they depend on stays."""
    own = {path for path, _, _ in structure.tensors}
    everything = np.ones(structure.atoms.count, bool)
    counted: dict[str, int] = collections.defaultdict(int)
    for product in structure.products:
        counted[_within(product.path, own)] += _cost(structure, [(product.variable, product.sizes)])(
            everything
        )
    rest: dict[str, int] = collections.defaultdict(int)
    for call in calls_of(structure.model).calls:
        path = _within(call.path, own)
        if call.products is not None:
            rest[path] += call.products.weights
        elif path in counted:
            rest[path] = counted[path]  # the rule knows better
        elif isinstance(call.operation, keras.Layer) and call.operation.weights:
            raise ValueError(call.unknown)
    for slot in structure.slots:
        path = _within(slot.path, own)
        if rest[path] and path not in counted:
            raise ValueError(
                "A rule says how often the weights are used that it lets be cut. Received: the rule of "
                f"{path!r}, without call.multiplies. Add it, or ask for a ratio."
            )
    return sum(rest.values()) - sum(counted[path] for path in rest)


def _within(path: str, known: set[str]) -> str:
    """The layer of the graph that a layer inside it belongs to."""
    while path not in known:
        path = path.rpartition("/")[0]
    return path


def _cost(structure: Structure, uses: Sequence[tuple[Any, Sequence[Size]]]) -> Cost:
    """The sum over all uses: of the product of a weight's sizes, and of those it is used along."""
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
                "Multiply-adds are of one example, all of whose sizes must be known. Received: "
                f"{structure.model.name!r}, where they are not. Rebuild the model with a fixed keras.Input shape."
            )
        fixed = math.prod(size for size in sizes if not isinstance(size, np.ndarray))
        terms.append((fixed, [structure.atoms.of[size] for size in sizes if isinstance(size, np.ndarray)]))

    def cost(keep: np.ndarray) -> int:
        return sum(
            fixed * math.prod(int(np.count_nonzero(keep[axis])) for axis in cut) for fixed, cut in terms
        )

    return cost
