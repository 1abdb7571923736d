"""Looking at a model, to prove, score, count or time, leaves it and all random generators as they were."""

import functools
import random

import keras
import numpy as np
import pytest
from backend import only_on
from keras import layers, ops

from distill import cost, pruning
from distill._keras import flatten_layers, global_seeds, tracker_of
from distill._untouched import recurrent_states
from distill.pruning.structured import importance
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._tracing import read


@keras.saving.register_keras_serializable("test_untouched")
class Counting(layers.Layer):
    """What layers do in a call: they count, keep what they see, add losses and draw numbers."""

    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")
        self.seen = []

    def call(self, x):
        self.calls.assign_add(1.0)
        self.last = x
        self.seen.append(1)
        self.add_loss(ops.sum(x))
        return x + 0 * ops.cast(keras.random.normal(ops.shape(x)), x.dtype)


def headed(build, batch=None):
    inputs = keras.Input((7, 5), batch_size=batch)
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(16, name="hidden")(build(inputs))))


def recurrent():
    model = headed(layers.Bidirectional(layers.LSTM(8, stateful=True, name="lstm")), 2)
    for state in recurrent_states(model):
        state.assign(np.random.default_rng(0).normal(size=state.shape))
    return model


def counting():
    return headed(lambda x: Counting(name="counting")(layers.Dense(8)(x)))


def normalized():
    def build(x):
        return layers.Dropout(0.5)(layers.BatchNormalization()(layers.Dense(8, activation=layers.PReLU())(x)))

    model = headed(build)
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((4, 7, 5)), np.ones((4, 7, 3)), verbose=0)
    model.predict(np.ones((4, 7, 5)), verbose=0)
    model.layers[1].trainable = False
    return model


def never_called():
    """A PReLU inside a layer has no weights before the first call with values."""
    return headed(lambda x: layers.Dense(8, activation=layers.PReLU())(x))


def content(value):
    if isinstance(value, dict):
        return {str(key): content(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [content(part) for part in value]
    return sorted(map(str, value)) if isinstance(value, set) else id(value)


def state_of(model):
    """Everything there is: attributes, by identity; values; random generators."""
    parts = flatten_layers(model)
    owners = [*parts, *(tracker_of(layer) for layer in parts)]
    optimizer = model.optimizer.variables if model.compiled else []
    variables = [*model.variables, *recurrent_states(model), *model.metrics_variables, *optimizer]
    generator, seeds = global_seeds()
    return {
        "attributes": [content(vars(owner)) for owner in owners],
        "values": [np.array(ops.convert_to_numpy(variable)).tobytes() for variable in variables],
        "losses": len(model.losses),
        "random": (random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]),
        "seeds": (id(generator), None if seeds is None else np.array(seeds).tobytes()),
    }


def arrays(model):
    return np.ones((2, 7, 5), "float32")


def scored(model, scores):
    return list(scores(read(model, rules_with())))


def hidden(model):
    return [kernel for kernel in pruning.find_kernels(model).found if kernel.name.startswith("hidden")]


def taylor(model):
    labels = np.zeros((2, *model.output_shape[1:]), "float32")
    return pruning.weights.importance.taylor((arrays(model), labels), "mse")(model, hidden(model))


LOOKS = {
    "explain": pruning.explain,
    "prune": lambda model: pruning.prune_channels(model, 0.5, round_to=1, verify=True),
    "macs of prune": lambda model: pruning.prune_channels(model, macs=0.8, round_to=1),
    "output_change": lambda model: pruning.output_change(model, arrays(model))(model),
    "activations": lambda model: scored(model, importance.activation_mean(arrays(model))),
    "wanda": lambda model: pruning.weights.importance.wanda(arrays(model))(model, hidden(model)),
    "taylor": taylor,
    "macs": cost.macs,
    "profile": cost.profile,
    "time": lambda model: cost.latency(model, cost.TFFunction(batch_size=2), runs=2),
    "bytes": cost.file_bytes,
}


# Made once: looking does not touch them.
MODELS = {build.__name__: functools.cache(build) for build in (recurrent, counting, normalized, never_called)}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("build", MODELS)
@only_on("tensorflow", reason="taylor and TFFunction")
@pytest.mark.sweep(8)
def test_looking_does_not_touch(build, look):
    model = MODELS[build]()
    before = state_of(model)
    first = LOOKS[look](model)
    assert state_of(model) == before
    LOOKS[look](model)  # and again
    assert first is not None
    assert state_of(model) == before


def test_files_do_not_touch():
    model = MODELS["normalized"]()
    before = state_of(model)
    cost.sizes(model)
    assert state_of(model) == before


def test_states_are_cut_with_their_units():
    model = recurrent()
    small = pruning.prune_channels(model, 0.5, round_to=1, verify=True)
    assert [state.shape for state in recurrent_states(small)] == [(2, 4)] * 4
    for state, kept in zip(recurrent_states(model), recurrent_states(small), strict=True):
        assert np.isin(kept, state).all()
