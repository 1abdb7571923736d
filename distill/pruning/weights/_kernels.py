"""Which weights of a model can be pruned: the kernels of its layers, by name, type or a rule of one's own."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import keras
from keras import layers

from distill._keras import embeddings_variable, flatten_layers, kernel_variable, own_trainable_variables

Selector = str | type[keras.Layer] | Callable[[keras.Layer], bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One weight that is multiplied with a layer's inputs.

    Attributes:
        name: path of the layer and name of the weight, such as "encoder/dense/kernel".
        layer: that it belongs to.
        variable: the weight.
        input_axes: those that are summed over for one output; none in an embedding.
        channel_axis: the innermost of them over the layer's input channels, or `None` where channels are not summed
            over, as in depthwise convolutions and embeddings.
    """

    name: str
    layer: keras.Layer
    variable: keras.Variable
    input_axes: tuple[int, ...]
    channel_axis: int | None

    @property
    def output_axes(self) -> tuple[int, ...]:
        """The other axes."""
        rank = len(self.variable.shape)
        return tuple(axis for axis in range(rank) if axis not in self.input_axes)


@dataclasses.dataclass(frozen=True)
class Kernels:
    """What can be pruned of a model, and what cannot.

    Attributes:
        found: in the order of the layers, each once, however many layers share it.
        skipped: name of a weight -> why it is left alone.
    """

    found: tuple[Kernel, ...]
    skipped: dict[str, str]


def find_kernels(
    model: keras.Layer,
    include: Selector | Sequence[Selector] | None = None,
    exclude: Selector | Sequence[Selector] | None = None,
) -> Kernels:
    """Finds the kernels of a model's layers, nested ones included.

    Known are Dense, EinsumDense (so MultiHeadAttention), convolutions of every kind, Embedding and recurrent cells;
    biases and the weights of normalizations are never pruned. A layer of one's own says what can be pruned by a
    method `get_prunable_weights()` that returns a list of variables, as for tfmot. Layers that are quantized or
    have LoRA enabled are skipped: their effective kernel is another.

    Args:
        model: a built model or layer.
        include: which layers; all if not given. A layer's path or name, shell wildcards allowed ("encoder/*"); a
            type; a function of the layer that returns a bool; or a list of these. What holds for a layer holds for
            the layers inside.
        exclude: layers that are left alone, in the same way.

    Returns:
        The kernels, and what was skipped with the reason.

    Raises:
        ValueError: the model is not built; a selector fits no layer; there is nothing to prune.
        TypeError: a selector is something else, or the model is no Keras 3 model.
    """
    if not isinstance(model, keras.Layer):
        raise TypeError(f"Kernels are of a Keras 3 model or layer. Received: {type(model)}.")
    if not model.built:
        raise ValueError(
            f"Kernels exist once a model is built. Received: {model.name!r}, which is not. Give it a keras.Input, or "
            "call it on a batch."
        )
    wanted, unwanted = as_selectors("include", include), as_selectors("exclude", exclude)
    fitting: set[int] = set()  # positions of selectors that fit some layer

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
                # Another layer that shares it may be known, and included.
                skipped[kernel.name] = (id(kernel.variable), reason)
            else:
                found[id(kernel.variable)] = kernel
        for name, child in _children(layer):
            visit(f"{path}/{name}" if path else name, child, taken, left)

    visit("", model, not wanted, False)
    reasons = {name: reason for name, (of, reason) in skipped.items() if of not in found}
    selectors = [*wanted, *unwanted]
    if unfit := [selector for i, selector in enumerate(selectors) if i not in fitting]:
        raise ValueError(
            f"A selector fits at least one layer. Received: {unfit!r}, which fit none of {model.name!r}. Its layers: "
            f"{', '.join(path for path, _ in _paths(model))}."
        )
    if not found:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it has no kernels"
        raise ValueError(
            f"There is something to prune. Received: {model.name!r}, of which nothing is: {why}."
        )
    return Kernels(tuple(found.values()), reasons)


def as_selectors(name: str, given: Selector | Sequence[Selector] | None) -> list[Selector]:
    """What was given as argument `name`, as a list."""
    selectors: list[Any] = (
        [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    )
    for selector in selectors:
        is_type = isinstance(selector, type) and issubclass(selector, keras.Layer)
        known = isinstance(selector, str) or is_type
        if not known and (isinstance(selector, (type, keras.Layer)) or not callable(selector)):
            raise TypeError(
                f"{name} takes names of layers, types of layers, functions of a layer, or a list of these. Received: "
                f"{selector!r}."
            )
    return selectors


def fits(selector: Selector, path: str, layer: keras.Layer) -> bool:
    """Whether a selector means a layer."""
    if isinstance(selector, str):
        return fnmatchcase(path, selector) or fnmatchcase(layer.name, selector)
    if isinstance(selector, type):
        return isinstance(layer, selector)
    return bool(selector(layer))


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
    """The weights that are a layer's own, each with the reason to leave it alone or ""."""
    if isinstance(layer, _CONVOLUTIONAL_RNNS):
        layer = layer.cell  # Keras exports no name for its class
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
            yield kernel, f"{type(layer).__name__} has no kernel that is known here"


def _input_axes(layer: keras.Layer) -> list[tuple[keras.Variable, tuple[int, ...]]]:
    """The kernels of a layer, each with the axes that are summed over with its inputs."""
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
