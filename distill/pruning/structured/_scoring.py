"""Turns scores along axes into one score for each unit that can be removed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from distill.pruning.structured._groups import Group
from distill.pruning.structured._structure import Structure


class Scored(NamedTuple):
    """Scores along an axis of a weight or tensor.

    Attributes:
        labels: labels along the axis, from a slot or tensor of the structure.
        scores: (labels,) scores; the higher the score, the longer the channel stays.
    """

    labels: np.ndarray
    scores: np.ndarray


Reduction = Literal["mean", "sum", "max"]
Normalization = Literal["mean", "max"] | None

# A function that scores the channels of a model, along any number of axes of its weights and tensors.
Importance = Callable[[Structure], Iterable[Scored]]


def score_atoms(
    structure: Structure,
    groups: Sequence[Group],
    importance: Importance,
    reduce: Reduction = "mean",
    normalize: Normalization = "mean",
) -> np.ndarray:
    """The score of every atom.

    Args:
        structure: structure of the model.
        groups: groups of the model that are pruned.
        importance: function that scores axes.
        reduce: how to combine the scores of an atom, on several axes or at several positions of one axis.
        normalize: what to divide the scores of each group by so that groups can be compared: their mean or their
            largest; `None` leaves them as they are.

    Returns:
        (atoms,) float64; 0 for an atom without a score.

    Raises:
        ValueError: there are more or fewer scores than positions, scores are not finite, or a group has none.
    """
    total, count = np.zeros(structure.atoms.count), np.zeros(structure.atoms.count)
    largest = np.full(structure.atoms.count, -np.inf)
    for labels, given in importance(structure):
        scores = np.asarray(given, np.float64)
        if scores.shape != labels.shape or not np.isfinite(scores).all():
            what = (
                "scores that are not finite"
                if scores.shape == labels.shape
                else f"scores of shape {scores.shape}"
            )
            where = next(
                (f"{s.path}/{s.variable.name}" for s in structure.slots if s.labels is labels), "a tensor"
            )
            raise ValueError(
                "An importance must give each position of an axis a finite score. Received: "
                f"{what} for {labels.size} positions of {where}."
            )
        of = structure.atoms.of[labels]
        np.maximum.at(largest, of, scores)
        total += np.bincount(of, scores, structure.atoms.count)
        count += np.bincount(of, minlength=structure.atoms.count)
    for group in groups:
        if not count[group.atoms].all():
            raise ValueError(
                "An importance must score every channel that can be removed. Received: no score for channels of "
                f"{group.name!r}. Exclude this layer, or use another importance."
            )
    scores = {"mean": total / np.maximum(count, 1), "sum": total, "max": largest}[reduce]
    for group in groups if normalize else ():
        own = scores[group.atoms]
        level = own.mean() if normalize == "mean" and own.size else own.max(initial=0)
        scores[group.atoms] = own / level if level > 0 else own
    return scores
