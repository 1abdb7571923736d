"""The weights of a model that can be pruned: the kernels of its layers."""

import collections
import dataclasses
import math
from collections.abc import Iterator

import keras
import numpy as np
from keras import layers, ops

from distill._keras import embeddings_variable, flatten_layers, kernel_variable, own_trainable_variables
from distill.pruning.weights._selectors import Selector, Selectors, as_selectors, fits


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A weight that multiplies the inputs of a layer.

    Attributes:
        name: path of the layer and name of the weight, such as "encoder/dense/kernel".
        layer: layer that the weight belongs to.
        variable: the weight itself.
        input_axes: axes that the layer sums over to make one output; none for an embedding.
        channel_axis: innermost input axis that runs over the layer's input channels, or `None` if the layer does not
            sum over channels, as in depthwise convolutions and embeddings.
    """

    name: str
    layer: keras.Layer
    variable: keras.Variable
    input_axes: tuple[int, ...]
    channel_axis: int | None

    @property
    def output_axes(self) -> tuple[int, ...]:
        """All axes that are not input axes."""
        rank = len(self.variable.shape)
        return tuple(axis for axis in range(rank) if axis not in self.input_axes)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The kernels of a model that can be pruned, and the weights that cannot.

    Attributes:
        found: kernels in the order of the layers, each once even if several layers share it.
        skipped: name of each weight that is left alone -> the reason.
    """

    found: tuple[Kernel, ...]
    skipped: dict[str, str]


def find_kernels(model: keras.Layer, *, include: Selectors = None, exclude: Selectors = None) -> Kernels:
    """Finds the kernels of a model's layers, nested layers included.

    Known layers are Dense, EinsumDense (and therefore MultiHeadAttention), all convolutions, Embedding and recurrent
    cells. Biases and the weights of normalization layers are never pruned. As with tfmot, a custom layer can name its
    prunable weights with a method `get_prunable_weights()` that returns a list of variables. Layers that are quantized
    or have LoRA enabled are skipped, because they compute with a different kernel from the one they train.

    Args:
        model: built model or layer.
        include: layers to look at; all by default. Pass a layer's path or name, with shell wildcards ("encoder/*"); a
            layer type; a function of a layer that returns a bool; or a list of these. A selector that matches a layer
            also matches the layers inside it.
        exclude: layers to leave alone, in the same forms.

    Returns:
        The kernels that were found, and the reason for each weight that was skipped.

    Raises:
        ValueError: the model is not built, a selector matches no layer, or nothing can be pruned.
        TypeError: the model is not a Keras 3 model or layer, or a selector has the wrong type.

    Example:
    ```python
    from distill import pruning

    for kernel in pruning.find_kernels(model, exclude="head").found:
        print(kernel.name, kernel.variable.shape)
    ```
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"Only a Keras 3 model or layer has kernels to prune. Received: {type(model)}.")
    if not model.built:
        raise ValueError(
            f"A model must be built before its kernels can be found. Received: {model.name!r}, which is not built. "
            "Give it a keras.Input, or call it on a batch."
        )
    wanted, unwanted = as_selectors("include", include), as_selectors("exclude", exclude)
    fitting: set[int] = set()  # positions of the selectors that matched a layer

    def any_fits(selectors: list[Selector], offset: int, path: str, layer: keras.Layer) -> bool:
        hits = {offset + i for i, selector in enumerate(selectors) if fits(selector, path, layer)}
        fitting.update(hits)
        return bool(hits)

    found: dict[int, Kernel] = {}  # by id of the variable
    skipped: dict[str, tuple[int, str]] = {}
    names: collections.Counter[str] = collections.Counter()

    def visit(path: str, layer: keras.Layer, taken: bool, left: bool) -> None:
        if path or not isinstance(layer, keras.Model):  # the model itself is not one of its layers
            taken = any_fits(wanted, 0, path, layer) or taken
            left = any_fits(unwanted, len(wanted), path, layer) or left
        if not layer.built and isinstance(layer, _KNOWN):
            skipped[path] = (id(layer), f"{type(layer).__name__} is not built")
        for kernel, reason in _kernels_of(path, layer) if layer.built else ():
            if id(kernel.variable) in found:
                continue
            names[kernel.name] += 1
            if names[kernel.name] > 1:  # layers of a subclassed model may share a name
                kernel = dataclasses.replace(kernel, name=f"{kernel.name}:{names[kernel.name]}")
            reason = reason or ("" if taken and not left else "excluded" if left else "not included")
            if reason:
                # Another layer that shares the variable may still be known and included.
                skipped[kernel.name] = (id(kernel.variable), reason)
            else:
                found[id(kernel.variable)] = kernel
        for name, child in _children(layer):
            visit(f"{path}/{name}" if path else name, child, taken, left)

    visit("", model, include is None, False)  # an empty list includes nothing
    reasons = {name: reason for name, (of, reason) in skipped.items() if of not in found}
    if unfit := [selector for i, selector in enumerate([*wanted, *unwanted]) if i not in fitting]:
        raise ValueError(
            f"Each selector must match at least one layer. Received: {unfit!r}, which match no layer of "
            f"{model.name!r}. Its layers: {', '.join(path for path, _ in _paths(model))}."
        )
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it has no kernels"
        raise ValueError(f"Nothing in {model.name!r} can be pruned: {why}.")
    return Kernels(tuple(found.values()), reasons)


def weights_of(kernel: Kernel) -> np.ndarray:
    """Returns a kernel's values in numpy, with half precision widened to float32, which is exact."""
    value = np.asarray(ops.convert_to_numpy(kernel.variable))
    return value if value.dtype in (np.float32, np.float64) else value.astype(np.float32)


