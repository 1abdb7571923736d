"""Small models that the tests of weight pruning share, and what is zero in them."""

import keras
import numpy as np
from conftest import dense_net

from distill import pruning

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(**kwargs):
    """6 features -> 8 -> 3 logits: kernels of 48 and 24 weights."""
    return dense_net(8, activation=None, **kwargs)


def compiled(optimizer="adam", **kwargs):
    model = net()
    model.compile(optimizer, loss=LOSS, **kwargs)
    return model


def ramp(step):
    """0.25 at step 4, 0.5 at step 8, 0.75 at step 12; then nothing moves."""
    return step in (4, 8, 12), step / 16


def half(step):
    return step == 3, 0.5


def kernels_of(model):
    return {k.name: np.array(k.variable) for k in pruning.find_kernels(model).found}


def zeros_of(model):
    """The number of zeros in each kernel."""
    return [int((value == 0).sum()) for value in kernels_of(model).values()]


def masks_of(model):
    return [np.array(k.variable.constraint.kept) for k in pruning.find_kernels(model).found]
