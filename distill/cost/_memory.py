"""Measures the memory of a model's activations, for one example."""

import dataclasses
import math
from collections.abc import Iterable

import keras

from distill._keras import dtype_size
from distill.cost._calls import Calls
from distill.cost._lengths import known


@dataclasses.dataclass(frozen=True)
class Activations:
    """Memory of the tensors between layers, for one example.

    Every call is assumed to make new tensors: nothing is written in place, and no calls are fused. Memory that a layer
    uses while it runs does not count: the patches into which a convolution unfolds its input, the states of a recurrent
    layer, and the scores inside `keras.ops.dot_product_attention`, as in MultiHeadAttention without dropout.

    Attributes:
        all_bytes: bytes of the inputs and of all tensors that the calls make. Training keeps as much for its backward
            pass if it keeps everything.
        peak_bytes: largest number of bytes that inference needs at once. A tensor lives from the call that makes it to
            the last call that reads it, in the order in which Keras runs the calls; inputs live from the start, and
            outputs to the end.

    Example:
    ```python
    from distill import cost

    print(cost.profile(model).activations.peak_bytes)
    ```
    """

    all_bytes: int
    peak_bytes: int


def activations_of(calls: Calls) -> Activations:
    """Memory of the tensors between layers.

    Raises:
        ValueError: the size of a tensor is unknown.
    """
    alive = {id(tensor): tensor for tensor in calls.inputs}
    last_use = dict.fromkeys(alive, 0)
    for i, call in enumerate(calls.calls):
        last_use.update((id(tensor), i) for tensor in (*call.outputs, *call.inputs))
    last_use.update((id(tensor), len(calls.calls)) for tensor in calls.outputs)
    peak = bytes_of(alive.values())
    for i, call in enumerate(calls.calls):
        alive.update((id(tensor), tensor) for tensor in call.outputs)
        peak = max(peak, bytes_of(alive.values()))
        alive = {key: tensor for key, tensor in alive.items() if last_use[key] > i}
    made = [tensor for call in calls.calls for tensor in call.outputs]
    return Activations(bytes_of([*calls.inputs, *made]), peak)


def bytes_of(tensors: Iterable[keras.KerasTensor]) -> int:
    """Bytes of several tensors together.

    Raises:
        ValueError: the size of a tensor is unknown.
    """
    # A bool takes a byte.
    return sum(math.prod(known(t.shape, t.name)) * max(8, dtype_size(t.dtype)) // 8 for t in tensors)
