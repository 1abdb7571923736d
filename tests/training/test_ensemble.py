"""Ensembles: the mean of probabilities, whatever the heads, and which heads have none."""

import keras
import numpy as np
import pytest
import reference
from backend import only_on
from conftest import dense_net
from distilling import nets, outputs_of
from keras import layers

from distill import Distiller, SoftTargets
from distill.training import ensemble


@pytest.mark.parametrize("activation", [None, "softmax", "log_softmax", "sigmoid"])
def test_an_ensemble_is_the_mean_of_probabilities(activation, batch, tmp_path):
    x, _ = batch
    models = nets(5, 4, 3, activation=activation)
    outputs = [outputs_of(model, x) for model in models]
    as_probabilities = {
        None: lambda z: np.array([reference.softmax(row) for row in z]), "softmax": lambda p: p, "log_softmax": np.exp,
        "sigmoid": lambda p: p,
    }[activation]  # fmt: skip
    wanted = np.mean([as_probabilities(z) for z in outputs], axis=0)
    together = ensemble(models)
    np.testing.assert_allclose(outputs_of(together, x), wanted, rtol=1e-5)
    together.save(tmp_path / "ensemble.keras")
    np.testing.assert_array_equal(
        outputs_of(keras.models.load_model(tmp_path / "ensemble.keras"), x), outputs_of(together, x)
    )
    assert together.layers[1] is models[0]


def test_an_ensemble_teaches_and_is_a_member_of_others(batch):
    x, _ = batch
    a, b, c = nets(5, 4, 3)
    inner = ensemble([a, b], name="inner")
    outer = ensemble([inner, c])
    wanted = 0.5 * outputs_of(inner, x) + 0.5 * np.array([reference.softmax(row) for row in outputs_of(c, x)])
    np.testing.assert_allclose(outputs_of(outer, x), wanted, rtol=1e-5)
    student = dense_net(4, activation=None, name="student")
    taught = reference.soft_targets(np.log(wanted), outputs_of(student, x), 2.0).mean()
    distiller = Distiller(outer, student, SoftTargets(2.0), student_loss_weight=0)
    distiller.compile("sgd")
    np.testing.assert_allclose(distiller.train_on_batch(x), taught, rtol=1e-5)


def test_heads_that_have_no_common_mean_are_refused():
    with pytest.raises(ValueError, match="1 output, heads that end in .'linear', 'linear'"):
        ensemble(nets(4, 5, activation=None, classes=1))
    with pytest.raises(ValueError, match="heads that end in .'sigmoid', 'linear'"):
        ensemble([dense_net(4, activation="sigmoid", name="a"), dense_net(4, activation=None, name="b")])
    with pytest.raises(ValueError, match=r"Received: from_logits=\(True, False\)"):
        ensemble(nets(4, 5), from_logits=(True, False))


def test_an_unknown_head_has_to_be_said(batch):
    def net(name):
        stack = [keras.Input((6,)), layers.Dense(3), layers.Lambda(lambda x: keras.ops.softmax(x))]
        return keras.Sequential(stack, name=name)

    models = [net("a"), net("b")]
    with pytest.raises(ValueError, match="ends in Lambda"):
        ensemble(models)
    x, _ = batch
    wanted = np.mean([outputs_of(model, x) for model in models], axis=0)
    np.testing.assert_allclose(outputs_of(ensemble(models, from_logits=False), x), wanted, rtol=1e-5)


@only_on("tensorflow", reason="the formula is the same everywhere")
def test_half_precision_members_are_averaged_in_float32():
    def net(name, policy):
        head = layers.Dense(3, use_bias=False, kernel_initializer="identity", dtype=policy)
        return keras.Sequential([keras.Input((3,)), head], name=name)

    x = np.array([[20.0, 0.0, 0.0]], "float32")
    found = outputs_of(ensemble([net("a", "mixed_float16"), net("b", "float32")]), x)
    np.testing.assert_allclose(found[0], reference.softmax(x[0].astype("float64")), rtol=1e-5)


def test_probabilities_that_are_stated_are_of_the_kind_that_the_heads_return(batch):
    members = [dense_net(4, classes=5, activation="sigmoid") for _ in range(2)]
    expected = np.mean([model.predict(batch[0], verbose=0) for model in members], axis=0)
    for stated in (None, False):
        found = ensemble(members, from_logits=stated).predict(batch[0], verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
