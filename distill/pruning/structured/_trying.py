"""Finds out by trying whether a function may lose positions: its results for the others must not change."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from distill._keras import SafeModeScope
from distill._untouched import same_randomness

_MANY = 100_000  # numbers; a larger tensor is tried at fewer positions
_FEW = 7  # positions along an axis then, an odd number so that no pairs fit


class Tried(NamedTuple):
    """What trying a function has shown.

    Attributes:
        apart: for each axis whether its positions are treated alike, and each by itself.
        reason: why not, for the other axes, or "".
        vanishes: whether the function maps zeros to zeros.
    """

    apart: tuple[bool, ...]
    reason: str
    vanishes: bool


def tried(function: Any, shape: Sequence[int | None], *, with_weights: bool) -> Tried:
    """Tries a function on random values, whole and with positions left out.

    Args:
        function: function of a tensor, or a layer that makes its weights, if any, at its first call.
        shape: shape of the tensor, with the batch; sizes that are `None` are free.
        with_weights: whether a layer may have weights.
    """
    name = name_of(function)
    sizes = [2, *(_FEW if size is None else size for size in shape[1:])]
    if np.prod(sizes) > _MANY:
        sizes = [2, *(min(size, _FEW) for size in sizes[1:])]
    rng = np.random.default_rng(0)
    apart, reasons = [], []
    try:
        with same_randomness():
            # Of both signs, small and large, with zeros among them.
            x = rng.normal(size=sizes) * rng.choice([0, 0.1, 1, 10], sizes)
            made = _made(function, x, with_weights)
            vanishes = not _made(function, np.zeros(sizes)).any()
    except Exception as error:  # a user's function may raise anything
        return Tried((False,) * len(sizes), f"{name} cannot be tried: {_first_line(error)}", False)
    if made.shape != x.shape:
        return Tried((False,) * len(sizes), f"{name} makes another shape", vanishes)
    for axis, size in enumerate(sizes):
        reason = _mixes(function, name, x, made, axis, rng) if size > 1 else ""
        apart.append(not reason)
        reasons += [reason] * bool(reason and axis > 0)
    return Tried(tuple(apart), next(iter(reasons), ""), vanishes)


def name_of(function: Any) -> str:
    """The name of a function, or the type of a layer."""
    return getattr(function, "__name__", None) or type(function).__name__


def _mixes(
    function: Any, name: str, x: np.ndarray, made: np.ndarray, axis: int, rng: np.random.Generator
) -> str:
    """Why positions along an axis cannot be left out; "" if they can."""
    size = x.shape[axis]
    for _ in range(3):
        some = np.sort(rng.choice(size, (size + 1) // 2, replace=False))
        try:
            with same_randomness():
                fewer = _made(function, np.take(x, some, axis))
                others = np.copy(x)
                others[tuple(some if i == axis else slice(None) for i in range(x.ndim))] += rng.normal()
                changed = _made(function, others)
        except Exception as error:  # a user's function may raise anything
            return f"{name} cannot run on fewer positions: {_first_line(error)}"
        rest = np.setdiff1d(np.arange(size), some)
        if not _close(np.take(changed, rest, axis), np.take(made, rest, axis)):
            return f"{name} reaches across this axis"
        if not _close(fewer, np.take(made, some, axis)):
            return f"{name} does not treat all positions of this axis alike"
    return ""


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


def _made(function: Callable[[Any], Any], x: np.ndarray, with_weights: bool = True) -> np.ndarray:
    if isinstance(function, keras.Layer):
        with SafeModeScope(False):  # what it keeps from its first call must not come along
            function = type(function).from_config(function.get_config())
    made = np.asarray(ops.convert_to_numpy(function(ops.convert_to_tensor(x.astype("float32")))))
    if isinstance(function, keras.Layer) and function.variables and not with_weights:
        raise ValueError("it has weights, and no rule is known for it")
    return made


def _first_line(error: Exception) -> str:
    text = re.sub(
        r"\{\{.*?\}\}|\[Op:\w+\]( name:)?", "", str(error)
    ).strip()  # TensorFlow's names of its kernels
    return next(iter(text.splitlines()), type(error).__name__)
