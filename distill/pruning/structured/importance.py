"""Scores how much channels matter: the higher its scores, the longer a channel stays.

```python
from distill import pruning

small = pruning.prune_channels(model, 0.5, importance=pruning.structured.importance.fpgm)
```

An importance is a function that takes a `Structure` and yields `Scored(labels, scores)` along axes of weights or
tensors. It may score a channel on several axes; `prune_channels(reduce=…)` says how to combine these scores.

```python
import numpy as np
from distill import pruning


def by_largest_weight(structure):
    for slot in structure.slots:
        if slot.role == "output":
            others = tuple(i for i in range(len(slot.variable.shape)) if i != slot.axis)
            yield slot.labels, np.abs(slot.variable).max(others)


small = pruning.prune_channels(model, 0.5, importance=by_largest_weight)
```
"""

from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers, ops

from distill._types import Data, Tensor
from distill._untouched import untouched
from distill.pruning.structured._operation_rules import ACTIVATIONS
from distill.pruning.structured._running import run
from distill.pruning.structured._scoring import Importance, Scored
from distill.pruning.structured._structure import Key, Slot, Structure
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights.importance._batches import batches, require_examples, require_finite
from distill.pruning.weights.importance._weights import Importance as WeightImportance

__all__ = [
    "Importance",
    "Scored",
    "activation_mean",
    "apoz",
    "batch_norm_scale",
    "fpgm",
    "l1",
    "l2",
    "lamp",
    "of_weights",
    "random",
]


def l1(structure: Structure) -> Iterator[Scored]:
    """Sum of the absolute weights of every kernel that makes or reads a channel (Li et al. 2017, arXiv:1608.08710).

    Example:
        >>> from distill import pruning
        >>> small = pruning.prune_channels(model, 0.5, importance=pruning.structured.importance.l1)
    """
    for slot, value in _kernels(structure):
        yield Scored(slot.labels, _rows(value, slot).sum(1, dtype=np.float64))


def l2(structure: Structure) -> Iterator[Scored]:
    """Sum of the squared weights of every kernel that makes or reads a channel (Fang et al. 2023, arXiv:2301.12900).

    Example:
        >>> from distill import pruning
        >>> small = pruning.prune_channels(model, 0.5, importance=pruning.structured.importance.l2)
    """
    for slot, value in _kernels(structure):
        yield Scored(slot.labels, (_rows(value, slot) ** 2).sum(1, dtype=np.float64))


def batch_norm_scale(structure: Structure) -> Iterator[Scored]:
    """Absolute scale of the BatchNormalization (Network Slimming: Liu et al. 2017, arXiv:1708.06519).

    `slim` trains with a penalty on these scales first. You must exclude layers that no BatchNormalization follows.

    Example:
        >>> from distill import pruning
        >>> hidden = [keras.layers.Dense(16), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
        >>> net = keras.Sequential([keras.Input((8,)), *hidden])
        >>> importance = pruning.structured.importance.batch_norm_scale
        >>> pruning.prune_channels(net, 0.5, importance=importance).layers[0].units
        8
    """
    for slot in structure.slots:
        if isinstance(slot.layer, layers.BatchNormalization) and slot.variable is slot.layer.gamma:
            yield Scored(slot.labels, np.abs(_value(slot.variable)))


def fpgm(structure: Structure) -> Iterator[Scored]:
    """Sum of the distances to the other filters of the layer (He et al. 2019, arXiv:1811.00250).

    A filter near the geometric median of its layer can be replaced by the others.

    Example:
        >>> from distill import pruning
        >>> small = pruning.prune_channels(model, 0.5, importance=pruning.structured.importance.fpgm)
    """
    for slot, value in _kernels(structure):
        if slot.role == "output":
            filters = np.moveaxis(value, slot.axis, 0).reshape(slot.labels.size, -1).astype(np.float64)
            squares = (filters**2).sum(1)
            distances = squares[:, None] + squares[None] - 2 * filters @ filters.T
            yield Scored(slot.labels, np.sqrt(np.maximum(distances, 0)).sum(1))


def lamp(structure: Structure) -> Iterator[Scored]:
    """Squared norm of a filter over the sum of its own and all larger ones of its layer (Lee et al. 2021).

    This is the score for weights of arXiv:2010.07611, applied to whole filters.

    Example:
        >>> from distill import pruning
        >>> importance = pruning.structured.importance.lamp
        >>> small = pruning.prune_channels(model, 0.5, importance=importance, scope="global")
    """
    for slot, value in _kernels(structure):
        if slot.role == "output":
            squares = (_rows(value, slot) ** 2).sum(1, dtype=np.float64)
            order = np.argsort(-squares, kind="stable")
            left = np.cumsum(squares[order])
            squares[order] = squares[order] / np.where(left > 0, left, 1)
            yield Scored(slot.labels, squares)


def random(seed: int) -> Importance:
    """Makes an importance from uniform random numbers: the baseline that any other has to beat.

    Args:
        seed: seed of numpy's generator.

    Returns:
        An importance that gives the same model the same scores each time.

    Example:
        >>> from distill import pruning
        >>> small = pruning.prune_channels(model, 0.5, importance=pruning.structured.importance.random(0))
    """

    def scores(structure: Structure) -> Iterator[Scored]:
        rng = np.random.default_rng(seed)
        for slot in structure.slots:
            yield Scored(slot.labels, rng.random(slot.labels.size))

    return scores


