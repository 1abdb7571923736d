"""Rules of layers and operations in which positions attend to one another."""

from typing import Any

import numpy as np
from keras import layers

from distill._keras import attention_projections, is_gated, kernel_variable, nn, operations
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes
from distill.pruning.structured._structure import Shape
from distill.pruning.structured._tying import has_arrays, is_quantized, only


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


def _dot_attention(call: Call) -> list[Axes]:
    """`Attention`: the query times the key, or the sum of tanh(query + key); their softmax times the value."""
    layer = call.operation
    if len(call.inputs) not in (2, 3) or has_arrays(call):
        return call.lock_all("its inputs are not two or three tensors of the graph")
    query, value = call.inputs[:2]
    key = call.inputs[2] if len(call.inputs) == 3 else value
    zeros = call.vanishing()
    width = call.unite(query[-1], key[-1])
    if isinstance(layer, layers.AdditiveAttention) and layer.scale is not None:
        (scale,) = call.weight(layer.scale, inputs=(0,))  # what it leaves out adds nothing to a score
        call.unite(scale, width)
    elif not _adds_nothing(layer, zeros[0], zeros[-1 if len(zeros) == 3 else 1]):
        call.lock(width, "its scores sum over channels that are not zero when their weights are")
    for axes in call.inputs:
        only(call, axes, [-1], type(layer).__name__)
    call.vanishes = lambda: zeros[1]
    scores = [(None,) * len(shape) for shape in call.output_shapes[1:]]
    return [(*query[:-1], value[-1]), *scores]


def _adds_nothing(layer: Any, query_vanishes: bool, key_vanishes: bool) -> bool:
    """Whether a channel that is removed adds nothing to the scores."""
    if isinstance(layer, layers.AdditiveAttention) or layer.score_mode == "concat":
        return query_vanishes and key_vanishes
    return query_vanishes or key_vanishes


def _dot_product_attention(call: Call) -> Axes:
    """Heads can go, and the width if the scale does not follow it."""
    if len(call.inputs) != 3 or has_arrays(call):
        return call.lock_all("its mask, its bias or an array is not understood")[0]
    query, key, value = call.inputs
    zeros = call.vanishing()
    width = call.unite(query[-1], key[-1])
    call.unite(width, value[-1])  # Keras takes the output to be as wide as the query
    if call.value("scale") is None:
        call.lock(width, "it divides by the root of the width")
    elif not (zeros[0] or zeros[1]):
        call.lock(width, "its scores sum over channels that are not zero when their weights are")
    heads = call.unite(key[2], value[2])
    count, fewer = call.shapes[0][2] or 0, call.shapes[1][2] or 0
    if fewer and count > fewer and heads is not None:  # several heads of the query for one of the key
        heads = np.repeat(heads, count // fewer)
    call.unite(query[2], heads)
    for axes in (query, key, value):
        only(call, axes, [2, 3], "DotProductAttention")
    call.vanishes = lambda: zeros[2]
    return (*query[:2], query[2] if heads is not None else None, value[-1])


def _dot(call: Call) -> Axes:
    """`Dot`: a sum over one axis of both, example by example."""
    one, other = call.inputs
    places = call.operation.axes
    first, second = (places, places) if isinstance(places, int) else places
    first, second = first % len(one), second % len(other)
    zeros = call.vanishing()
    summed = call.unite(one[first], other[second])
    if one[first] is not None and other[second] is not None:
        enough = all(zeros) if call.operation.normalize else any(zeros)
        if not enough:
            call.lock(summed, "it sums over channels that are not zero when their weights are")
    elif call.operation.normalize:
        call.lock(summed, "it normalizes over an axis that stays")
    left = [axis for i, axis in enumerate(one) if i != first]
    found = (*left, *(axis for i, axis in enumerate(other) if i not in (0, second)))
    return found if len(found) > 1 else (*found, None)


ATTENTION_RULES: dict[type, Rule] = {
    **dict.fromkeys(operations(nn, "DotProductAttention"), _dot_product_attention),
    **dict.fromkeys([layers.AdditiveAttention, layers.Attention], _dot_attention),
    **dict.fromkeys([layers.GroupQueryAttention, layers.MultiHeadAttention], _attention),
    layers.Dot: _dot,
}
