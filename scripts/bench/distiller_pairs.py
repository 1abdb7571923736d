"""The pairs of networks that distiller.py trains on noise: nothing is learned, but a step costs the same."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from experiments import _cifar_networks as cifar
from experiments._networks import Network, plain_cnn


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher and a student.

    Attributes:
        teacher: makes the teacher, which returns logits.
        student: makes the student.
        inputs: makes inputs for so many examples.
        classes: number of classes.
        batch: examples per step.
        steps: steps of what is called an epoch here.
        features: layers of the teacher and of the student of one shape, or `None`.
        convolutional: whether the goal for a bfloat16 teacher applies.
    """

    teacher: Callable[[], keras.Model]
    student: Callable[[], keras.Model]
    inputs: Callable[[int], np.ndarray]
    classes: int
    batch: int
    steps: int
    features: tuple[str, str] | None = None
    convolutional: bool = False

    @property
    def data(self):
        """Inputs and labels of an epoch."""
        count = self.batch * self.steps
        return self.inputs(count), np.random.default_rng(1).integers(self.classes, size=count)


def noise(count, shape):
    """Normal numbers."""
    return np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")


def words(count, length=64, vocabulary=8192):
    """Word indices."""
    return np.random.default_rng(0).integers(vocabulary, size=(count, length)).astype("int32")


def dense(units, *, features=784, classes=10):
    """A network of dense layers."""
    stack = [layers.Dense(width, "relu") for width in units]
    return keras.Sequential([keras.Input((features,)), *stack, layers.Dense(classes)])


def residual(depth):
    """A residual network of so many layers for 32 × 32 images with 100 classes."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Normalization(mean=[0.0] * 3, variance=[1.0] * 3)(inputs)
    return settled(keras.Model(inputs, cifar.resnet(x, 100, depth=depth)))


def application(name):
    """A network of keras.applications for 96 × 96 images that returns logits."""
    make = getattr(keras.applications, name)
    return settled(make(weights=None, input_shape=(96, 96, 3), classifier_activation=None))


def settled(model):
    """The network with statistics of its own: with the initial ones, numbers grow from block to block."""
    norms = [one for one in model.layers if isinstance(one, layers.BatchNormalization)]
    own = [one.momentum for one in norms]
    for one in norms:
        one.momentum = 0.0
    model(noise(8, model.input_shape[1:]), training=True)
    for one, momentum in zip(norms, own, strict=True):
        one.momentum = momentum
    return model


def transformer(depth, *, width=128, heads=4, length=64, vocabulary=8192, classes=20):
    """An encoder of text with one label."""
    inputs = keras.Input((length,), dtype="int32")
    x = layers.Embedding(vocabulary, width)(inputs)
    for _ in range(depth):
        attended = layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        x = layers.LayerNormalization()(
            layers.Add()([x, layers.Dense(width)(layers.Dense(4 * width, "gelu")(x))])
        )
    x = layers.GlobalAveragePooling1D(name="pooled")(layers.Identity(name="encoded")(x))
    return keras.Model(inputs, layers.Dense(classes)(x))


def resnets(teacher, student, steps):
    """A pair of residual networks for 32 × 32 images."""
    return Pair(
        functools.partial(residual, teacher),
        functools.partial(residual, student),
        lambda count: noise(count, (32, 32, 3)),
        *(100, 64, steps, ("stage3", "stage3"), True),
    )


def transformers(teacher, student, steps):
    """A pair of encoders of the same width."""
    return Pair(
        functools.partial(transformer, teacher),
        functools.partial(transformer, student),
        *(words, 20, 32, steps, ("encoded", "encoded")),
    )


MLP = Pair(
    functools.partial(dense, (1200, 1200)),
    functools.partial(dense, (800, 800)),
    lambda count: noise(count, (784,)),
    *(10, 128, 40),
)


def digits_student():
    """The student of `compare`."""
    return plain_cnn(Network(filters=(4, 8), units=16), input_shape=(28, 28, 1), classes=10)


PAIRS = {
    "MLP": MLP,
    "ResNet": resnets(56, 20, 4),
    "transformer": transformers(6, 2, 8),
    "ImageNet": Pair(
        functools.partial(application, "ResNet50"),
        functools.partial(application, "MobileNetV2"),
        lambda count: noise(count, (96, 96, 3)),
        *(1000, 16, 3, None, True),
    ),
}
# What takes their time is tracing, so they have few layers.
QUICK = {
    "MLP": dataclasses.replace(MLP, steps=10),
    "ResNet": resnets(8, 8, 1),
    "transformer": transformers(1, 1, 2),
}
