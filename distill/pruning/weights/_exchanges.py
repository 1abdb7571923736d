"""Exchanges of sparse training: some weights of a kernel go, as many others come."""

from collections import Counter
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from distill.pruning.weights._mask_callback import MaskCallback
from distill.pruning.weights._patterns import keep_largest
from distill.pruning.weights.importance import magnitude


def smallest(
    callback: MaskCallback, kept: Sequence[np.ndarray], fraction: float, most: Sequence[int]
) -> list[np.ndarray]:
    """Returns where the smallest kept weights of each kernel are: this fraction of them, but at most `most`."""
    dropped = []
    for size, mask, limit in zip(magnitude(callback.model, callback.kernels), kept, most, strict=True):
        stay = int(mask.sum()) - min(round(fraction * int(mask.sum())), int(limit))
        dropped.append(mask & ~keep_largest(np.where(mask, size, -np.inf), stay))
    return dropped


def largest(
    scores: Sequence[np.ndarray], free: Sequence[np.ndarray], dropped: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns the free places with the largest scores, as many in each kernel as were dropped."""
    return [
        keep_largest(np.where(places, score, -np.inf), int(gone.sum()))
        for score, places, gone in zip(scores, free, dropped, strict=True)
    ]


def exchange(
    callback: MaskCallback,
    step: int,
    kept: Sequence[np.ndarray],
    dropped: Sequence[np.ndarray],
    grown: Sequence[np.ndarray],
) -> None:
    """Moves the masks. New weights start at 0, in their kernel and in the optimizer's memory."""
    slots = slots_of(callback.model)
    for kernel, mask, old, new in zip(callback.kernels, callback.masks, kept, grown, strict=True):
        mask.apply(kernel.variable)  # another callback may have written to pruned places
        for slot in slots.get(id(kernel.variable), ()):
            value = ops.convert_to_tensor(slot)
            slot.assign(ops.where(new & ~old, ops.zeros_like(value), value))
    callback.set_masks(
        step, [(old & ~gone) | new for old, gone, new in zip(kept, dropped, grown, strict=True)]
    )


def slots_of(model: keras.Model) -> dict[int, list[keras.Variable]]:
    """Returns, by the id of each trained variable, the variables in which the optimizer remembers it."""
    found: dict[int, list[keras.Variable]] = {}
    prefixes = {id(variable): f"{variable.path.replace('/', '_')}_" for variable in model.trainable_variables}
    times: Counter[tuple[object, ...]] = Counter()
    for slot in model.optimizer.variables:
        # Keras names a slot after its variable. One variable's name may be the beginning of another's, and in nested
        # models two variables may share a name: slots of one shape come in the order of the variables.
        owners = [
            variable
            for variable in model.trainable_variables
            if slot.name.startswith(prefixes[id(variable)]) and tuple(slot.shape) == tuple(variable.shape)
        ]
        if owners:
            longest = max(len(prefixes[id(owner)]) for owner in owners)
            owners = [owner for owner in owners if len(prefixes[id(owner)]) == longest]
            key = slot.name, *slot.shape
            owner = owners[times[key] % len(owners)]
            times[key] += 1
            found.setdefault(id(owner), []).append(slot)
    return found
