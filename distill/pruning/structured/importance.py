"""How much a channel matters: scores along axes of weights and tensors, and what they come to for what goes as one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from distill.pruning.structured._groups import Group
from distill.pruning.structured._operation_rules import ACTIVATIONS
from distill.pruning.structured._running import run
from distill.pruning.structured._structure import Key, Slot, Structure
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights.criteria._batches import batches, require_examples, require_finite
from distill.pruning.weights.criteria._weights import Criterion


class Scored(NamedTuple):
    """Scores along an axis, such as a weight's.

    Attributes:
        labels: along the axis, of a slot or tensor of the structure.
        scores: one for each of them; the higher, the longer the channel stays.
    """

    labels: np.ndarray
    scores: np.ndarray


Reduction = Literal["mean", "sum", "max"]
Normalization = Literal["mean", "max"] | None

# What is said of a model's channels: any number of scores for each, of which the mean counts.
Importance = Callable[[Structure], Iterable[Scored]]


def l1(structure: Structure) -> Iterator[Scored]:
    """Sums of absolute weights, of all kernels that make or read a channel (Li et al. 2017, arXiv:1608.08710)."""
    for slot, value in _kernels(structure):
        yield Scored(slot.labels, _rows(value, slot).sum(1, dtype=np.float64))


def l2(structure: Structure) -> Iterator[Scored]:
    """Sums of squared weights, of all kernels that make or read a channel (Fang et al. 2023, arXiv:2301.12900)."""
    for slot, value in _kernels(structure):
        yield Scored(slot.labels, (_rows(value, slot) ** 2).sum(1, dtype=np.float64))


def batch_norm_scale(structure: Structure) -> Iterator[Scored]:
    """Absolute scales of BatchNormalization (Network Slimming: Liu et al. 2017, arXiv:1708.06519)."""
    for slot in structure.slots:
        if isinstance(slot.layer, layers.BatchNormalization) and slot.variable is slot.layer.gamma:
            yield Scored(slot.labels, np.abs(_value(slot.variable)))


def fpgm(structure: Structure) -> Iterator[Scored]:
    """Sums of distances from a layer's other filters: one amid them says least (He et al. 2019, arXiv:1811.00250)."""
    for slot, value in _kernels(structure):
        if slot.role == "output":
            filters = np.moveaxis(value, slot.axis, 0).reshape(slot.labels.size, -1).astype(np.float64)
            squares = (filters**2).sum(1)
            distances = squares[:, None] + squares[None] - 2 * filters @ filters.T
            yield Scored(slot.labels, np.sqrt(np.maximum(distances, 0)).sum(1))


def lamp(structure: Structure) -> Iterator[Scored]:
    """A filter's squared norm over the sum of its own and all larger ones of its layer (Lee et al. 2021, 2010.07611).

    The paper's score, of whole filters in place of weights.
    """
    for slot, value in _kernels(structure):
        if slot.role == "output":
            squares = (_rows(value, slot) ** 2).sum(1, dtype=np.float64)
            order = np.argsort(-squares, kind="stable")
            left = np.cumsum(squares[order])
            squares[order] = squares[order] / np.where(left > 0, left, 1)
            yield Scored(slot.labels, squares)


def random(seed: int) -> Importance:
    """Uniform numbers: the baseline that any other has to beat.

    Args:
        seed: of numpy's generator.
    """

    def scores(structure: Structure) -> Iterator[Scored]:
        rng = np.random.default_rng(seed)
        for slot in structure.slots:
            yield Scored(slot.labels, rng.random(slot.labels.size))

    return scores


def of_weights(criterion: Criterion) -> Importance:
    """Sums of what a criterion says of single weights, over all that make or read a channel.

    `of_weights(criteria.taylor(data, loss))` is the first-order change of the loss (Molchanov et al. 2019,
    arXiv:1906.10771), `of_weights(criteria.obd(data, loss))` the second-order one by the Hessian's diagonal,
    `of_weights(criteria.wanda(data))` looks at what weights are multiplied with.

    Args:
        criterion: of `distill.pruning.criteria`, or any function like them.
    """

    def scores(structure: Structure) -> Iterator[Scored]:
        cut = {id(slot.variable) for slot in structure.slots}
        kernels = [one for one in find_kernels(structure.model).found if id(one.variable) in cut]
        found = criterion(structure.model, kernels)
        values = {id(one.variable): np.asarray(score) for one, score in zip(kernels, found, strict=True)}
        for slot in structure.slots:
            if id(slot.variable) in values:
                yield Scored(
                    slot.labels, _rows(values[id(slot.variable)], slot, signed=True).sum(1, dtype=np.float64)
                )

    return scores


def activation_mean(data: Any) -> Importance:
    """Mean absolute values of channels behind their activation, over data (Molchanov et al. 2017, arXiv:1611.06440).

    Args:
        data: a finite `tf.data.Dataset` of batches x, (x, y) or (x, y, sample_weight), of which x is used; or anything
            else that `criteria.wanda` takes. The model runs in inference mode.

    Raises:
        ValueError: the data can be gone through only once, never end, or are arrays of several lengths.
    """
    return _of_activations(data, np.abs)


