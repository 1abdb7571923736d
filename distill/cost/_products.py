"""Counts the multiply-adds of one call of a layer or an operation, from its sizes."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from distill._keras import (
    activation_ops,
    core,
    image,
    linalg,
    math_ops,
    nn,
    numpy_ops,
    operation_modules,
    operations,
)
from distill.cost._hub import hub_products
from distill.cost._lengths import known
from distill.quantization import FakeQuantize

Shape = tuple[int | None, ...]


class Products(NamedTuple):
    """Multiply-adds of one example.

    Attributes:
        weights: products with a kernel, or with another tensor that does not depend on the input.
        activations: products of two tensors that both depend on the input, as in attention.

    Example:
    ```python
    from distill import cost

    print(cost.calls_of(model).products.total)
    ```
    """

    weights: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.weights + self.activations


def is_known(operation: keras.Operation) -> bool:
    """Whether `products_of` knows a layer or operation. The exact type decides: a subclass may do something else."""
    kind = type(operation)
    return any(kind in kinds for kinds in (_LAYERS, _OPERATIONS, _FOURIER, _FREE, hub_products()))


def products_of(
    operation: keras.Operation, operands: Sequence[Any], outputs: Sequence[keras.KerasTensor]
) -> Products:
    """Counts the multiply-adds of one call.

    Args:
        operation: layer, or operation of `keras.ops`, that `is_known`.
        operands: tensors, weights and arrays that it is called on, in order.
        outputs: symbolic tensors that it makes.

    Returns:
        The products; elementwise work has none.

    Raises:
        ValueError: a size is unknown, or there are more than two operands.
    """
    kind = type(operation)
    if kind in _LAYERS:
        return Products(weights=_LAYERS[kind](operation, operands[0], outputs[0]))
    if kind in (of_hub := hub_products()):
        one, other = (known(operand.shape, operation.name) for operand in operands[:2])  # a mask may follow
        return Products(*of_hub[kind](operation, one, other))
    if kind in _FOURIER:
        return Products(weights=_fourier(operation, outputs[0]))
    if kind in _OPERATIONS:
        count = _OPERATIONS[kind](operation, operands, outputs[0])
        symbolic = all(isinstance(operand, keras.KerasTensor) for operand in operands[:3])  # masks may follow
        return Products(activations=count) if symbolic else Products(weights=count)
    return Products()


def mended(operation: keras.Operation, operands: Sequence[Any], outputs: Any) -> Any:
    """The outputs of a call, corrected where Keras 3.15 infers a wrong shape, or less than can be known."""
    if type(operation) is nn.DotProductAttention:  # Keras takes the value to be as wide as the query
        query, _, value = operands[:3]
        return keras.KerasTensor((*query.shape[:-1], value.shape[-1]), outputs.dtype)
    if type(operation) is numpy_ops.Ndim:  # Keras makes a tensor of a known number
        return len(operands[0].shape)
    if type(operation) is layers.EinsumDense:  # Keras leaves sizes open that the layer's config leaves open
        sizes = _indices(operation.equation, [operands[0].shape, operation.kernel.shape])
        target = operation.equation.replace(" ", "").split("->")[1]
        shape = tuple(sizes[label] for label in _labels(target, len(outputs.shape)))
        return keras.KerasTensor(shape, outputs.dtype)
    return outputs


def _size(tensor: Any, name: str) -> int:
    return math.prod(known(tuple(tensor.shape), name))


def _dense(layer: Any, source: Any, target: Any) -> int:
    return _size(source, layer.name) * layer.units


def _einsum_dense(layer: Any, source: Any, target: Any) -> int:
    shapes = [known(source.shape, layer.name), tuple(layer.kernel.shape)]
    return _equation(layer.equation, shapes, layer.name)


def _convolution(layer: Any, source: Any, target: Any) -> int:
    """At each position, every number of a kernel is used once; groups make the kernel smaller."""
    return _positions(layer, target) * math.prod(layer.kernel.shape)


def _separable(layer: Any, source: Any, target: Any) -> int:
    kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
    return _positions(layer, target) * sum(math.prod(kernel.shape) for kernel in kernels)


def _transposed(layer: Any, source: Any, target: Any) -> int:
    return _positions(layer, source) * math.prod(layer.kernel.shape)


def _positions(layer: Any, tensor: Any) -> int:
    channel = 1 if layer.data_format == "channels_first" else -1
    shape = list(known(tensor.shape, layer.name))
    del shape[channel]
    return math.prod(shape)


def _recurrent(layer: Any, source: Any, target: Any) -> int:
    """Both kernels are used once per step, whatever the gates."""
    _, steps, _ = known(source.shape, layer.name)
    return steps * sum(math.prod(k.shape) for k in (layer.cell.kernel, layer.cell.recurrent_kernel))


def _convolutional_recurrent(layer: Any, source: Any, target: Any) -> int:
    """In each step, both kernels are used at every position of the output."""
    shape = list(known(target.shape, layer.name))[1 + layer.return_sequences :]
    del shape[0 if layer.data_format == "channels_first" else -1]
    _, steps, *_ = known(source.shape, layer.name)
    kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
    return steps * math.prod(shape) * sum(math.prod(kernel.shape) for kernel in kernels)


def _norm(operation: Any, operands: Sequence[Any], target: Any) -> int:
    """The squares of a norm are no products with a kernel; norms from singular values are.

    Raises:
        ValueError: it is such a norm.
    """
    rank = len(operands[0].shape) if operation.axis is None else len(np.ravel(operation.axis))
    if operation.ord == "nuc" or (operation.ord in (2, -2) and rank > 1):
        raise ValueError(
            "Multiply-adds are counted where the arithmetic is known, never guessed. Received: "
            f"{operation.name}, a norm with ord={operation.ord!r}, which needs singular values. Count it by hand."
        )
    return 0


def _matmul(operation: Any, operands: Sequence[Any], target: Any) -> int:
    one, _ = operands
    return _size(target, operation.name) * known(one.shape, operation.name)[-1]


def _vdot(operation: Any, operands: Sequence[Any], target: Any) -> int:
    one, _ = operands
    return _size(one, operation.name)


def _tensordot(operation: Any, operands: Sequence[Any], target: Any) -> int:
    one, _ = operands
    shape = known(one.shape, operation.name)
    axes = operation.axes
    summed = shape[len(shape) - axes :] if isinstance(axes, int) else [shape[i] for i in np.ravel(axes[0])]
    return _size(target, operation.name) * math.prod(summed)


def _einsum(operation: Any, operands: Sequence[Any], target: Any) -> int:
    shapes: list[Shape] = [known(operand.shape, operation.name) for operand in operands]
    return 0 if len(shapes) == 1 else _equation(operation.subscripts, shapes, operation.name)


def _equation(equation: str, shapes: Sequence[Shape], name: str) -> int:
    """Each combination of all indices is one product."""
    if len(shapes) != 2:
        raise ValueError(
            "Multiply-adds of an equation are counted for two operands: with more, they depend on the order. "
            f"Received: {equation!r} in {name}. Write it as several equations."
        )
    return math.prod(_indices(equation, shapes).values())


def _indices(equation: str, shapes: Sequence[Shape]) -> dict[str | int, Any]:
    """The size of each index of an equation; axes of an ellipsis are aligned at their ends, and broadcast."""
    sizes: dict[str | int, Any] = {}
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), shapes, strict=True):
        for label, size in zip(_labels(term, len(shape)), shape, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    return sizes


def _labels(term: str, rank: int) -> list[str | int]:
    before, dots, after = term.partition("...")
    return [*before, *(range(len(before) + len(after) - rank, 0) if dots else ()), *after]


def _attention(operation: Any, operands: Sequence[Any], target: Any) -> int:
    """The query times the key, and the scores times the value."""
    query, key, value = (known(operand.shape, operation.name) for operand in operands[:3])
    return math.prod(query[:-1]) * key[1] * (query[-1] + value[-1])


def _kernel_first(operation: Any, operands: Sequence[Any], target: Any) -> int:
    """A convolution whose kernel ends in the axes that make the output's channels."""
    _, kernel = operands
    ends = 2 if isinstance(operation, nn.DepthwiseConv) else 1
    made = math.prod(kernel.shape[-ends:])
    return _size(target, operation.name) // made * math.prod(kernel.shape)


