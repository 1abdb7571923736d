"""Rules of recurrent layers, wrappers and attention."""

from typing import Any

import numpy as np
from keras import layers

from distill._keras import attention_projections, is_gated, kernel_variable
from distill._untouched import recurrent_states
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._structure import Shape
from distill.pruning.structured._tying import (
    activate,
    has_arrays,
    is_quantized,
    only,
    sizes_of,
)


def _rnn(gates: int) -> Rule:
    def rule(call: Call) -> list[Axes]:
        layer, cell = call.operation, call.operation.cell
        if has_arrays(call):
            return call.lock_all("it is called on an array")
        axes = only(call, call.inputs[0], [-1], type(layer).__name__)
        functions = (getattr(cell, "recurrent_activation", None), cell.activation)
        into, out = call.weight(cell.kernel, inputs=(0,), outputs=(1,), repeats=gates)
        units, again = call.weight(cell.recurrent_kernel, inputs=(0,), outputs=(1,), repeats=gates)
        call.unite(axes[-1], into)
        call.unite(out, np.tile(units, gates))
        call.unite(again, np.tile(units, gates))
        if cell.bias is not None:
            (bias,) = call.weight(cell.bias, scales=(len(cell.bias.shape) - 1,))
            call.unite(bias, np.tile(units, gates))
        for function in functions:
            activate(call, function, (None, units))
        for state, _ in call.arguments("initial_state"):
            call.unite(state[-1], units)
            call.vanishes = lambda: False
        for kept in recurrent_states(layer):
            call.state(kept, (None, units))
        call.edit("units", units)
        for kernel in (cell.kernel, cell.recurrent_kernel):
            call.multiplies(kernel, call.shapes[0][1:2])
        return [(None,) * (len(shape) - 1) + (units,) for shape in call.output_shapes]

    return rule


def _bidirectional(call: Call) -> list[Axes]:
    layer = call.operation
    if call.arguments("initial_state") or layer.return_state or has_arrays(call):
        return call.lock_all("states of Bidirectional are not understood")
    given = call.shapes[:1], call.inputs[:1]
    (forward,) = call.inner(layer.forward_layer, *given)
    one = call.vanishes
    (backward,) = call.inner(layer.backward_layer, *given)
    other = call.vanishes
    call.vanishes = lambda: one() and other()
    call.unite(forward[-1], backward[-1])  # Keras expects both to be as wide, however they are merged
    if forward[-1] is None or backward[-1] is None:
        return [(None,) * len(shape) for shape in call.output_shapes]
    if layer.merge_mode is None:
        return [forward, backward]
    if layer.merge_mode == "concat":
        return [(*forward[:-1], np.concatenate([forward[-1], backward[-1]]))]
    return [forward]


def _time_distributed(call: Call) -> list[Axes]:
    layer, axes, shape = call.operation, call.inputs[0], call.shapes[0]
    each = [(shape[0], *shape[2:])], [(axes[0], *axes[2:])]
    found = call.inner(layer.layer, *each, times=sizes_of(axes[1:2], shape[1:2]))
    return [(out[0], axes[1], *out[1:]) for out in found]


def _projection(call: Call, dense: Any, given: tuple[Axes, Shape]) -> list[np.ndarray]:
    """Labels of the heads and of the width that a projection of an attention layer makes of an input's last axis."""
    axes, shape = given
    into, *found = call.weight(kernel_variable(dense), inputs=(0,), outputs=(1, 2))
    call.unite(axes[-1], into)
    _bias_of(call, dense, found)
    call.multiplies(kernel_variable(dense), shape[1:-1])
    return found


def _bias_of(call: Call, dense: Any, outputs: list[np.ndarray]) -> None:
    if dense.bias is not None:
        scales = call.weight(dense.bias, scales=range(len(outputs)))
        for scale, out in zip(scales, outputs, strict=True):
            call.unite(scale, out)


def _attention(call: Call) -> list[Axes]:
    layer = call.operation
    given = [call.arguments(name) for name in ("query", "value", "key")]
    projections = attention_projections(layer)
    if is_gated(layer):
        return call.lock_all("its gate is not understood")
    if any(is_quantized(dense) for dense in projections):
        return call.lock_all("it is quantized or has LoRA enabled")
    if not (len(given[0]) == len(given[1]) == 1):
        return call.lock_all("its query and value are not tensors of the graph")
    if call.value("key") is not None and not given[2]:
        return call.lock_all("its key is not a tensor of the graph")
    (query,), (value,) = given[:2]
    (key,) = given[2] or [value]
    query_heads, query_width = _projection(call, projections[0], query)
    key_heads, key_width = _projection(call, projections[1], key)
    value_heads, value_width = _projection(call, projections[2], value)
    dense = projections[3]
    heads, width, *outs = call.weight(
        kernel_variable(dense), inputs=(0, 1), outputs=range(2, len(kernel_variable(dense).shape))
    )
    _bias_of(call, dense, outs)
    call.multiplies(kernel_variable(dense), query[1][1:-1])
    call.unite(query_width, key_width)
    call.unite(value_width, width)
    call.unite(query_heads, heads)
    stream = query[0][-1]
    if isinstance(layer, layers.GroupQueryAttention):
        call.unite(np.repeat(key_heads, layer.num_query_heads // layer.num_key_value_heads), query_heads)
        call.unite(key_heads, value_heads)
        call.unite(query_width, width)  # one setting holds for both
        call.edit("num_query_heads", query_heads)
        call.edit("num_key_value_heads", key_heads)
        call.edit("head_dim", query_width)
        call.unite(outs[0], stream)  # the output is as wide as the query
    else:
        call.unite(key_heads, heads)
        call.unite(value_heads, heads)
        call.edit("num_heads", heads)
        call.edit("key_dim", query_width)
        call.edit("value_dim", width)
        # Without this setting the output is as wide as the query, which may be cut where the output is not.
        call.edit("output_shape", *outs, stream, value=lambda *sizes: sizes[: len(outs)])
    # The layer divides by the root of its width, which changes.
    for variable in (kernel_variable(projections[0]), projections[0].bias):
        if variable is not None:
            call.rescale(variable, query_width, lambda old, new: (new / old) ** 0.5)
    for axes, _ in (query, key, value):
        only(call, axes, [-1], type(layer).__name__)
    mask_shape = tuple(getattr(call.value("attention_mask"), "shape", ()))
    if len(mask_shape) > 3 and mask_shape[1] not in (1, None):
        call.lock(heads, "its attention_mask has a mask for each head")
    call.vanishes = lambda: len(call.output_shapes) == 1  # the scores of no head are zero
    scores = [(None, heads, *[None] * (len(shape) - 2)) for shape in call.output_shapes[1:]]
    return [(*query[0][:-1], *outs), *scores]


SEQUENCE_RULES: dict[type, Rule] = {
    layers.Bidirectional: _bidirectional,
    layers.GRU: _rnn(3),
    layers.GroupQueryAttention: _attention,
    layers.LSTM: _rnn(4),
    layers.MultiHeadAttention: _attention,
    layers.SimpleRNN: _rnn(1),
    layers.TimeDistributed: _time_distributed,
}
