"""The layers whose rounding in LiteRT is known, and their checks."""

from typing import Any

import numpy as np
from keras import activations, layers

from distill.quantization._layers import QUANTIZED

CLAMPS = (activations.linear, activations.relu, activations.relu6)  # part of LiteRT's kernels
HEADS = (activations.sigmoid, activations.softmax)
# In inference, each output is one of the inputs, or zero.
_SELECTIONS = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Dropout,
    layers.Flatten,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.Identity,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
)
_AVERAGES = (layers.AveragePooling1D, layers.AveragePooling2D)
PAIRS = (layers.Add, layers.Multiply, layers.Subtract)
_OTHERS = (layers.Concatenate, layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D)
_KNOWN = (*QUANTIZED, *_SELECTIONS, *_AVERAGES, *PAIRS, *_OTHERS, layers.BatchNormalization)


def is_selection(layer: Any) -> bool:
    """Whether each output of a layer is one of its inputs, or zero."""
    return type(layer) in _SELECTIONS and not is_average(layer)


def is_average(layer: Any) -> bool:
    """Whether a layer takes averages, which LiteRT gives the range of their inputs."""
    return type(layer) in _AVERAGES or getattr(layer, "interpolation", None) == "bilinear"


def require_known(layer: Any, name: str) -> None:
    """Checks a layer on its own.

    Raises:
        ValueError: it is not known how LiteRT rounds it.
    """
    kind = type(layer)
    is_clamp = kind is layers.ReLU and layer.get_config()["max_value"] in (None, 6.0)
    is_clamp = is_clamp and not layer.negative_slope and not layer.threshold
    is_head = kind is layers.Softmax and layer.axis == -1
    if kind not in (*_KNOWN, layers.Activation) and not is_clamp and not is_head:
        raise ValueError(
            "quantize_aware only takes layers that it can round as LiteRT does, and never guesses. "
            f"Received: {name!r} ({kind.__name__}). "
            f"Known are {', '.join(sorted(k.__name__ for k in _KNOWN))}, ReLU without a limit or up to 6, and at the "
            "end softmax and sigmoid. Build the student from these, or export it with precision='int8' and examples, "
            "without training for it."
        )
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise ValueError(
            "quantize_aware only takes layers with their plain weights. Received: "
            f"{name!r}, which has LoRA or is quantized by Keras. Merge its weights into a new layer first."
        )
    if layer.compute_dtype != "float32":
        raise ValueError(
            "quantize_aware only takes models that compute in float32. "
            f"Received: {name!r}, which computes in {layer.compute_dtype}. "
            "Build the student with the 'float32' policy, and copy the weights with set_weights."
        )
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise ValueError(
            "LiteRT's kernels need the channels last. "
            f"Received: {name!r}, with data_format='channels_first'. Build it with data_format='channels_last'."
        )
    if getattr(layer, "interpolation", "nearest") not in ("nearest", "bilinear"):
        raise ValueError(
            "LiteRT resizes with interpolation='nearest' or 'bilinear', and has no kernel for another. "
            f"Received: {name!r}, with interpolation={layer.interpolation!r}. Build it with one of these."
        )
    if any(rate != 1 for rate in np.ravel(getattr(layer, "dilation_rate", 1))):
        raise ValueError(
            "LiteRT adds the bias of a dilated convolution separately, in float32. "
            f"Received: {name!r}, with dilation_rate={layer.dilation_rate}. Use larger kernels or strides."
        )


def unknown_activation(layer: Any, activation: Any) -> ValueError:
    """The error for a layer whose activation is not known to be rounded."""
    return ValueError(
        "quantize_aware can round the activations linear, relu and relu6 as LiteRT does, and at the end of a model "
        f"softmax and sigmoid. Received: {layer.name!r} with {getattr(activation, '__name__', activation)}. "
        "Build the student with one of them, or export it with precision='int8' and examples, without training for it."
    )
