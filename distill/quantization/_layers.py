"""Layers that compute in training what LiteRT's int8 kernels compute, so that a network learns to bear the rounding.

Values are rounded to what an int8 tensor can hold and stay float32; gradients pass through the rounding as if it were
not there, but not where a value was clipped [1]. Weights are int8 in [-127, 127] with a scale for each output channel;
activations have 256 steps over one range, of which zero is one.

References:
    [1] Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, arXiv:1712.05877, section 3.
"""

from typing import Any

import keras
from keras import ops
from keras.quantizers import fake_quant_with_min_max_vars

SMALLEST = 1e-8  # of a channel's largest weight: one of zeros has a scale too


def round_kernel(kernel: Any) -> Any:
    """The kernel as an int8 file holds it: 254 steps a channel, symmetric about zero, which stays zero.

    Args:
        kernel: (…, channels), float.

    Returns:
        The same shape, rounded.
    """
    kernel = ops.convert_to_tensor(kernel)
    largest = ops.max(ops.abs(kernel), axis=tuple(range(len(kernel.shape) - 1)))
    largest = ops.maximum(largest, SMALLEST)
    return fake_quant_with_min_max_vars(kernel, -largest, largest, narrow_range=True, axis=-1)


@keras.saving.register_keras_serializable(package="distill")
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to 256 steps over a range that training follows.

    Args:
        momentum: share of the old range that stays at each training step; the rest is the batch's least and largest.

    Attributes:
        low: least value, <= 0.
        high: largest value, >= 0.

    Call args:
        inputs: any shape, float.
        follow: whether the range follows these inputs in training.
    """

    def __init__(self, momentum: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Makes the range, which is empty until something is seen."""
        # Replicas of tf.distribute see different examples and share one range.
        self.low = self.add_weight(name="low", initializer="zeros", trainable=False, aggregation="mean")
        self.high = self.add_weight(name="high", initializer="zeros", trainable=False, aggregation="mean")

    def widen(self, inputs: Any) -> None:
        """Takes values into the range."""
        self.low.assign(ops.minimum(self.low, ops.min(inputs)))
        self.high.assign(ops.maximum(self.high, ops.max(inputs)))

    def call(self, inputs: Any, follow: bool = True, training: bool | None = None) -> Any:
        """The rounded inputs, clipped to the range."""
        if training and follow:
            fresh = 1 - self.momentum
            self.low.assign(self.momentum * self.low + fresh * ops.minimum(ops.min(inputs), 0.0))
            self.high.assign(self.momentum * self.high + fresh * ops.maximum(ops.max(inputs), 0.0))
        return fake_quant_with_min_max_vars(inputs, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        """What makes this layer anew."""
        return {**super().get_config(), "momentum": self.momentum}


class _RoundedKernel:
    """For layers whose `call` reads `kernel`; what is trained is `_kernel`, as in Keras."""

    @property
    def kernel(self) -> Any:
        """As an int8 file holds it."""
        return round_kernel(super().kernel)  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="distill")
class QuantizedDense(_RoundedKernel, keras.layers.Dense):
    """A Dense layer with a rounded kernel."""


@keras.saving.register_keras_serializable(package="distill")
class QuantizedConv1D(_RoundedKernel, keras.layers.Conv1D):
    """A Conv1D layer with a rounded kernel."""


@keras.saving.register_keras_serializable(package="distill")
class QuantizedConv2D(_RoundedKernel, keras.layers.Conv2D):
    """A Conv2D layer with a rounded kernel."""


@keras.saving.register_keras_serializable(package="distill")
class QuantizedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """A DepthwiseConv2D layer with a rounded kernel; each of its filters has a scale."""

    def call(self, inputs: Any) -> Any:
        """As in Keras, with the kernel as an int8 file holds it."""
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


QUANTIZED: dict[Any, Any] = {
    keras.layers.Conv1D: QuantizedConv1D,
    keras.layers.Conv2D: QuantizedConv2D,
    keras.layers.Dense: QuantizedDense,
    keras.layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
}
PLAIN = {quantized: plain for plain, quantized in QUANTIZED.items()}
