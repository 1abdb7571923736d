"""Scores from curvature, against Hessians that are known."""

import keras
import numpy as np
import pytest
from conftest import FEATURES
from keras import layers
from scoring import assert_close, examples, on_gradients, score, weights_of

from distill.pruning.weights import importance


@on_gradients
def test_obd_is_half_the_curvature_times_the_squared_weight():
    """Of a linear model the Hessian is known; with orthogonal inputs it is diagonal, and one vector is exact."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, use_bias=False, name="one")])
    y = np.zeros((4, 2), "float32")
    ((w,),) = (weights_of(model),)
    x = np.diag([1.0, 2, 3, 4]).astype("float32")
    diagonal = 2 * (x.astype("float64") ** 2).sum(0)[:, None] / y.size
    found = score(importance.obd((x, y), "mse"), model)
    assert_close(found, {"one/kernel": diagonal * w**2 / 2})
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    diagonal = 2 * (x.astype("float64") ** 2).sum(0)[:, None] / y.size
    found = score(importance.obd((x, y), "mse", probes=2000), model)["one/kernel"]
    np.testing.assert_allclose(found, diagonal * w**2 / 2, rtol=0.1)


@pytest.mark.slow
@on_gradients
def test_obd_foretells_what_a_weight_is_worth_at_the_minimum_of_a_curved_loss():
    x, y = examples(64)
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3, use_bias=False, name="one")])
    w = weights_of(model)[0]

    def loss(w):
        logits = x.astype("float64") @ w
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(64), y])

    step, diagonal = 1e-3, np.empty(w.shape)
    for i in np.ndindex(*w.shape):
        moved = [w.copy(), w.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        diagonal[i] = (loss(moved[0]) + loss(moved[1]) - 2 * loss(w)) / step**2
    from_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = score(importance.obd((x, y), from_logits, probes=2000), model)["one/kernel"]
    np.testing.assert_allclose(found, diagonal * w**2 / 2, rtol=0.15, atol=1e-4)


@pytest.mark.parametrize("probes", [0, 1.5, True])
def test_obd_needs_vectors(probes):
    with pytest.raises(ValueError, match="probes must be an integer >= 1"):
        importance.obd(examples(4), probes=probes)


@on_gradients
@pytest.mark.parametrize("name", ["snip", "obd", "movement"])
def test_a_compiled_loss_that_is_a_sum_is_refused(name):
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3, name="head")])
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    x = np.ones((4, FEATURES), "float32")
    options = {"learning_rate": 0.1, "steps": 1} if name == "movement" else {}
    with pytest.raises(ValueError, match="mean over examples.*reduction='sum'"):
        score(getattr(importance, name)((x, x[:, :3]), **options), model)