def apoz(data: Any) -> Importance:
    """Share of values behind an activation that are not zero: 1 − APoZ (Hu et al. 2016, arXiv:1607.03250).

    Args:
        data: as for `activation_mean`.

    Raises:
        ValueError: as for `activation_mean`.
    """
    return _of_activations(data, lambda value: value != 0)


def _of_activations(data: Any, measure: Callable[[np.ndarray], np.ndarray]) -> Importance:
    require_finite(data)

    def scores(structure: Structure) -> Iterator[Scored]:
        sums: dict[tuple[Key, int], np.ndarray] = {}
        positions: dict[tuple[Key, int], int] = {}
        active = {path for path, operation in structure.operations.items() if _activates(operation)}

        def see(key: Key, value: Any) -> Any:
            for axis, labels in enumerate(structure.tensors[key]) if key[0] in active else ():
                if labels is not None:
                    rows = np.moveaxis(measure(np.asarray(ops.convert_to_numpy(value))), axis, 0)
                    rows = rows.reshape(labels.size, -1)
                    sums[key, axis] = sums.get((key, axis), 0) + rows.sum(1, dtype=np.float64)
                    positions[key, axis] = positions.get((key, axis), 0) + rows.shape[1]
            return value

        examples = 0
        for count, (x, _, _) in batches(data):
            examples += count
            run(structure.model, x, see)
        require_examples(examples)
        for (key, axis), total in sums.items():
            labels = structure.tensors[key][axis]
            if labels is not None:
                yield Scored(labels, total / positions[key, axis])

    return scores


def score_atoms(
    structure: Structure,
    groups: Sequence[Group],
    importance: Importance,
    reduce: Reduction = "mean",
    normalize: Normalization = "mean",
) -> np.ndarray:
    """What an importance comes to for each atom.

    Args:
        structure: of the model.
        groups: of it.
        importance: scores axes.
        reduce: what the scores of an atom on several axes, or at several places of one, come to.
        normalize: what the scores of each group are divided by, so that groups can be compared: their mean or their
            largest. `None` leaves them as they are.

    Returns:
        (atoms,) float64; 0 where nothing is said of an atom.

    Raises:
        ValueError: scores are of another number than positions, or not finite; nothing is said of a group.
    """
    total, count = np.zeros(structure.atoms.count), np.zeros(structure.atoms.count)
    largest = np.full(structure.atoms.count, -np.inf)
    for labels, given in importance(structure):
        scores = np.asarray(given, np.float64)
        if scores.shape != labels.shape or not np.isfinite(scores).all():
            what = "numbers that are not finite" if scores.shape == labels.shape else scores.shape
            where = next(
                (f"{s.path}/{s.variable.name}" for s in structure.slots if s.labels is labels), "a tensor"
            )
            raise ValueError(
                "An importance gives each position of an axis a finite score. Received: "
                f"{what} for {labels.size} positions of {where}."
            )
        of = structure.atoms.of[labels]
        np.maximum.at(largest, of, scores)
        total += np.bincount(of, scores, structure.atoms.count)
        count += np.bincount(of, minlength=structure.atoms.count)
    for group in groups:
        if not count[group.atoms].all():
            raise ValueError(
                f"Each channel has a score. Received: none for {group.name!r}. Keep it, or use another importance."
            )
    scores = {"mean": total / np.maximum(count, 1), "sum": total, "max": largest}[reduce]
    for group in groups if normalize else ():
        own = scores[group.atoms]
        level = own.mean() if normalize == "mean" and own.size else own.max(initial=0)
        scores[group.atoms] = own / level if level > 0 else own
    return scores


# Their weights change each channel on its own, whatever their rank.
_SCALING = (layers.LayerNormalization, layers.PReLU, layers.RMSNormalization)


def _kernels(structure: Structure) -> Iterator[tuple[Slot, np.ndarray]]:
    """The axes of what has more than one, with the values, which are read once each and never all at a time."""
    axes: dict[int, list[Slot]] = {}
    for slot in structure.slots:
        is_scale = isinstance(slot.layer, _SCALING) or slot.variable.name == "bias"
        if len(slot.variable.shape) > 1 and not is_scale:
            axes.setdefault(id(slot.variable), []).append(slot)
    for slots in axes.values():
        value = _value(slots[0].variable)
        yield from ((slot, value) for slot in slots)


def _value(variable: keras.Variable) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable)).astype(np.float32)


def _rows(value: np.ndarray, slot: Slot, *, signed: bool = False) -> np.ndarray:
    """One row for each position of the axis, of absolute values."""
    rows = np.moveaxis(value, slot.axis, 0).reshape(slot.labels.size, -1)
    return rows if signed else np.abs(rows)


def _activates(operation: Any) -> bool:
    if isinstance(operation, (layers.ELU, layers.LeakyReLU, layers.PReLU, layers.ReLU, *ACTIVATIONS)):
        return True
    activation = getattr(operation, "activation", None)
    return activation is not None and activation is not keras.activations.linear
