"""Models that the tests of sparse training share, and what watches every step of their training."""

import keras
import numpy as np
from backend import as_numpy
from conftest import FEATURES, dense_net

from distill import Distiller, SoftTargets
from distill.pruning import SET, RigL
from distill.pruning.weights._exchanges import slots_of
from distill.pruning.weights._kernels import find_kernels
from distill.pruning.weights._masks import mask_of, pruned_part

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


DUE = (3, 6, 9)  # of frequency=3, end_step=12


def deep_net(name=None, dtype=None):
    """Two kernels of one shape, and a third."""
    inputs = keras.Input((FEATURES,))
    x = inputs
    for layer in ("first", "second"):
        x = keras.layers.Dense(FEATURES, activation="tanh", name=layer, dtype=dtype)(x)
    outputs = keras.layers.Dense(3, name="head", dtype=dtype)(x)
    return keras.Model(inputs, outputs, name=name)


def random_net():
    """Its passes in training move statistics and a random generator."""
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.3, seed=1)(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def distiller():
    student = random_net()
    return Distiller(dense_net(8, activation=None, name="teacher"), student, SoftTargets(2.0))


def callback_of(kind, data, sparsity=0.5, **options):
    options = {"frequency": 3, "end_step": 12, "drop_fraction": 0.5, "seed": 5} | options
    if kind is RigL:
        return RigL(sparsity, data, batch_size=10, **options)
    return SET(sparsity, **options)


class Watch(keras.callbacks.Callback):
    """Copies of everything at the beginning of batches: one before a callback, one after it tell what it does."""

    def __init__(self):
        super().__init__()
        self.steps = {}

    def on_train_batch_begin(self, batch, logs=None):
        kernels = find_kernels(pruned_part(self.model)).found
        variables = [*self.model.variables, *self.model.metrics_variables]
        slots = slots_of(self.model) if self.model.optimizer.built else {}
        self.steps[len(self.steps) + 1] = {
            "kept": [as_numpy(mask_of(k).kept).copy() for k in kernels],
            "weights": [as_numpy(k.variable).copy() for k in kernels],
            "biases": [as_numpy(k.layer.bias).copy() for k in kernels],
            "slots": [[as_numpy(s).copy() for s in slots.get(id(k.variable), ())] for k in kernels],
            "others": {
                v.path: as_numpy(v).copy() for v in variables if not any(v is k.variable for k in kernels)
            },
        }


def watched(model, callback, batch, optimizer=None, epochs=3, **kwargs):
    """Every step before and after the callback; 4 steps an epoch."""
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, LOSS, run_eagerly=True, **kwargs)  # tracing takes longer than all these steps
    before, after = Watch(), Watch()
    model.fit(
        *batch, batch_size=10, epochs=epochs, shuffle=False, verbose=0, callbacks=[before, callback, after]
    )
    return before.steps, after.steps


class Counts(keras.callbacks.Callback):
    """Zeros of masks after every batch; weights are zero there."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        kernels = find_kernels(pruned_part(self.model)).found
        kept = [as_numpy(mask_of(kernel).kept) for kernel in kernels]
        assert not any(as_numpy(k.variable)[~m].any() for k, m in zip(kernels, kept, strict=True))
        self.seen.append([int((~mask).sum()) for mask in kept])


def smallest(weights, kept, number):
    mask = np.zeros(weights.size, bool)
    mask[np.argsort(np.where(kept, np.abs(weights), np.inf), axis=None, kind="stable")[:number]] = True
    return mask.reshape(weights.shape)


def gradients_of(state, x, y):
    """Of the mean cross entropy of `deep_net` to its kernels, in float64."""
    kernels, biases = ([np.asarray(part, float) for part in state[name]] for name in ("weights", "biases"))
    activities = [x.astype(float)]
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        activities.append(np.tanh(activities[-1] @ kernel + bias))
    logits = activities[-1] @ kernels[-1] + biases[-1]
    p = np.exp(logits - logits.max(1, keepdims=True))
    delta = (p / p.sum(1, keepdims=True) - np.eye(3)[y]) / len(x)
    found = []
    for kernel, activity in zip(kernels[::-1], activities[::-1], strict=True):
        found.insert(0, activity.T @ delta)
        delta = (delta @ kernel.T) * (1 - activity**2)
    return found
