"""Scores from the inputs of layers on data."""

import contextlib
import inspect
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from distill._keras import embeddings_variable, flatten_layers, kernel_variable, own_variables
from distill._types import Data, Tensor
from distill.pruning.weights._kernels import Kernel, weights_of
from distill.pruning.weights.importance._batches import (
    batches,
    put_back,
    require_examples,
    require_finite,
)
from distill.pruning.weights.importance._weights import Importance

# The arguments of a layer's call -> sums of squares of what a kernel is multiplied with, which broadcast to its shape.
_Squares = Callable[[dict[str, Any]], np.ndarray]


def wanda(data: Data) -> Importance:
    """Scores weights by |W_ij| · ‖X_j‖₂, where the norm of input j is over all examples and positions.

    The paper compares the weights of each output: `prune(model, s, importance=wanda(data), scope="output")`. The model
    runs in inference mode, batch by batch, and does not change. No labels and no gradients are needed. If a kernel is
    used several times, the norm is over all its inputs together.

    In a convolution, X_j is an input channel at all its positions, whichever of them a tap of the kernel meets. In a
    depthwise convolution, X_j is the kernel's own channel. In EinsumDense, and therefore MultiHeadAttention, X_j is
    whatever is summed with the weight. In an Embedding, the norm of a row is the square root of the number of times it
    is looked up. Positions that a Keras mask hides also count.

    Args:
        data: batches x, (x, y) or (x, y, sample_weight), of which only x is used, in a finite `tf.data.Dataset` or in
            anything else that can be read repeatedly; or an array x, a dictionary of arrays, or a tuple (x, y) of
            them, which are split into batches of 128.

    Returns:
        An importance with float64 scores >= 0. It raises ValueError if there are no examples, and for kernels whose
        inputs it cannot see: in recurrent cells, which run inside a loop, in layers that are not known, and in layers
        that the model does not run. Exclude those.

    Raises:
        ValueError: the data can be read only once, never ends, or consists of arrays of different lengths.

    Example:
    ```python
    from distill import pruning
    from distill.pruning.weights import importance

    pruning.prune(model, 0.5, importance=importance.wanda(x), scope="output")
    ```

    References:
        Sun et al. 2023, arXiv:2306.11695.
    """
    require_finite(data)

    def scores(model: keras.Model, kernels: Sequence[Kernel]) -> list[np.ndarray]:
        sums: list[Any] = [None] * len(kernels)
        # Position of a kernel -> the layer in which its inputs cannot be seen; and the layers, with what each measures.
        unseen: dict[int, keras.Layer] = {}
        seers: dict[int, tuple[keras.Layer, list[tuple[int, _Squares]]]] = {}
        for i, kernel in enumerate(kernels):
            for layer in _holders(model, kernel):
                squares = _squares_of(layer, kernel.variable)
                if squares is None:
                    unseen[i] = layer
                else:
                    seers.setdefault(id(layer), (layer, []))[1].append((i, squares))
        _require_seen(model, kernels, unseen)

        def seeing(
            layer: keras.Layer, measures: list[tuple[int, _Squares]]
        ) -> Callable[[dict[str, Any]], None]:
            def see(arguments: dict[str, Any]) -> None:
                for i, squares in measures:
                    try:
                        found = squares(arguments)
                    except _InsideLoop:
                        unseen[i] = layer
                    else:
                        sums[i] = found if sums[i] is None else sums[i] + found

            return see

        examples = 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(put_back(model, model.non_trainable_variables))
            for layer, measures in seers.values():
                stack.enter_context(_watched(layer, seeing(layer, measures)))
            for count, (x, _, _) in batches(data):
                examples += count
                model(x, training=False)
        require_examples(examples)
        idle = {i: kernels[i].layer for i, total in enumerate(sums) if total is None}
        _require_seen(model, kernels, idle | unseen)
        return [
            np.abs(weights_of(kernel).astype(np.float64)) * np.sqrt(total)
            for kernel, total in zip(kernels, sums, strict=True)
        ]

    return scores


class _InsideLoop(Exception):
    """A layer is called inside a loop or graph, in which its inputs have no values yet."""


def _require_seen(model: keras.Model, kernels: Sequence[Kernel], unseen: dict[int, keras.Layer]) -> None:
    if unseen:
        found = [(kernels[i], layer) for i, layer in sorted(unseen.items())]
        received = ", ".join(f"{kernel.name} (in a {type(layer).__name__})" for kernel, layer in found)
        paths = sorted({kernel.name.rpartition("/")[0] or kernel.layer.name for kernel, _ in found})
        raise ValueError(
            "wanda only sees the inputs of Dense, EinsumDense, Embedding and convolution layers that the model runs, "
            "and runs outside of loops such as those of recurrent cells. Received: "
            f"{received} of {model.name!r}. Exclude these layers: exclude={paths!r}."
        )


