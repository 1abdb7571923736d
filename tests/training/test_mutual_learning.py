"""Mutual learning: one step's logs and gradients against the float64 oracle, and a whole training."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, only_on
from conftest import dense_net
from distilling import CE, LOGIT_CE, nets, outputs_of
from keras import layers

from distill import MutualLearning, SoftTargets
from distill.losses import HardTargets, Relational


def check_mutual(peers, x, y, weight=1.0, share=1.0):
    """Compares a step's logs, and its gradients as an SGD step of rate 1 shows them, with the oracle."""
    logits = [outputs_of(net, x) for net in peers.students]
    kernels = [as_numpy(net.layers[-1].kernel).astype("float64") for net in peers.students]
    biases = [as_numpy(net.layers[-1].bias).astype("float64") for net in peers.students]
    divergence = reference.mutual_divergence(logits).mean(axis=1)
    own = (reference.mutual_learning(logits, y) - reference.mutual_divergence(logits)).mean(axis=1)
    logs = peers.train_on_batch(x, y, return_dict=True)
    np.testing.assert_allclose(logs["loss"], weight * own.sum() + share * divergence.sum(), rtol=1e-5)
    np.testing.assert_allclose(logs["student_loss"], own.sum(), rtol=1e-5)
    for i, net in enumerate(peers.students):
        np.testing.assert_allclose(logs[f"{net.name}_soft_targets"], divergence[i], rtol=1e-5)
        np.testing.assert_allclose(logs[f"{net.name}_accuracy"], np.mean(logits[i].argmax(1) == y), rtol=1e-5)

        def loss(bias, i=i):
            """Returns the loss of network i alone; the others' answers are constants."""
            shifted = [one + (bias - biases[i] if j == i else 0) for j, one in enumerate(logits)]
            mutual = reference.mutual_divergence(shifted)[i].mean()
            return weight * (reference.mutual_learning(shifted, y)[i].mean() - mutual) + share * mutual

        step = biases[i] - as_numpy(net.layers[-1].bias)
        np.testing.assert_allclose(step, reference.gradient(loss, biases[i]), rtol=1e-3, atol=1e-6)
        assert np.abs(as_numpy(net.layers[-1].kernel) - kernels[i]).max() > 0


@pytest.mark.parametrize("widths", [(5, 4), (5, 4, 3)], ids=str)
@pytest.mark.sweep(1)
def test_each_network_learns_from_the_labels_and_from_the_others(widths, batch):
    peers = MutualLearning(nets(*widths))
    peers.compile(keras.optimizers.SGD(1.0), LOGIT_CE, metrics=["accuracy"])
    check_mutual(peers, *batch)


def test_its_weights_are_those_of_a_distiller(batch):
    peers = MutualLearning(nets(5, 4), student_loss_weight=0.25, distillation_weight=3.0)
    peers.compile(keras.optimizers.SGD(1.0), LOGIT_CE, metrics=["accuracy"])
    check_mutual(peers, *batch, weight=0.25, share=3.0)


@pytest.mark.slow
def test_the_oracle_catches_mutants(batch, monkeypatch):
    from distill.training._teacher import Peer

    def caught():
        peers = MutualLearning(nets(5, 4, 3))
        peers.compile(keras.optimizers.SGD(1.0), LOGIT_CE, metrics=["accuracy"])
        with pytest.raises(AssertionError):
            check_mutual(peers, *batch)

    expected = Peer.expected
    monkeypatch.setattr(Peer, "expected", lambda self, learned: learned)  # each its own teacher
    caught()
    monkeypatch.setattr(
        Peer, "expected", lambda self, learned: expected(Peer(1), learned)
    )  # one of the others
    caught()
    monkeypatch.undo()
    monkeypatch.setattr("distill.losses._base.ops.stop_gradient", lambda x: x)
    monkeypatch.setattr("distill.training._teacher.ops.stop_gradient", lambda x: x)
    caught()


def test_softmax_heads_are_taken_apart(batch):
    x, y = batch
    peers = MutualLearning(nets(5, 4, activation="softmax"), SoftTargets(2.0))
    peers.compile("sgd", CE)
    logits = [np.log(outputs_of(net, x)) for net in peers.students]
    logs = peers.train_on_batch(x, y, return_dict=True)
    for i, net in enumerate(peers.students):
        wanted = reference.soft_targets(logits[1 - i], logits[i], 2.0).mean()
        np.testing.assert_allclose(logs[f"{net.name}_soft_targets"], wanted, rtol=1e-4)


