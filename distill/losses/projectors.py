"""Layers between a student's features and a teacher's: plain Keras layers, trained with the student, not part of it.

By default, a loss on layers chooses its paper's projector, by the shapes that it meets. You can pass another
one: any `keras.Layer` that turns the student's features into the teacher's shape.

    import distill
    from distill.losses import projectors

    projector = projectors.mlp(64, rank=4, hidden=[32])  # from any map to one of 64 channels
    loss = distill.Hint("block2", "block2", projector=projector)

The projectors made here compute in float32, and take channels-last maps.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

__all__ = ["connector", "linear", "mlp", "regressor"]

# The defaults of the reference codes' framework. In training a projector uses the statistics of the batch in any case.
_NORM = {"momentum": 0.9, "epsilon": 1e-5, "dtype": "float32"}
_MAP = {"data_format": "channels_last", "dtype": "float32"}


def linear(channels: int, *, rank: int, use_bias: bool = True) -> keras.Layer:
    """Returns a linear map of the last axis: a 1×1 convolution on maps, a dense layer on vectors and tokens.

    Args:
        channels: number of channels of the teacher's features.
        rank: number of axes of the features, the batch included: 4 for maps.
        use_bias: whether to add a bias.

    Example:
        ```python
        import keras

        from distill.losses import projectors

        projector = projectors.linear(64, rank=4)
        print(projector(keras.random.normal((2, 8, 8, 16))).shape)  # (2, 8, 8, 64)
        ```
    """
    if rank == 4:
        return layers.Conv2D(channels, 1, use_bias=use_bias, **_MAP)
    return layers.Dense(channels, use_bias=use_bias, dtype="float32")


def mlp(
    channels: int, *, rank: int, hidden: Sequence[int] | None = None, use_bias: bool = True
) -> keras.Sequential:
    """Returns linear maps of the last axis with ReLU between them: on maps, a network of 1×1 convolutions.

    Args:
        channels: number of channels of the teacher's features.
        rank: number of axes of the features, the batch included: 4 for maps.
        hidden: widths of the layers in between; by default two layers of width `channels`.
        use_bias: whether the linear maps have biases.

    Example:
        ```python
        import keras

        from distill.losses import projectors

        projector = projectors.mlp(64, rank=2, hidden=[32])
        print(projector(keras.random.normal((2, 16))).shape)  # (2, 64)
        ```
    """
    stack: list[keras.Layer] = []
    for width in (channels, channels) if hidden is None else hidden:
        stack += [linear(width, rank=rank, use_bias=use_bias), layers.ReLU(dtype="float32")]
    return _stack([*stack, linear(channels, rank=rank, use_bias=use_bias)])


def connector(channels: int, *, rank: int) -> keras.Sequential:
    """Returns a linear map of the last axis without bias, followed by batch normalization [1].

    Args:
        channels: number of channels of the teacher's features.
        rank: number of axes of the features, the batch included: 4 for maps.

    Example:
        ```python
        import keras

        from distill.losses import projectors

        projector = projectors.connector(64, rank=4)
        print(projector(keras.random.normal((2, 8, 8, 16))).shape)  # (2, 8, 8, 64)
        ```

    References:
        [1] Heo et al. 2019, arXiv:1904.01866, section 3.
    """
    return _stack([linear(channels, rank=rank, use_bias=False), layers.BatchNormalization(**_NORM)])


def regressor(teacher: Sequence[int | None], student: Sequence[int | None]) -> keras.Layer:
    """Returns FitNet's regressor [1] for the shapes of the features: convolution, batch normalization, ReLU on maps.

    The convolution is 3×3 with stride 2 if the student's map is twice as high and wide as the teacher's, and
    a transposed 4×4 with stride 2 if it is half as high and wide. Otherwise it is an unpadded convolution of
    1 + H_s − H_t by 1 + W_s − W_t. Vectors and tokens get a dense layer without normalization or ReLU, as in
    the paper.

    Args:
        teacher: shape (batch, height, width, channels), (batch, time, channels) or (batch, channels) of the teacher's
            features.
        student: shape of the student's features, of the same kind; the channels may differ.

    Raises:
        ValueError: the size of a map is unknown, or the student's map is smaller than the teacher's but not
            half as high and wide.

    Example:
        ```python
        import keras

        from distill.losses import projectors

        projector = projectors.regressor((None, 8, 8, 64), (None, 16, 16, 24))
        print(projector(keras.random.normal((2, 16, 16, 24))).shape)  # (2, 8, 8, 64)
        ```

    References:
        [1] Romero et al. 2014, arXiv:1412.6550, section 2.2. The choice by size follows RepDistiller's
            `ConvReg`.
    """
    channels: Any = teacher[-1]  # losses on layers have made sure that it is known
    if len(teacher) != 4:
        return linear(channels, rank=len(teacher))
    sizes = [(t, s) for t, s in zip(teacher[1:3], student[1:3], strict=True) if t and s]
    if len(sizes) < 2:
        raise ValueError(
            "FitNet's regressor is chosen by the sizes of the maps, so they must be known. "
            f"Received: teacher {tuple(teacher)} and student {tuple(student)}. Give the models' inputs a fixed size, "
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
            "FitNet's regressor can shrink a map or double its size. "
            f"Received: teacher {tuple(teacher)} and student {tuple(student)}. Read layers of closer sizes, or pass "
            "projector=, a layer that turns the student's shape into the teacher's."
        )
    return _stack([*convolution, layers.BatchNormalization(**_NORM), layers.ReLU(dtype="float32")])


def _stack(parts: list[keras.Layer]) -> keras.Sequential:
    """Layers one after another, whose input is not cast to the global dtype either."""
    made = keras.Sequential(parts)
    made.dtype_policy = "float32"
    return made