def of_weights(importance: WeightImportance) -> Importance:
    """Makes a channel importance from a weight importance: its sum over all weights that make or read a channel.

    With `weights.importance.taylor(data, loss)` this is the first-order change of the loss (Molchanov et al. 2019,
    arXiv:1906.10771); with `obd(data, loss)` it is the second-order change by the diagonal of the Hessian.
    `wanda(data)` takes the inputs of the weights into account.

    Args:
        importance: function from `pruning.weights.importance`, or one like it.

    Returns:
        An importance of channels.

    Example:
        >>> from distill import pruning
        >>> loss = keras.losses.SparseCategoricalCrossentropy()
        >>> taylor = pruning.weights.importance.taylor((x, y), loss)
        >>> importance = pruning.structured.importance.of_weights(taylor)
        >>> small = pruning.prune_channels(model, 0.5, importance=importance)
    """

    def scores(structure: Structure) -> Iterator[Scored]:
        cut = {id(slot.variable) for slot in structure.slots}
        kernels = [one for one in find_kernels(structure.model).found if id(one.variable) in cut]
        found = importance(structure.model, kernels)
        values = {id(one.variable): np.asarray(score) for one, score in zip(kernels, found, strict=True)}
        for slot in structure.slots:
            if id(slot.variable) in values:
                rows = _rows(values[id(slot.variable)], slot, signed=True)
                yield Scored(slot.labels, rows.sum(1, dtype=np.float64))

    return scores


def activation_mean(data: Data) -> Importance:
    """Makes an importance from the mean absolute values after activations (Molchanov et al. 2017, arXiv:1611.06440).

    Args:
        data: finite `tf.data.Dataset` of batches x, (x, y) or (x, y, sample_weight), of which only x is used; or
            anything else that `pruning.weights.importance.wanda` takes. The model runs in inference mode.

    Returns:
        An importance for channels that an activation follows.

    Raises:
        ValueError: the data can be read only once, never ends, or consists of arrays of different lengths.

    Example:
        >>> from distill import pruning
        >>> hidden = [keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
        >>> net = keras.Sequential([keras.Input((8,)), *hidden])
        >>> importance = pruning.structured.importance.activation_mean(np.random.normal(size=(32, 8)))
        >>> pruning.prune_channels(net, 0.5, importance=importance).layers[0].units
        8
    """
    return _of_activations(data, np.abs)


def apoz(data: Data) -> Importance:
    """Makes an importance from the shares of nonzero values after activations (Hu et al. 2016, arXiv:1607.03250).

    The paper removes channels with the largest average percentage of zeros (APoZ); this is 1 − APoZ.

    Args:
        data: data, as for `activation_mean`.

    Returns:
        An importance for channels that an activation follows.

    Raises:
        ValueError: the data can be read only once, never ends, or consists of arrays of different lengths.

    Example:
        >>> from distill import pruning
        >>> hidden = [keras.layers.Dense(16, "relu"), keras.layers.Dense(3)]
        >>> net = keras.Sequential([keras.Input((8,)), *hidden])
        >>> importance = pruning.structured.importance.apoz(np.random.normal(size=(32, 8)))
        >>> pruning.prune_channels(net, 0.5, importance=importance).layers[0].units
        8
    """
    return _of_activations(data, lambda value: value != 0)


def _of_activations(data: Data, measure: Callable[[np.ndarray], np.ndarray]) -> Importance:
    require_finite(data)

    def scores(structure: Structure) -> Iterator[Scored]:
        sums: dict[tuple[Key, int], np.ndarray] = {}
        positions: dict[tuple[Key, int], int] = {}
        active = {path for path, operation in structure.operations.items() if _activates(operation)}

        def see(key: Key, value: Tensor) -> Tensor:
            for axis, labels in enumerate(structure.tensors[key]) if key[0] in active else ():
                if labels is not None:
                    rows = np.moveaxis(measure(np.asarray(ops.convert_to_numpy(value))), axis, 0)
                    rows = rows.reshape(labels.size, -1)
                    sums[key, axis] = sums.get((key, axis), 0) + rows.sum(1, dtype=np.float64)
                    positions[key, axis] = positions.get((key, axis), 0) + rows.shape[1]
            return value

        examples = 0
        with untouched(structure.model):
            for count, (x, _, _) in batches(data):
                examples += count
                run(structure.model, x, see)
        require_examples(examples)
        for (key, axis), total in sums.items():
            labels = structure.tensors[key][axis]
            if labels is not None:
                yield Scored(labels, total / positions[key, axis])

    return scores


# Their weights change each channel on its own, whatever the rank of the weight.
_SCALING = (layers.LayerNormalization, layers.PReLU, layers.RMSNormalization)


def _kernels(structure: Structure) -> Iterator[tuple[Slot, np.ndarray]]:
    """The axes of kernels, with the values of the kernel. Each kernel is read once, and one at a time."""
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
    """One row for each position of the axis, of absolute values unless `signed`."""
    rows = np.moveaxis(value, slot.axis, 0).reshape(slot.labels.size, -1)
    return rows if signed else np.abs(rows)


def _activates(operation: object) -> bool:
    if isinstance(operation, (layers.ELU, layers.LeakyReLU, layers.PReLU, layers.ReLU, *ACTIVATIONS)):
        return True
    activation = getattr(operation, "activation", None)
    return activation is not None and activation is not keras.activations.linear