def test_fit_evaluate_predict_and_saving(batch, tmp_path):
    x, y = batch
    weights = np.linspace(0, 1, 40).astype("float32")
    peers = MutualLearning(nets(5, 4, batch_norm=True))
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="right")
    peers.compile("adam", LOGIT_CE, metrics=[accuracy])
    history = peers.fit(
        x, y, sample_weight=weights, validation_data=(x, y), epochs=3, batch_size=16, verbose=0
    ).history
    assert history["loss"][-1] < history["loss"][0]
    results = peers.evaluate(x, y, verbose=0, return_dict=True)
    for net in peers.students:
        right = np.mean(outputs_of(net, x).argmax(1) == y)
        np.testing.assert_allclose([results[f"{net.name}_right"]], right, rtol=1e-6)
        np.testing.assert_allclose([history[f"val_{net.name}_right"][-1]], right, rtol=1e-6)
    for predicted, net in zip(peers.predict(x, verbose=0), peers.students, strict=True):
        np.testing.assert_allclose(predicted, outputs_of(net, x), rtol=1e-4, atol=1e-5)

    peers.save_weights(tmp_path / "peers.weights.h5")
    again = MutualLearning(nets(5, 4, batch_norm=True))
    again.load_weights(tmp_path / "peers.weights.h5")
    peers.students[1].save(tmp_path / "one.keras")
    for found in (again.students[1], keras.models.load_model(tmp_path / "one.keras")):
        np.testing.assert_array_equal(outputs_of(found, x), outputs_of(peers.students[1], x))


def test_unlabelled_networks_learn_from_each_other(batch):
    peers = MutualLearning(nets(5, 4), student_loss_weight=0)
    peers.compile("adam")
    history = peers.fit(batch[0], epochs=5, verbose=0).history
    assert set(history) == {"loss", "net0_soft_targets", "net1_soft_targets"}
    assert history["loss"][-1] < history["loss"][0]


def test_networks_that_share_variables_are_refused():
    head = layers.Dense(3)
    pair = [keras.Sequential([keras.Input((6,)), layers.Dense(4), head], name=name) for name in "ab"]
    with pytest.raises(ValueError, match="must not share variables"):
        MutualLearning(pair)


def test_what_is_for_one_network_is_given_once(batch):
    for loss in (HardTargets, Relational):
        if loss is Relational:
            with pytest.raises(ValueError, match="needs a loss on logits"):
                MutualLearning(nets(4, 5), loss())
        else:
            MutualLearning(nets(4, 5), loss())
    peers = MutualLearning(nets(4, 5))
    with pytest.raises(ValueError, match="takes one loss and one list of metrics"):
        peers.compile("sgd", [CE, CE])
    with pytest.raises(ValueError, match="takes one loss and one list of metrics"):
        peers.compile("sgd", CE, metrics=[["accuracy"], ["accuracy"]])
    with pytest.raises(ValueError, match="takes one loss and one list of metrics"):
        peers.compile("sgd", CE, metrics="accuracy")
    with pytest.raises(ValueError, match=r"loss_weights=\[1, 0\]"):
        peers.compile("sgd", CE, loss_weights=[1, 0])
    with pytest.raises(ValueError, match="made anew for each network"):
        peers.compile("sgd", CE, metrics=[keras.metrics.MeanMetricWrapper(lambda y, p: p)])
    with pytest.raises(ValueError, match="needs the student's own loss"):
        peers.compile("sgd")
    peers.compile("sgd", CE, weighted_metrics=["accuracy"])
    assert "net0_accuracy" in peers.evaluate(*batch, verbose=0, return_dict=True)


@only_on("tensorflow", reason="the formula is the same everywhere")
def test_networks_of_one_precision_share_an_optimizer():
    students = [dense_net(4, name=name) for name in "ab"]
    students[1].dtype_policy = keras.DTypePolicy("mixed_float16")
    with pytest.raises(ValueError, match="must have one precision"):
        MutualLearning(students)
    for student in students:
        student.dtype_policy = keras.DTypePolicy("mixed_float16")
    peers = MutualLearning(students)
    peers.compile("sgd", CE)
    assert isinstance(peers.optimizer, keras.optimizers.LossScaleOptimizer)


def test_a_member_with_a_step_of_its_own_is_refused():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            raise AssertionError

    inputs = keras.Input((6,))
    with pytest.raises(ValueError, match="its own compute_loss"):
        MutualLearning([Own(inputs, layers.Dense(3)(inputs), name="own"), *nets(4)])