def _children(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    for child in flatten_layers(layer, include_self=False, recursive=False):
        if not isinstance(child, layers.InputLayer):
            yield child.name, child


def _paths(layer: keras.Layer, path: str = "") -> Iterator[tuple[str, keras.Layer]]:
    for name, child in _children(layer):
        own = f"{path}/{name}" if path else name
        yield own, child
        yield from _paths(child, own)


_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)
_CONVOLUTIONAL_RNNS = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
_KNOWN = (
    layers.Dense,
    layers.EinsumDense,
    layers.Embedding,
    *_CONVOLUTIONS,
    *_TRANSPOSED,
    *_DEPTHWISE,
    *_SEPARABLE,
    *_CELLS,
    *_CONVOLUTIONAL_RNNS,
)


def _kernels_of(path: str, layer: keras.Layer) -> Iterator[tuple[Kernel, str]]:
    """Yields a layer's own kernels, each with the reason to leave it alone, or ""."""
    if isinstance(layer, _CONVOLUTIONAL_RNNS):
        layer = layer.cell  # Keras does not export its class
    axes = _input_axes(layer)
    known = {id(variable): input_axes for variable, input_axes in axes}
    depthwise = isinstance(layer, (*_DEPTHWISE, *_SEPARABLE))
    reason = ""
    if getattr(layer, "quantization_mode", None) is not None:
        reason = f"{type(layer).__name__} is quantized"
    elif getattr(layer, "lora_enabled", False):
        reason = f"{type(layer).__name__} has LoRA enabled"
    others = [variable for variable in own_trainable_variables(layer) if id(variable) not in known]
    for variable in (*(variable for variable, _ in axes), *others):
        name = f"{path}/{variable.name}" if path else variable.name
        input_axes = known.get(id(variable), ())
        summed = input_axes and not (depthwise and len(input_axes) == layer.rank)
        kernel = Kernel(name, layer, variable, input_axes, input_axes[-1] if summed else None)
        if id(variable) in known:
            yield kernel, reason or ("" if math.prod(variable.shape) else "it is empty")
        elif len(variable.shape) > 1 and variable.name != "bias":
            yield kernel, f"not a known kernel of {type(layer).__name__}"


def _input_axes(layer: keras.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
    """Returns a layer's kernels, each with the axes that are summed over together with the inputs."""
    prunable = getattr(layer, "get_prunable_weights", None)
    if prunable is not None:
        return [(variable, tuple(range(len(variable.shape) - 1))) for variable in prunable()]
    if isinstance(layer, layers.Dense):
        return [(kernel_variable(layer), (0,))]
    if isinstance(layer, layers.EinsumDense):
        return [(kernel_variable(layer), _contracted(layer.equation))]
    if isinstance(layer, _CONVOLUTIONS):
        return [(kernel_variable(layer), tuple(range(layer.rank + 1)))]
    if isinstance(layer, _TRANSPOSED):
        return [(layer.kernel, (*range(layer.rank), layer.rank + 1))]
    if isinstance(layer, _DEPTHWISE):
        return [(layer.kernel, tuple(range(layer.rank)))]
    if isinstance(layer, _SEPARABLE):
        across = tuple(range(layer.rank))
        return [(layer.depthwise_kernel, across), (layer.pointwise_kernel, (*across, layer.rank))]
    if isinstance(layer, layers.Embedding):
        return [(embeddings_variable(layer), ())]
    if isinstance(layer, _CELLS):
        return [(layer.kernel, (0,)), (layer.recurrent_kernel, (0,))]
    if type(layer).__name__ == "ConvLSTMCell":
        axes = tuple(range(layer.rank + 1))
        return [(layer.kernel, axes), (layer.recurrent_kernel, axes)]
    return []


def _contracted(equation: str) -> tuple[int, ...]:
    sources, output = equation.split("->")
    inputs, kernel = (part.replace("...", "") for part in sources.split(","))
    return tuple(i for i, label in enumerate(kernel) if label in inputs and label not in output)
