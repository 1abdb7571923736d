"""Rules of raw `keras.ops` that multiply matrices and sum over an axis of both."""

import string
from collections.abc import Sequence

import numpy as np

from distill._keras import numpy_ops
from distill.pruning.structured._call import Call, Rule
from distill.pruning.structured._labels import Axes, Axis
from distill.pruning.structured._tying import has_arrays, numbered, sizes_of


def _matmul(call: Call) -> Axes:
    (one, shape), (other, other_shape) = call.operands()
    if min(len(shape), len(other_shape)) < 2:
        return call.lock_all("it multiplies by a vector")[0]
    summed = call.unite(one[-1], other[-2])
    if one[-1] is not None and other[-2] is not None and not _any_vanishes(call, [True, True]):
        call.lock(summed, "it multiplies channels that are not zero when their weights are")
    rank = len(call.output_shapes[0])
    found: list[Axis] = []
    for i in range(2 - rank, 0):
        pair = [
            (axes[i - 2], sizes[i - 2])
            for axes, sizes in ((one, shape), (other, other_shape))
            if len(axes) >= 2 - i and sizes[i - 2] != 1
        ]
        axis = pair[0][0] if pair else None
        if len(pair) == 2:
            axis = call.unite(axis, pair[1][0])
        found.append(None if any(labels is None for labels, _ in pair) else axis)
    axes = (*found, one[-2], other[-1])
    if has_arrays(call):
        call.multiplies(None, sizes_of((*axes[1:], summed), (*call.output_shapes[0][1:], shape[-1])))
    return axes


def _any_vanishes(call: Call, among: Sequence[bool]) -> bool:
    """Whether one of these operands is zero where channels are removed. Arrays are: they are cut like weights."""
    return has_arrays(call) or any(zero for zero, asked in zip(call.vanishing(), among, strict=True) if asked)


def _einsum(call: Call) -> Axes:
    operands = call.operands()
    terms, target = _spelled_out(call.operation.subscripts, [len(axes) for axes, _ in operands])
    if not target or any(len(set(term)) < len(term) for term in terms):
        return call.lock_all("its equation is not understood")[0]
    found: dict[str, Axis] = {}
    fixed: set[str] = set()
    sizes: dict[str, int | None] = {}
    for term, (axes, shape) in zip(terms, operands, strict=True):
        sizes.update(zip(term, shape, strict=True))
        for letter, axis in zip(term, axes, strict=True):
            found[letter] = call.unite(found[letter], axis) if letter in found else axis
            if axis is None:
                fixed.add(letter)
    if has_arrays(call) and len(operands) > 1:
        letters = [letter for letter in sizes if letter != target[0]]  # for one example
        call.multiplies(None, [sizes[letter] if letter in fixed else found[letter] for letter in letters])
    given = iter(call.vanishing())
    # Arrays are cut like weights; but they make nothing zero along an axis that is not theirs.
    zeros = [next(given) if any(axes is one for one in call.inputs) else True for axes, _ in operands]
    for letter in found.keys() - fixed - set(target):
        if not any(zero and letter in term for zero, term in zip(zeros, terms, strict=True)):
            call.lock(found[letter], "it multiplies channels that are not zero when their weights are")
    return tuple(None if letter in fixed else found[letter] for letter in target)


def _spelled_out(subscripts: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The terms and the target of an equation, with letters for the axes that it leaves to dots."""
    sources, _, target = subscripts.replace(" ", "").partition("->")
    terms = sources.split(",")
    free = [letter for letter in string.ascii_letters if letter not in subscripts]
    hidden = [
        rank - len(term.replace("...", "")) if "..." in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    letters = "".join(free[: max(hidden)])
    found = [
        term.replace("...", letters[len(letters) - count :])
        for term, count in zip(terms, hidden, strict=True)
    ]
    return found, target.replace("...", letters)


def _contraction(call: Call) -> Axes:
    """`tensordot`, and `dot` by which it is with one axis."""
    (one, shape), (other, other_shape) = call.operands()
    places = getattr(call.operation, "axes", None)
    if type(call.operation) is numpy_ops.Dot:
        if min(len(shape), len(other_shape)) < 2:
            return call.lock_all("it multiplies by a vector")[0]
        places = [[len(one) - 1], [len(other) - 2]]
    elif isinstance(places, int):
        places = [range(len(one) - places, len(one)), range(places)]
    sides = zip(places or (), (one, other), strict=True)
    first, second = (numbered([int(i) for i in np.ravel(list(side))], len(axes)) for side, axes in sides)
    for i, j in zip(first, second, strict=True):
        axis = call.unite(one[i], other[j])
        if one[i] is not None and other[j] is not None and not _any_vanishes(call, [True, True]):
            call.lock(axis, "it multiplies channels that are not zero when their weights are")
    left = [i for i in range(len(one)) if i not in first], [j for j in range(len(other)) if j not in second]
    axes = (*(one[i] for i in left[0]), *(other[j] for j in left[1]))
    if has_arrays(call):
        sizes = [*sizes_of(one, shape), *(sizes_of(other, other_shape)[j] for j in left[1])]
        call.multiplies(None, sizes[1:] if shape[0] is None else sizes)
    return axes


PRODUCT_RULES: dict[type, Rule] = {
    numpy_ops.Dot: _contraction,
    numpy_ops.Einsum: _einsum,
    numpy_ops.Matmul: _matmul,
    numpy_ops.Tensordot: _contraction,
}