def _separable_operation(operation: Any, operands: Sequence[Any], target: Any) -> int:
    _, depthwise, pointwise = operands
    positions = _size(target, operation.name) // pointwise.shape[-1]
    return positions * (math.prod(depthwise.shape) + math.prod(pointwise.shape))


def _transposed_operation(operation: Any, operands: Sequence[Any], target: Any) -> int:
    source, kernel = operands
    return _size(source, operation.name) // kernel.shape[-1] * math.prod(kernel.shape)


def _fourier(operation: Any, target: Any) -> int:
    """Cooley and Tukey's transform of radix 2: half a complex product for each number, log2 n times."""
    shape = known(target.shape, operation.name)
    return round(2 * math.prod(shape) * math.log2(math.prod(shape[-_FOURIER[type(operation)] :])))


_LAYERS: dict[type, Callable[[Any, Any, Any], int]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum_dense,
    **dict.fromkeys([layers.Conv1D, layers.Conv2D, layers.Conv3D], _convolution),
    **dict.fromkeys([layers.DepthwiseConv1D, layers.DepthwiseConv2D], _convolution),
    **dict.fromkeys([layers.SeparableConv1D, layers.SeparableConv2D], _separable),
    **dict.fromkeys([layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose], _transposed),
    **dict.fromkeys([layers.GRU, layers.LSTM, layers.SimpleRNN], _recurrent),
    **dict.fromkeys([layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D], _convolutional_recurrent),
}
_OPERATIONS: dict[type, Callable[[Any, Sequence[Any], Any], int]] = {
    **dict.fromkeys([numpy_ops.Matmul, numpy_ops.Dot, numpy_ops.Inner], _matmul),
    **dict.fromkeys([nn.Conv, nn.DepthwiseConv], _kernel_first),
    linalg.Norm: _norm,
    nn.ConvTranspose: _transposed_operation,
    nn.DotProductAttention: _attention,
    nn.SeparableConv: _separable_operation,
    numpy_ops.Einsum: _einsum,
    numpy_ops.Tensordot: _tensordot,
    numpy_ops.Vdot: _vdot,
}
# Transforms of complex numbers -> number of last axes that they mix.
_FOURIER: dict[type, int] = {math_ops.FFT: 1, math_ops.FFT2: 2, math_ops.IFFT2: 2}
_KERAS = {
    kind
    for module in (activation_ops, *operation_modules())
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, keras.Operation)
}
# Neither counted nor free: they run code that they are given, or products of their own.
_UNKNOWN = {
    *(kind for kind in _KERAS if kind.__module__ == linalg.__name__),
    *(core.AssociativeScan, core.Cond, core.ForiLoop, core.Map, core.Scan, core.Switch, core.VectorizedMap),
    *operations(image, "GaussianBlur", "SSIM", "SobelEdges"),
    *operations(math_ops, "CDist", "IRFFT", "ISTFT"),
    *(math_ops.Logdet, math_ops.RFFT, math_ops.STFT),
    *(nn.CTCDecode, nn.CTCLoss),
    *(numpy_ops.Corrcoef, numpy_ops.Correlate, numpy_ops.Slogdet),
    core.WhileLoop,
}
# Elementwise layers whose call is not written with `keras.ops` in every setting: activations, normalizations, image
# augmentation.
_PLAIN = (
    layers.Activation,
    layers.BatchNormalization,
    layers.CenterCrop,
    layers.Normalization,
    layers.RandomBrightness,
    layers.RandomContrast,
    layers.RandomCrop,
    layers.RandomFlip,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
    layers.Rescaling,
    layers.Resizing,
    layers.Masking,  # leaves keras.ops before Keras 3.15
    layers.Softmax,  # with masks
    *(layers.AutoContrast, layers.Solarization),
)
# Look-ups and encodings, and augmentation that does nothing in inference; not every version of Keras has all.
_NO_PRODUCTS = [
    kind
    for name in (
        *("CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup", "StringLookup"),
        *("TextVectorization", "AugMix", "CutMix", "MixUp", "RandAugment", "RandomColorDegeneration"),
        *("RandomColorJitter", "RandomElasticTransform", "RandomErasing", "RandomGaussianBlur"),
        *("RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization"),
        *("RandomSaturation", "RandomSharpness", "RandomShear"),
    )
    if (kind := getattr(layers, name, None)) is not None
]
# Keras infers their outputs, but not those of the operation that they call.
_ADAPTIVE = [kind for name, kind in vars(layers).items() if name.startswith("Adaptive")]
_FREE = {*_PLAIN, *_NO_PRODUCTS, *_ADAPTIVE, *_KERAS, FakeQuantize} - _UNKNOWN
