"""The networks of the standard pairs of the distillation literature, which are made for images of 32×32 pixels.

They have the layers of the reference code of contrastive representation distillation [1], in which most papers since
compare: residual networks whose shortcuts are convolutions where the shape changes [2], wide residual networks [3], and
VGG with batch normalization and one dense layer. As in PyTorch, a convolution of stride 2 pads both sides, which Keras'
padding="same" does not.

All return logits. The maps that feature losses read are called stage0, stage1, …, and what is pooled of the last one is
the embedding.

[1] Tian, Krishnan, Isola 2020, arXiv:1910.10699, and github.com/HobbitLong/RepDistiller.
[2] He et al. 2016, arXiv:1512.03385, section 4.2.
[3] Zagoruyko, Komodakis 2016, arXiv:1605.07146.
"""

import functools
import math
from collections.abc import Sequence

import keras
from keras import layers
from keras.initializers import RandomNormal, RandomUniform, VarianceScaling


def build(
    name: str, *, input_shape: Sequence[int], classes: int, mean: Sequence[float], deviation: Sequence[float]
) -> keras.Model:
    """Builds a network that takes images as they are and normalizes them by channel.

    Args:
        name: one of `NETWORKS`.
        input_shape: height, width and channels.
        classes: number of classes.
        mean: of each channel, over the training images.
        deviation: standard deviation of each channel.
    """
    inputs = keras.Input(input_shape)
    variance = [one**2 for one in deviation]
    x = layers.Normalization(mean=list(mean), variance=variance, name="normalization")(inputs)
    return keras.Model(inputs, NETWORKS[name](x, classes), name=name)


def stages(network: keras.Model) -> list[str]:
    """The names of the maps that losses of several stages read: all but the first."""
    return [layer.name for layer in network.layers if layer.name.startswith("stage")][1:]


def resnet(x, classes, *, depth, widths=(16, 16, 32, 64)):
    """A residual network of `depth` layers, 6n + 2."""
    first, *others = widths
    x = layers.ReLU(name="stage0")(_normalized(_convolution(x, first)))
    for stage, filters in enumerate(others, start=1):
        blocks = (depth - 2) // 6
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 1 else 1
            branch = layers.ReLU()(_normalized(_convolution(x, filters, stride=stride)))
            branch = _normalized(_convolution(branch, filters))
            if stride > 1 or x.shape[-1] != filters:
                x = _normalized(_convolution(x, filters, size=1, stride=stride))
            x = layers.ReLU(name=f"stage{stage}" if block == blocks - 1 else None)(layers.Add()([branch, x]))
    return _logits(x, classes)


def wide_resnet(x, classes, *, depth, widening):
    """A wide residual network of `depth` layers, 6n + 4, in which normalization and ReLU precede convolutions."""
    x = _convolution(x, 16, name="stage0")
    for stage in (1, 2, 3):
        filters, blocks = 16 * widening * 2 ** (stage - 1), (depth - 4) // 6
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 1 else 1
            branch = active = layers.ReLU()(_normalized(x))
            branch = layers.ReLU()(_normalized(_convolution(branch, filters, stride=stride)))
            branch = _convolution(branch, filters)
            if x.shape[-1] != filters:
                x = _convolution(active, filters, size=1, stride=stride)
            x = layers.Add(name=f"stage{stage}" if block == blocks - 1 else None)([branch, x])
    return _logits(layers.ReLU()(_normalized(x)), classes)


def vgg(x, classes, *, repeats):
    """VGG with `repeats` convolutions in each of its five stages, and batch normalization.

    Stages are halved, but for the fourth of images below 64 pixels, which is small enough then.
    """
    pools = 4 if x.shape[1] >= 64 else 3
    for stage, filters in enumerate((64, 128, 256, 512, 512)):
        for layer in range(repeats):
            x = _normalized(_convolution(x, filters, bias=True))
            x = layers.ReLU(name=f"stage{stage}" if layer == repeats - 1 else None)(x)
        if stage < pools:
            x = layers.MaxPooling2D()(x)
    return _logits(x, classes, kernel=RandomNormal(stddev=0.01), bias="zeros")


NETWORKS = {
    **{f"resnet{depth}": functools.partial(resnet, depth=depth) for depth in (20, 32, 56, 110)},
    **{
        f"resnet{depth}x4": functools.partial(resnet, depth=depth, widths=(32, 64, 128, 256))
        for depth in (8, 32)
    },
    **{f"wrn_{depth}_2": functools.partial(wide_resnet, depth=depth, widening=2) for depth in (16, 40)},
    "vgg8": functools.partial(vgg, repeats=1),
    "vgg13": functools.partial(vgg, repeats=2),
}


def _convolution(x, filters, *, size=3, stride=1, bias=False, name=None):
    if stride > 1 and size > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    return layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=bias,
        kernel_initializer=VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def _normalized(x):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def _logits(x, classes, *, kernel=None, bias=None):
    """By default, the dense layer starts as PyTorch's."""
    limit = 1 / math.sqrt(x.shape[-1])
    x = layers.GlobalAveragePooling2D(name="embedding")(x)
    return layers.Dense(
        classes,
        kernel_initializer=kernel or RandomUniform(-limit, limit),
        bias_initializer=bias or RandomUniform(-limit, limit),
        name="logits",
    )(x)
