"""The small CNNs that the studies train."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import layers


@dataclasses.dataclass(frozen=True)
class Network:
    """A small CNN.

    Attributes:
        filters: output channels of each 3×3 convolution; a 2×2 max pooling follows each.
        units: width of the dense layer after them.
        dropout: share of values dropped before and after that layer, in training only.
        blocks: number of residual blocks before it, each of two 3×3 convolutions.
    """

    filters: tuple[int, ...]
    units: int
    dropout: float = 0.0
    blocks: int = 0


def plain_cnn(network: Network, *, input_shape: Sequence[int | None], classes: int) -> keras.Model:
    """Builds a CNN without normalization that returns logits."""
    inputs = x = keras.Input(input_shape)
    for filters in network.filters:
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    for _ in range(network.blocks):
        branch = layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")(x)
        branch = layers.Conv2D(x.shape[-1], 3, padding="same")(branch)
        x = layers.ReLU()(layers.Add()([x, branch]))
    x = layers.Flatten()(x)
    if network.dropout:
        x = layers.Dropout(network.dropout)(x)
    x = layers.Dense(network.units, activation="relu")(x)
    if network.dropout:
        x = layers.Dropout(network.dropout)(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def normalized_cnn(
    network: Network, *, input_shape: Sequence[int | None], classes: int, name: str
) -> keras.Model:
    """Builds a CNN with batch normalization that returns logits, for images or series.

    Series become maps of width 1, and convolutions of size 5. Layers are called norm0, relu0, …, embedding and logits.
    """
    series = len(input_shape) == 2
    inputs = x = keras.Input(input_shape)
    if series:
        x = layers.Reshape((input_shape[0], 1, input_shape[1]), name="as_map")(x)
    for i, filters in enumerate(network.filters):
        size = (5, 1) if series else 3
        x = layers.Conv2D(filters, size, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(x)
        x = layers.MaxPooling2D((2, 1) if series else 2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flat")(x)
    if network.dropout:
        x = layers.Dropout(network.dropout, name="dropout0")(x)
    x = layers.Dense(network.units, activation="relu", name="embedding")(x)
    if network.dropout:
        x = layers.Dropout(network.dropout, name="dropout1")(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)
