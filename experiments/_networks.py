"""The small CNNs that studies train."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import layers


@dataclasses.dataclass(frozen=True)
class Network:
    """A small CNN.

    Attributes:
        filters: output channels of each 3×3 convolution; a 2×2 max pooling follows each.
        blocks: residual blocks after them, of two 3×3 convolutions each.
        units: width of the dense layer after them.
        dropout: share of values dropped before and after that layer, in training only.
    """

    filters: tuple[int, ...]
    units: int
    dropout: float = 0.0
    blocks: int = 0


def plain_cnn(network: Network, input_shape: tuple[int | None, ...], classes: int) -> keras.Model:
    """The CNN that `Network` describes; returns logits."""
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


def normalized_cnn(network: Network, input_shape: Sequence[int], classes: int, name: str) -> keras.Model:
    """A CNN with batch normalization that returns logits; of series, its maps have a width of 1.

    Its layers are called norm0, relu0, …, embedding and logits.
    """
    series = len(input_shape) == 2
    inputs = keras.Input(input_shape)
    x = layers.Reshape((*input_shape[:1], 1, *input_shape[1:]), name="as_map")(inputs) if series else inputs
    for i, filters in enumerate(network.filters):
        x = layers.Conv2D(filters, (5, 1) if series else 3, padding="same", use_bias=False, name=f"conv{i}")(
            x
        )
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(x)
        x = layers.MaxPooling2D((2, 1) if series else 2, name=f"pool{i}")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dropout(network.dropout, name="dropout0")(x) if network.dropout else x
    x = layers.Dense(network.units, activation="relu", name="embedding")(x)
    x = layers.Dropout(network.dropout, name="dropout1")(x) if network.dropout else x
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=name)
