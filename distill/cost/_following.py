"""Follows the code of a layer on symbolic tensors, call by call."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from unittest import mock

import keras

Follow = Callable[[Any, Any, Any], Any]
_FOLLOW: ContextVar[Follow | None] = ContextVar("follow", default=None)
_LOCK = threading.RLock()


@contextlib.contextmanager
def following(follow: Follow | None) -> Iterator[None]:
    """Calls of layers and operations on symbolic tensors go to a function, in this thread.

    Keras infers what a layer makes from the layer alone. Where that fails, as where a subclass's `call` takes other
    arguments or returns `None` among its tensors, what it does can be followed all the same, once Keras's own
    inference is out of the way.

    Args:
        follow: takes a layer or operation, the positional and the named arguments of its call, and returns its
            outputs; with `None`, Keras does as ever.
    """
    with contextlib.ExitStack() as stack:
        if follow is not None and _FOLLOW.get() is None:
            stack.enter_context(_LOCK)  # what threads put back in another order would stay
            for kind, name, instead in _PATCHES:
                stack.enter_context(mock.patch.object(kind, name, instead(getattr(kind, name))))
        token = _FOLLOW.set(follow)
        stack.callback(_FOLLOW.reset, token)
        yield


def _followed(original: Any) -> Any:
    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        follow = _FOLLOW.get()
        given = args, kwargs
        if follow is not None and isinstance(operation, keras.Layer) and operation.weights:
            # What kernels do with learned queries counts too.
            given = keras.tree.map_structure(_as_symbolic, given)
        if follow is None or not any(
            isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(given)
        ):
            return original(operation, *args, **kwargs)
        return follow(operation, *given)

    return call


def _as_symbolic(leaf: Any) -> Any:
    """Of numbers; indices are looked up."""
    is_tensor = isinstance(leaf, keras.Variable) or keras.ops.is_tensor(leaf)
    if not is_tensor or isinstance(leaf, keras.KerasTensor) or not keras.backend.is_float_dtype(leaf.dtype):
        return leaf
    return keras.KerasTensor(leaf.shape, keras.backend.standardize_dtype(leaf.dtype))


def _deferring(original: Any) -> Any:
    """An operator of a variable that leaves symbolic tensors to them: Keras 3.15 takes them for values."""

    def operator(variable: Any, other: Any) -> Any:
        return NotImplemented if isinstance(other, keras.KerasTensor) else original(variable, other)

    return operator


_OPERATORS = ("add", "floordiv", "matmul", "mod", "mul", "pow", "sub", "truediv")
_PATCHES = [
    (keras.Layer, "__call__", _followed),
    (keras.Operation, "symbolic_call", _followed),
    *((keras.Variable, f"__{name}__", _deferring) for name in _OPERATORS),
]
