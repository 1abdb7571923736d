"""Data, scores and expected values that the tests of importances share."""

import keras
import numpy as np
from backend import only_on
from conftest import FEATURES
from keras import layers, ops

from distill.pruning import find_kernels
from distill.pruning.weights import importance

on_gradients = only_on("tensorflow", reason="scores from gradients")


CE = keras.losses.SparseCategoricalCrossentropy()


GRADIENT_IMPORTANCES = {
    "snip": importance.snip,
    "taylor": importance.taylor,
    "movement": lambda data, loss=None: importance.movement(data, loss, learning_rate=0.1, steps=3),
    "obd": importance.obd,
}


def examples(count, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, FEATURES)).astype("float32")
    return x, rng.integers(0, 3, count)


def in_batches(size, *arrays):
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, len(arrays[0]), size)]


def score(by, model, **selectors):
    kernels = find_kernels(model, **selectors).found
    found = by(model, kernels)
    assert [part.shape for part in found] == [tuple(kernel.variable.shape) for kernel in kernels]
    assert all(isinstance(part, np.ndarray) and part.dtype == np.float64 for part in found)
    return {kernel.name: part for kernel, part in zip(kernels, found, strict=True)}


def state(model):
    variables = [*model.variables, *model.metrics_variables]
    return [(v.path, np.array(ops.convert_to_numpy(v)).tobytes()) for v in variables]


def weights_of(model):
    return [np.array(ops.convert_to_numpy(v), "float64") for v in model.trainable_variables]


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, part in expected.items():
        assert np.abs(part).max() > 0
        np.testing.assert_allclose(found[name], part, rtol=1e-5, atol=1e-5 * np.abs(part).max(), err_msg=name)


def gradients_of(weights, x, y, sample_weight=None):
    """Of the mean cross-entropy of 6 -> relu -> softmax, to both kernels and biases."""
    w1, b1, w2, b2 = weights
    x = x.astype("float64")
    before = x @ w1 + b1
    hidden = np.maximum(before, 0)
    logits = hidden @ w2 + b2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    d = (p - np.eye(3)[y]) / len(x)
    if sample_weight is not None:
        d *= sample_weight[:, None]
    back = (d @ w2.T) * (before > 0)
    return [x.T @ back, back.sum(axis=0), hidden.T @ d, d.sum(axis=0)]


def by_name(w1, w2):
    return {"hidden/kernel": w1, "head/kernel": w2}


def snip_by_hand(weights, *arrays):
    gradient = gradients_of(weights, *arrays)
    return by_name(np.abs(weights[0] * gradient[0]), np.abs(weights[2] * gradient[2]))


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return tuple(part[:] for part in self.batches[index])  # of an index too large: an error


def as_dataset(batches):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(
        tuple(np.concatenate(p) for p in zip(*batches, strict=True))
    ).batch(4)


FORMS = {
    "list": lambda batches: batches,
    "dataset": as_dataset,
    "arrays": lambda batches: tuple(np.concatenate(parts) for parts in zip(*batches, strict=True)),
    "PyDataset": Batches,
    "float64": lambda batches: [(x.astype("float64"), *rest) for x, *rest in batches],
}


class Twice(layers.Layer):
    """x in inference, 2 x in training; counts how often Python runs it, and its state moves at every call."""

    calls = 0  # of all together: what a layer keeps itself is put back

    def build(self, shape):
        self.state = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs, training=False):
        type(self).calls += 1
        self.state.assign_add(1.0)
        self.seeds.next()
        self.add_loss(0.0 * ops.sum(inputs))
        return 2.0 * inputs if training else inputs