def _holders(model: keras.Model, kernel: Kernel) -> list[keras.Layer]:
    """Returns the layers that a kernel belongs to: several if they share it."""
    holders = {id(kernel.layer): kernel.layer}
    for layer in flatten_layers(model):
        if any(variable is kernel.variable for variable in own_variables(layer)):
            holders[id(layer)] = layer
    return list(holders.values())


@contextlib.contextmanager
def _watched(layer: keras.Layer, see: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Calls `see` with the arguments of every call of a layer, also if another layer makes the call."""
    call, own = layer.call, layer.__dict__.get("call")
    signature = inspect.signature(call)

    def watched(*args: Any, **kwargs: Any) -> Any:
        see(signature.bind(*args, **kwargs).arguments)
        return call(*args, **kwargs)

    # Not by setattr, or Keras and TensorFlow would track it.
    layer.__dict__["call"] = watched
    try:
        yield
    finally:
        del layer.__dict__["call"]
        if own is not None:
            layer.__dict__["call"] = own


def _squares_of(layer: keras.Layer, variable: keras.Variable) -> _Squares | None:
    """Returns how to measure the inputs that meet one of a layer's weights; `None` if that is not known."""
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    axis = 1 if channels_first else -1

    def grouped(arguments: dict[str, Any]) -> np.ndarray:
        by_group = _sums(_inputs(arguments), axis).reshape(layer.groups, -1)
        return np.repeat(by_group.T, layer.filters // layer.groups, axis=1)

    def between(arguments: dict[str, Any]) -> np.ndarray:
        settings = {
            name: getattr(layer, name) for name in ("strides", "padding", "dilation_rate", "data_format")
        }
        return _sums(ops.depthwise_conv(_inputs(arguments), layer.depthwise_kernel, **settings), axis)[
            :, None
        ]

    def looked_up(arguments: dict[str, Any]) -> np.ndarray:
        if arguments.get("reverse", False):  # a ReversibleEmbedding, used as the head of a language model
            return _sums(_inputs(arguments), -1)
        rows = variable.shape[0]
        # `ops.take` counts negative ids from the end.
        ids = _as_numpy(_inputs(arguments)).astype(np.int64).ravel() % rows
        return np.bincount(ids, minlength=rows).astype(np.float64)[:, None]

    def by_channel(arguments: dict[str, Any]) -> np.ndarray:
        return _sums(_inputs(arguments), axis)[:, None]

    if isinstance(layer, layers.Dense) and variable is kernel_variable(layer):
        return by_channel
    if isinstance(layer, layers.EinsumDense) and variable is kernel_variable(layer):
        return lambda arguments: _einsum_sums(layer.equation, _inputs(arguments))
    if isinstance(layer, (layers.Conv1D, layers.Conv2D, layers.Conv3D)) and variable is kernel_variable(
        layer
    ):
        return grouped
    transposed = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    if isinstance(layer, transposed) and variable is layer.kernel:
        return lambda arguments: _sums(_inputs(arguments), axis)
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)) and variable is layer.kernel:
        return by_channel
    if isinstance(layer, (layers.SeparableConv1D, layers.SeparableConv2D)):
        return {id(layer.depthwise_kernel): by_channel, id(layer.pointwise_kernel): between}.get(id(variable))
    if isinstance(layer, layers.Embedding) and variable is embeddings_variable(layer):
        return looked_up
    return None


def _inputs(arguments: dict[str, Any]) -> Tensor:
    return next(iter(arguments.values()))


def _sums(inputs: Tensor, axis: int) -> np.ndarray:
    """Returns, for every position along an axis, the sum of squares over all other axes."""
    axis %= len(inputs.shape)
    return _as_numpy(
        ops.sum(_squared(inputs), [other for other in range(len(inputs.shape)) if other != axis])
    )


def _einsum_sums(equation: str, inputs: Tensor) -> np.ndarray:
    sources, output = equation.split("->")
    names, kernel = sources.split(",")
    unused = [letter for letter in string.ascii_letters if letter not in equation]
    rank = len(inputs.shape) - len(names.replace("...", ""))
    names = names.replace("...", "".join(unused[:rank]))
    # The equation sums over these axes before it multiplies anything.
    alone = [axis for axis, name in enumerate(names) if name not in kernel + output and name not in unused]
    if alone:
        inputs = ops.sum(inputs, alone)
        names = "".join(name for axis, name in enumerate(names) if axis not in alone)
    shared = "".join(name for name in kernel if name in names)
    sums = _as_numpy(ops.einsum(f"{names}->{shared}", _squared(inputs)))
    return sums.reshape([sums.shape[shared.index(name)] if name in shared else 1 for name in kernel])


def _squared(inputs: Tensor) -> Tensor:
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return ops.square(inputs if dtype == "float64" else ops.cast(inputs, "float32"))


def _as_numpy(value: Tensor) -> np.ndarray:
    try:
        return np.asarray(ops.convert_to_numpy(value), np.float64)
    except (NotImplementedError, TypeError, RuntimeError) as error:
        raise _InsideLoop from error
