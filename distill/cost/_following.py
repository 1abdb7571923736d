"""Lets a function see every call that a layer's code makes on symbolic tensors."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any
from unittest import mock

import keras

Follow = Callable[[keras.Operation, Sequence[Any], Mapping[str, Any]], Any]
_FOLLOW: ContextVar[Follow | None] = ContextVar("follow", default=None)
_LOCK = threading.RLock()


@contextlib.contextmanager
def following(follow: Follow | None) -> Iterator[None]:
    """Passes calls of layers and operations on symbolic tensors to a function, in this thread.

    Keras infers the outputs of a layer from the layer alone. That fails, for instance, if a subclass's `call` takes
    other arguments or returns `None` among its tensors. The code can be followed all the same, once Keras' own
    inference is out of the way.

    Args:
        follow: function of a layer or operation and the positional and keyword arguments of its call, which returns
            its outputs; with `None`, Keras runs as usual.
    """
    with contextlib.ExitStack() as stack:
        if follow is not None and _FOLLOW.get() is None:
            stack.enter_context(_LOCK)  # threads that restore in another order would leave a patch behind
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
            # Products of kernels with learned queries count too.
            given = keras.tree.map_structure(_as_symbolic, given)
        if follow is None or not any(
            isinstance(leaf, keras.KerasTensor) for leaf in keras.tree.flatten(given)
        ):
            return original(operation, *args, **kwargs)
        return follow(operation, *given)

    return call


def _as_symbolic(leaf: Any) -> Any:
    """A symbolic tensor for one of floats; integers are looked up, and stay."""
    is_tensor = isinstance(leaf, keras.Variable) or keras.ops.is_tensor(leaf)
    if not is_tensor or isinstance(leaf, keras.KerasTensor) or not keras.backend.is_float_dtype(leaf.dtype):
        return leaf
    return keras.KerasTensor(leaf.shape, keras.backend.standardize_dtype(leaf.dtype))


def _forgetting(original: Any) -> Any:
    """A method that stores a value of a loss or variable, and stores nothing while a call is followed."""

    def keep(owner: Any, *args: Any, **kwargs: Any) -> Any:
        leaves = keras.tree.flatten((args, kwargs))
        if _FOLLOW.get() is not None and any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
            return leaves[0]
        return original(owner, *args, **kwargs)

    return keep


def _deferring(original: Any) -> Any:
    """An operator of a variable that leaves symbolic tensors to their own: Keras 3.15 takes them for values."""

    def operator(variable: Any, other: Any) -> Any:
        return NotImplemented if isinstance(other, keras.KerasTensor) else original(variable, other)

    return operator


_OPERATORS = ("add", "floordiv", "matmul", "mod", "mul", "pow", "sub", "truediv")
_PATCHES = [
    (keras.Layer, "__call__", _followed),
    (keras.Operation, "symbolic_call", _followed),
    (keras.Layer, "add_loss", _forgetting),
    (keras.Variable, "assign", _forgetting),
    *((keras.Variable, f"__{name}__", _deferring) for name in _OPERATORS),
]
