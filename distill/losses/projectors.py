"""Layers between a student's features and a teacher's: plain Keras layers, trained with the student, not part of it.

A loss on layers makes the one that its paper has, by the shapes that it meets, unless it is given one: any
`keras.Layer` that turns the student's features into the teacher's shape. Those made here compute in float32
and on channels-last maps.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

# What the reference codes' framework does by default; statistics of a projector are those of the batch in any case.
_NORM = {"momentum": 0.9, "epsilon": 1e-5, "dtype": "float32"}
_MAP = {"data_format": "channels_last", "dtype": "float32"}


def linear(channels: int, rank: int, *, use_bias: bool = True) -> keras.Layer:
    """A linear map of the last axis: a 1×1 convolution on maps, a dense layer on vectors and tokens.

    Args:
        channels: of the teacher's features.
        rank: how many axes the features have, the batch included: 4 for maps.
        use_bias: whether something is added.
    """
    if rank == 4:
        return layers.Conv2D(channels, 1, use_bias=use_bias, **_MAP)
    return layers.Dense(channels, use_bias=use_bias, dtype="float32")


def mlp(
    channels: int, rank: int, *, hidden: Sequence[int] | None = None, use_bias: bool = True
) -> keras.Sequential:
    """Linear maps of the last axis with ReLU between them: on maps, a network of 1×1 convolutions.

    Args:
        channels: of the teacher's features.
        rank: how many axes the features have, the batch included: 4 for maps.
        hidden: widths between; two of `channels` by default.
        use_bias: whether the linear maps have biases.
    """
    stack: list[keras.Layer] = []
    for width in (channels, channels) if hidden is None else hidden:
        stack += [linear(width, rank, use_bias=use_bias), layers.ReLU(dtype="float32")]
    return keras.Sequential([*stack, linear(channels, rank, use_bias=use_bias)])


def connector(channels: int, rank: int) -> keras.Sequential:
    """A linear map of the last axis without bias, and batch normalization [1].

    Args:
        channels: of the teacher's features.
        rank: how many axes the features have, the batch included: 4 for maps.

    References:
        [1] Heo et al. 2019, arXiv:1904.01866, section 3.
    """
    return keras.Sequential([linear(channels, rank, use_bias=False), layers.BatchNormalization(**_NORM)])


def regressor(teacher: Sequence[Any], student: Sequence[Any]) -> keras.Layer:
    """FitNet's regressor [1] by the shapes of the features: convolution, batch normalization and ReLU on maps.

    The convolution is 3×3 with stride 2 where the student's map is twice the teacher's, a transposed 4×4 with
    stride 2 where it is half of it, and else a valid one of 1 + H_s − H_t by 1 + W_s − W_t. Vectors and tokens
    get a dense layer, without normalization and ReLU, as in the paper.

    Args:
        teacher: shape (batch, height, width, channels), (batch, time, channels) or (batch, channels).
        student: likewise; the channels may differ.

    Raises:
        ValueError: a map's size is not known, or the student's is smaller than the teacher's and not half of it.

    References:
        [1] Romero et al. 2014, arXiv:1412.6550, section 2.2. The choice by size is that of RepDistiller's `ConvReg`.
    """
    channels = teacher[-1]
    if len(teacher) != 4:
        return linear(channels, len(teacher))
    sizes = [(t, s) for t, s in zip(teacher[1:3], student[1:3], strict=True) if t and s]
    if len(sizes) < 2:
        raise ValueError(
            "FitNet's regressor is chosen by the sizes of the maps, so they must be known. "
            f"Received teacher {tuple(teacher)} and student {tuple(student)}. Give the models' inputs a fixed size, "
            "or pass projector=, such as keras.layers.Conv2D(channels, 1)."
        )
    if all(s == 2 * t for t, s in sizes):
        # Padded on both sides, as in the reference; "same" would shift the map by a pixel.
        convolution = [layers.ZeroPadding2D(1, **_MAP), layers.Conv2D(channels, 3, strides=2, **_MAP)]
    elif all(2 * s == t for t, s in sizes):
        convolution = [layers.Conv2DTranspose(channels, 4, strides=2, padding="same", **_MAP)]
    elif all(s >= t for t, s in sizes):
        convolution = [layers.Conv2D(channels, [1 + s - t for t, s in sizes], **_MAP)]
    else:
        raise ValueError(
            "FitNet's regressor shrinks a map or doubles it. "
            f"Received teacher {tuple(teacher)} and student {tuple(student)}. Read layers of closer sizes, or pass "
            "projector=, a layer that turns the student's shape into the teacher's."
        )
    return keras.Sequential([*convolution, layers.BatchNormalization(**_NORM), layers.ReLU(dtype="float32")])
