"""How much a channel matters: scores for the axes of weights, and what they come to for what is removed as a whole."""

from collections.abc import Callable, Sequence
from typing import Literal

import keras
import numpy as np
from keras import layers, ops

from distill.pruning.structured.groups import Group
from distill.pruning.structured.structure import Slot, Structure

# A model and the axes of its weights -> for each axis a score of every position, or `None` where it says nothing.
Importance = Callable[[keras.Model, Sequence[Slot]], Sequence[np.ndarray | None]]


def l1(model: keras.Model, slots: Sequence[Slot]) -> list[np.ndarray | None]:
    """Sums of absolute weights, of all kernels that make or read a channel (Li et al. 2017, arXiv:1608.08710)."""
    return [_norm(value, slot.axis, 1) for slot, value in _kernels(slots)]


def l2(model: keras.Model, slots: Sequence[Slot]) -> list[np.ndarray | None]:
    """Sums of squared weights, of all kernels that make or read a channel (Fang et al. 2023, arXiv:2301.12900)."""
    return [_norm(value, slot.axis, 2) for slot, value in _kernels(slots)]


def batch_norm_scale(model: keras.Model, slots: Sequence[Slot]) -> list[np.ndarray | None]:
    """Absolute scales of BatchNormalization (Network Slimming: Liu et al. 2017, arXiv:1708.06519)."""
    return [
        np.abs(_value(slot.variable))
        if isinstance(slot.layer, layers.BatchNormalization) and slot.variable is slot.layer.gamma
        else None
        for slot in slots
    ]


def fpgm(model: keras.Model, slots: Sequence[Slot]) -> list[np.ndarray | None]:
    """Sums of distances from the other filters: the one in the middle says least (He et al. 2019, arXiv:1811.00250)."""
    scores: list[np.ndarray | None] = []
    for slot, value in _kernels(slots):
        if value is None or slot.role != "output":
            scores.append(None)
            continue
        filters = np.moveaxis(value, slot.axis, 0).reshape(value.shape[slot.axis], -1).astype(np.float64)
        squares = (filters**2).sum(1)
        distances = squares[:, None] + squares[None] - 2 * filters @ filters.T
        scores.append(np.sqrt(np.maximum(distances, 0)).sum(1))
    return scores


def lamp(model: keras.Model, slots: Sequence[Slot]) -> list[np.ndarray | None]:
    """Squared norm over that of all filters that are as large or larger (Lee et al. 2021, arXiv:2010.07611)."""
    scores: list[np.ndarray | None] = []
    for slot, value in _kernels(slots):
        squares = _norm(value, slot.axis, 2) if slot.role == "output" else None
        if squares is not None:
            order = np.argsort(-squares, kind="stable")
            remaining = np.cumsum(squares[order])
            squares[order] = squares[order] / np.where(remaining > 0, remaining, 1)
        scores.append(squares)
    return scores


def random(seed: int) -> Importance:
    """Uniform numbers: the baseline that any other has to beat.

    Args:
        seed: of numpy's generator.
    """
    rng = np.random.default_rng(seed)

    def scores(model: keras.Model, slots: Sequence[Slot]) -> list[np.ndarray | None]:
        return [rng.random(slot.labels.size) for slot in slots]

    return scores


def score_atoms(
    structure: Structure,
    groups: Sequence[Group],
    importance: Importance,
    normalize: Literal["mean", "max"] | None = "mean",
) -> np.ndarray:
    """What an importance comes to for each atom: the mean over all axes of weights that it is on.

    Args:
        structure: of the model.
        groups: of it; within each, scores are divided by their mean or largest, so that groups can be compared.
        importance: scores the axes.
        normalize: by what; `None` leaves scores as they are.

    Returns:
        (atoms,) float64; 0 where nothing is said of an atom.

    Raises:
        ValueError: scores are of another number than positions, or not finite; nothing is said of a group.
    """
    found = list(importance(structure.model, structure.slots))
    if len(found) != len(structure.slots):
        raise ValueError(
            "An importance gives scores, or None, for each axis. Received: "
            f"{len(found)} for {len(structure.slots)} axes."
        )
    total, count = np.zeros(structure.atoms.count), np.zeros(structure.atoms.count)
    for slot, given in zip(structure.slots, found, strict=True):
        if given is None:
            continue
        scores = np.asarray(given, np.float64)
        if scores.shape != slot.labels.shape or not np.isfinite(scores).all():
            raise ValueError(
                "An importance gives each position of an axis a finite score. Received: "
                f"{'numbers that are not finite' if scores.shape == slot.labels.shape else scores.shape} for axis "
                f"{slot.axis} of {slot.path}/{slot.variable.name} with {slot.labels.size} positions."
            )
        of = structure.atoms.of[slot.labels]
        total += np.bincount(of, scores, structure.atoms.count)
        count += np.bincount(of, minlength=structure.atoms.count)
    for group in groups:
        if not count[group.atoms].all():
            raise ValueError(
                f"Each channel has a score. Received: none for {group.name!r}. Keep it, or use another importance."
            )
    scores = total / np.maximum(count, 1)
    for group in groups if normalize else ():
        own = scores[group.atoms]
        level = own.mean() if normalize == "mean" and own.size else own.max(initial=0)
        scores[group.atoms] = own / level if level > 0 else own
    return scores


def _kernels(slots: Sequence[Slot]) -> list[tuple[Slot, np.ndarray | None]]:
    """The values of what has more than one axis, read once each."""
    values: dict[int, np.ndarray] = {}
    for slot in slots:
        if len(slot.variable.shape) > 1 and id(slot.variable) not in values:
            values[id(slot.variable)] = _value(slot.variable)
    return [(slot, values.get(id(slot.variable))) for slot in slots]


def _value(variable: keras.Variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable)).astype(np.float32)


def _norm(value: np.ndarray | None, axis: int, power: int) -> np.ndarray | None:
    """Sums of the powers of absolute values over all other axes."""
    if value is None:
        return None
    rows = np.moveaxis(np.abs(value), axis, 0).reshape(value.shape[axis], -1)
    return (rows**power).sum(1, dtype=np.float64)
