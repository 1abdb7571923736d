"""Layers that compute in training what LiteRT's int8 kernels compute, so that a network learns to live with rounding.

Values are rounded to what an int8 tensor can hold, and stay float32. Gradients pass through the rounding as if it were
not there, except where a value was clipped [1]. Weights are int8 in [-127, 127], with one scale per output channel;
activations have 256 steps over one range, one of which is zero.

References:
    [1] Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, arXiv:1712.05877, section 3.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from keras.quantizers import fake_quant_with_min_max_vars

from distill._types import Tensor

_SMALLEST = 1e-8  # lower bound of a channel's largest weight, so that a channel of zeros has a scale too
_NEARLY_ZERO = 1e-30  # vanishes in a sum with any other bias


def round_kernel(kernel: Tensor, axis: int = -1) -> Tensor:
    """Rounds a kernel as an int8 file stores it: 254 steps per channel, symmetric about zero; zeros stay zero.

    Args:
        kernel: kernel (…, channels), float.
        axis: axis of the output channels.

    Returns:
        The rounded kernel, same shape.
    """
    kernel = ops.moveaxis(ops.convert_to_tensor(kernel), axis, -1)
    largest = ops.max(ops.abs(kernel), axis=tuple(range(len(kernel.shape) - 1)))
    largest = ops.maximum(largest, _SMALLEST)
    rounded = fake_quant_with_min_max_vars(kernel, -largest, largest, narrow_range=True, axis=-1)
    return ops.moveaxis(rounded, -1, axis)


@keras.saving.register_keras_serializable(package="distill")
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to 256 steps over a range that follows the batches of training.

    Args:
        momentum: share of the old range that each training step keeps, 0 to 1; the rest comes from the smallest and
            largest values of the batch. The range starts empty, at [0, 0]: call `widen` on activations first, as
            `quantize_aware` does, or the first steps clip nearly all of them.
        **kwargs: options of `keras.layers.Layer`, such as `name`.

    Attributes:
        low: lower end of the range, <= 0; a scalar variable.
        high: upper end of the range, >= 0; a scalar variable.

    Call args:
        inputs: activations of any shape, float.
        follow: whether the range follows these inputs in training.

    Returns:
        The rounded inputs, clipped to the range, same shape.

    Example:
        >>> from distill import quantization
        >>> layer = quantization.FakeQuantize()
        >>> rounded = layer(np.array([[-1.0, 0.3, 2.0]], "float32"), training=True)
    """

    def __init__(self, *, momentum: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.supports_masking = True

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes the range, which is empty until the layer sees values."""
        # Replicas of tf.distribute see different examples and share one range.
        self.low = self.add_weight(name="low", initializer="zeros", trainable=False, aggregation="mean")
        self.high = self.add_weight(name="high", initializer="zeros", trainable=False, aggregation="mean")

    def widen(self, inputs: Tensor) -> None:
        """Widens the range to these values."""
        self.low.assign(ops.minimum(self.low, ops.min(inputs)))
        self.high.assign(ops.maximum(self.high, ops.max(inputs)))

    def call(self, inputs: Tensor, follow: bool = True, training: bool | None = None) -> Tensor:
        """Rounds the inputs."""
        if training and follow:
            fresh = 1 - self.momentum
            self.low.assign(self.momentum * self.low + fresh * ops.minimum(ops.min(inputs), 0.0))
            self.high.assign(self.momentum * self.high + fresh * ops.maximum(ops.max(inputs), 0.0))
        return fake_quant_with_min_max_vars(inputs, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        """Returns the config, from which Keras builds the layer again."""
        return {**super().get_config(), "momentum": self.momentum}


class _RoundedKernel:
    """Rounds the kernel of layers whose `call` reads `kernel`; the variable that is trained is not rounded."""

    @property
    def kernel(self) -> Tensor:
        """The kernel as an int8 file stores it."""
        return round_kernel(super().kernel)  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="distill")
class QuantizedDense(_RoundedKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a rounded kernel.

    Example:
    ```python
    from distill import quantization

    layer = quantization.QuantizedDense(8)
    ```
    """


@keras.saving.register_keras_serializable(package="distill")
class QuantizedConv1D(_RoundedKernel, keras.layers.Conv1D):
    """`keras.layers.Conv1D` with a rounded kernel.

    Example:
    ```python
    from distill import quantization

    layer = quantization.QuantizedConv1D(8, 3)
    ```
    """


@keras.saving.register_keras_serializable(package="distill")
class QuantizedConv2D(_RoundedKernel, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a rounded kernel.

    Example:
    ```python
    from distill import quantization

    layer = quantization.QuantizedConv2D(8, 3)
    ```
    """


@keras.saving.register_keras_serializable(package="distill")
class QuantizedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a rounded kernel; each of its filters has its own scale.

    Example:
    ```python
    from distill import quantization

    layer = quantization.QuantizedDepthwiseConv2D(3)
    ```
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Convolves as Keras does, with the kernel as an int8 file stores it."""
        filters = self.kernel.shape[-2] * self.kernel.shape[-1]
        kernel = round_kernel(ops.reshape(self.kernel, (*self.kernel_size, filters)))
        outputs = ops.depthwise_conv(
            inputs,
            ops.reshape(kernel, self.kernel.shape),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        if self.use_bias:
            outputs = outputs + self.bias
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable(package="distill")
class QuantizedConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with a rounded kernel.

    Example:
    ```python
    from distill import quantization

    layer = quantization.QuantizedConv2DTranspose(8, 3, strides=2)
    ```
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Convolves as Keras does, with the kernel as an int8 file stores it."""
        outputs = _transposed(self, inputs, round_kernel(self.kernel, axis=-2))
        if self.use_bias:
            outputs = outputs + self.bias
        return outputs if self.activation is None else self.activation(outputs)


class ConvertibleConv2DTranspose(keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` with a bias that no converter leaves out.

    If there is no bias, or it is all zeros, the converter keeps a ReLU after the layer separate, in float32.
    """

    def call(self, inputs: Tensor) -> Tensor:
        """Convolves as Keras does; zeros of the bias become numbers that int32 rounds to zero."""
        bias = (self.bias if self.use_bias else ops.zeros(self.filters)) + _NEARLY_ZERO
        outputs = _transposed(self, inputs, self.kernel) + bias
        return outputs if self.activation is None else self.activation(outputs)


def _transposed(layer: keras.layers.Conv2DTranspose, inputs: Tensor, kernel: Tensor) -> Tensor:
    return ops.conv_transpose(
        inputs,
        kernel,
        strides=layer.strides,
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )


QUANTIZED: dict[Any, Any] = {
    keras.layers.Conv1D: QuantizedConv1D,
    keras.layers.Conv2D: QuantizedConv2D,
    keras.layers.Conv2DTranspose: QuantizedConv2DTranspose,
    keras.layers.Dense: QuantizedDense,
    keras.layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
}
PLAIN = {quantized: plain for plain, quantized in QUANTIZED.items()}
# What a converter that rounds kernels takes in their place.
CONVERTIBLE = {**PLAIN, QuantizedConv2DTranspose: ConvertibleConv2DTranspose}
