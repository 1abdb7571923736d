"""Rules of recurrent layers and of wrappers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from distill._untouched import recurrent_states
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._structure import Shape, Size
from distill.pruning.structured._tying import (
    activate,
    has_arrays,
    only,
    sizes_of,
)


def _units(call: Call, cell: Any, gates: int, into: Axis, positions: Sequence[Size]) -> np.ndarray:
    """Labels of the units of a cell, all of whose gates go together.

    Args:
        call: call of the layer whose config holds the number of units: the cell, or the layer that makes it.
        cell: the cell.
        gates: number of gates.
        into: labels of the channels that it reads.
        positions: sizes whose product is how often each number of a kernel is used.
    """
    rank = len(cell.kernel.shape) - 2
    reads, out = call.weight(cell.kernel, inputs=(rank,), outputs=(rank + 1,), repeats=gates)
    units, again = call.weight(cell.recurrent_kernel, inputs=(rank,), outputs=(rank + 1,), repeats=gates)
    call.unite(into, reads)
    call.unite(out, np.tile(units, gates))
    call.unite(again, np.tile(units, gates))
    if cell.bias is not None:
        (bias,) = call.weight(cell.bias, scales=(len(cell.bias.shape) - 1,))
        call.unite(bias, np.tile(units, gates))
    for function in (getattr(cell, "recurrent_activation", None), cell.activation):
        activate(call, function, (*[None] * (rank + 1), units))
    for kernel in (cell.kernel, cell.recurrent_kernel):
        call.multiplies(kernel, positions)
    return units


def _rnn(gates: int) -> Rule:
    def rule(call: Call) -> list[Axes]:
        layer = call.operation
        if has_arrays(call):
            return call.lock_all("it is called on an array")
        axes = only(call, call.inputs[0], [-1], type(layer).__name__)
        units = _units(call, layer.cell, gates, axes[-1], call.shapes[0][1:2])
        call.edit("units", units)
        return _with_states(call, len(axes) - 1, [units] * (len(call.output_shapes) - 1), units)

    return rule


def _with_states(
    call: Call,
    channel: int,
    states: Sequence[np.ndarray],
    units: np.ndarray,
    kept: Sequence[np.ndarray] | None = None,
) -> list[Axes]:
    """Axes of the output of a recurrent layer and of its states.

    Args:
        call: call of the layer.
        channel: axis of the channels of the input.
        states: labels of the states that are put out.
        units: labels of the output.
        kept: labels of the states that it starts from; by default all are the units.
    """
    rank = len(call.inputs[0])

    def placed(labels: np.ndarray, shape: Shape) -> Axes:
        place = channel - (rank - len(shape)) if len(shape) > 2 else len(shape) - 1
        return tuple(labels if i == place else None for i in range(len(shape)))

    given = call.arguments("initial_state")
    for labels, (axes, shape) in zip(kept or [units] * len(given), given, strict=False):
        for axis, meeting in zip(axes, placed(labels, shape), strict=True):
            if meeting is not None:
                call.unite(axis, meeting)
            else:
                call.lock(axis, "it is a state")
        call.vanishes = lambda: False
    own = recurrent_states(call.operation) if isinstance(call.operation, layers.RNN) else []
    for labels, state in zip(kept or [units] * len(own), own, strict=False):
        call.state(state, placed(labels, tuple(state.shape)))
    outputs = zip([units, *states], call.output_shapes, strict=True)
    return [placed(labels, shape) for labels, shape in outputs]


def _conv_lstm(call: Call) -> list[Axes]:
    layer = call.operation
    if has_arrays(call):
        return call.lock_all("it is called on an array")
    channel = 2 if layer.data_format == "channels_first" else len(call.inputs[0]) - 1
    axes = only(call, call.inputs[0], [channel], type(layer).__name__)
    shape = call.output_shapes[0]
    pixels = [size for i, size in enumerate(shape, len(axes) - len(shape)) if i not in (0, 1, channel)][
        -layer.cell.rank :
    ]
    units = _units(call, layer.cell, 4, axes[channel], [*call.shapes[0][1:2], *pixels])
    call.edit("filters", units)
    return _with_states(call, channel, [units] * (len(call.output_shapes) - 1), units)


_GATES = {layers.GRUCell: 3, layers.LSTMCell: 4, layers.SimpleRNNCell: 1}


def _rnn_of_cells(call: Call) -> list[Axes]:
    layer = call.operation
    cells = layer.cell.cells if type(layer.cell) is layers.StackedRNNCells else [layer.cell]
    if has_arrays(call):
        return call.lock_all("it is called on an array")
    if unknown := [type(cell).__name__ for cell in cells if type(cell) not in _GATES]:
        return call.lock_all(f"no rule is known for its {unknown[0]}")
    axes = only(call, call.inputs[0], [-1], type(layer).__name__)
    into, kept = axes[-1], []
    for cell in cells:
        part = call.part(cell)
        into = _units(part, cell, _GATES[type(cell)], into, call.shapes[0][1:2])
        part.edit("units", into)
        call.vanishes = part.vanishes
        kept += [into] * (2 if type(cell) is layers.LSTMCell else 1)
    states = kept[: len(call.output_shapes) - 1]
    return _with_states(call, len(axes) - 1, states, kept[-1], kept)


def _bidirectional(call: Call) -> list[Axes]:
    layer = call.operation
    if has_arrays(call):
        return call.lock_all("it is called on an array")
    given = call.shapes[:1], call.inputs[:1]
    forward, *states = call.inner(layer.forward_layer, *given)
    one = call.vanishes
    backward, *states_back = call.inner(layer.backward_layer, *given)
    other = call.vanishes
    call.vanishes = lambda: one() and other()
    places = [
        i
        for i, pair in enumerate(zip(forward, backward, strict=True))
        if any(axis is not None for axis in pair)
    ]
    # Keras expects both to be as wide, however they are merged.
    for i in places:
        call.unite(forward[i], backward[i])
    initial = call.arguments("initial_state")
    for i, (axes, _) in enumerate(initial):
        side = forward if i < len(initial) // 2 else backward
        for axis in axes[:-1]:
            call.lock(axis, "it is a state")
        call.unite(axes[-1], side[-1])
        call.vanishes = lambda: False
    if any(forward[i] is None or backward[i] is None for i in places) or not places:
        return [(None,) * len(shape) for shape in call.output_shapes]
    if layer.merge_mode is None:
        return [forward, backward, *states, *states_back]
    last = len(forward) - 1
    if layer.merge_mode == "concat" and places == [last]:
        forward = (*forward[:-1], np.concatenate([forward[-1], backward[-1]]))
    return [forward, *states, *states_back]


def _time_distributed(call: Call) -> list[Axes]:
    layer, axes, shape = call.operation, call.inputs[0], call.shapes[0]
    each = [(shape[0], *shape[2:])], [(axes[0], *axes[2:])]
    found = call.inner(layer.layer, *each, times=sizes_of(axes[1:2], shape[1:2]))
    if axes[1] is not None:
        call.vanishes = lambda: False  # the layer inside may add a bias to a time that is removed
    return [(out[0], axes[1], *out[1:]) for out in found]


SEQUENCE_RULES: dict[type, Rule] = {
    **dict.fromkeys([layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D], _conv_lstm),
    layers.Bidirectional: _bidirectional,
    layers.GRU: _rnn(3),
    layers.LSTM: _rnn(4),
    layers.RNN: _rnn_of_cells,
    layers.SimpleRNN: _rnn(1),
    layers.TimeDistributed: _time_distributed,
}
