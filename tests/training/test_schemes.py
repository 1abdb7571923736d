"""Who teaches whom: mutual learning against the float64 oracle, chains that go on after a stop, ensembles."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, dtype_of, only_on, value_and_gradients
from conftest import dense_net
from keras import layers

from distill import Distiller, MutualLearning, SoftTargets
from distill.losses import HardTargets, Relational, VirtualTeacher
from distill.training._schemes import chain, ensemble

CE = "sparse_categorical_crossentropy"
LOGIT_CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def nets(*widths, activation=None, **kwargs):
    return [
        dense_net(width, name=f"net{i}", activation=activation, **kwargs) for i, width in enumerate(widths)
    ]


def logits_of(model, x):
    return as_numpy(model(x)).astype("float64")


# Mutual learning.


def check_mutual(peers, x, y, weight=1.0, share=1.0):
    """One step's logs and gradients, read off a step of SGD with rate 1, against the oracle."""
    logits = [logits_of(net, x) for net in peers.students]
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
            """Of network i alone: the others' answers are constants."""
            shifted = [one + (bias - biases[i] if j == i else 0) for j, one in enumerate(logits)]
            mutual = reference.mutual_divergence(shifted)[i].mean()
            return weight * (reference.mutual_learning(shifted, y)[i].mean() - mutual) + share * mutual

        step = biases[i] - as_numpy(net.layers[-1].bias)
        np.testing.assert_allclose(step, reference.gradient(loss, biases[i]), rtol=1e-3, atol=1e-6)
        assert np.abs(as_numpy(net.layers[-1].kernel) - kernels[i]).max() > 0


@pytest.mark.parametrize("widths", [(5, 4), (5, 4, 3)], ids=str)
def test_each_network_learns_from_the_labels_and_from_the_others(widths, batch):
    peers = MutualLearning(nets(*widths))
    peers.compile(keras.optimizers.SGD(1.0), LOGIT_CE, ["accuracy"])
    check_mutual(peers, *batch)


def test_its_weights_are_those_of_a_distiller(batch):
    peers = MutualLearning(nets(5, 4), student_loss_weight=0.25, distillation_weight=3.0)
    peers.compile(keras.optimizers.SGD(1.0), LOGIT_CE, ["accuracy"])
    check_mutual(peers, *batch, weight=0.25, share=3.0)


def test_the_oracle_catches_mutants(batch, monkeypatch):
    from distill.training._teacher import Peer

    def caught():
        peers = MutualLearning(nets(5, 4, 3))
        peers.compile(keras.optimizers.SGD(1.0), LOGIT_CE, ["accuracy"])
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
    logits = [np.log(logits_of(net, x)) for net in peers.students]
    logs = peers.train_on_batch(x, y, return_dict=True)
    for i, net in enumerate(peers.students):
        wanted = reference.soft_targets(logits[1 - i], logits[i], 2.0).mean()
        np.testing.assert_allclose(logs[f"{net.name}_soft_targets"], wanted, rtol=1e-4)


def test_fit_evaluate_predict_and_saving(batch, tmp_path):
    x, y = batch
    weights = np.linspace(0, 1, 40).astype("float32")
    peers = MutualLearning(nets(5, 4, batch_norm=True))
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="right")
    peers.compile("adam", LOGIT_CE, [accuracy])
    history = peers.fit(
        x, y, sample_weight=weights, validation_data=(x, y), epochs=3, batch_size=16, verbose=0
    ).history
    assert history["loss"][-1] < history["loss"][0]
    results = peers.evaluate(x, y, verbose=0, return_dict=True)
    for net in peers.students:
        right = np.mean(logits_of(net, x).argmax(1) == y)
        np.testing.assert_allclose([results[f"{net.name}_right"]], right, rtol=1e-6)
        np.testing.assert_allclose([history[f"val_{net.name}_right"][-1]], right, rtol=1e-6)
    for predicted, net in zip(peers.predict(x, verbose=0), peers.students, strict=True):
        np.testing.assert_allclose(predicted, logits_of(net, x), rtol=1e-4, atol=1e-5)

    peers.save_weights(tmp_path / "peers.weights.h5")
    again = MutualLearning(nets(5, 4, batch_norm=True))
    again.load_weights(tmp_path / "peers.weights.h5")
    peers.students[1].save(tmp_path / "one.keras")
    for found in (again.students[1], keras.models.load_model(tmp_path / "one.keras")):
        np.testing.assert_array_equal(logits_of(found, x), logits_of(peers.students[1], x))


def test_unlabelled_networks_learn_from_each_other(batch):
    peers = MutualLearning(nets(5, 4), student_loss_weight=0)
    peers.compile("adam")
    history = peers.fit(batch[0], epochs=5, verbose=0).history
    assert set(history) == {"loss", "net0_soft_targets", "net1_soft_targets"}
    assert history["loss"][-1] < history["loss"][0]


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets(4), "two or more"),
        (lambda: nets(4)[0], "two or more"),
        (lambda: [*nets(4), Subclassed()], "two or more built Functional"),
        (lambda: [*nets(4), *nets(5)], r"names of their own. Received: \['net0', 'net0'\]"),
        (lambda: nets(4) * 2, "names of their own"),
        (lambda: [*nets(4), dense_net(4, classes=5, name="five", activation=None)], "'five' from .* to .*5"),
        (
            lambda: [*nets(4), keras.Sequential([keras.Input((7,)), layers.Dense(3)], name="b")],
            "the same inputs",
        ),
    ],
)
@pytest.mark.parametrize("scheme", [MutualLearning, ensemble], ids=["mutual", "ensemble"])
def test_networks_that_do_not_fit_are_refused(scheme, make, message):
    with pytest.raises(ValueError, match=message):
        scheme(make())


def test_networks_that_share_variables_are_refused():
    head = layers.Dense(3)
    pair = [keras.Sequential([keras.Input((6,)), layers.Dense(4), head], name=name) for name in "ab"]
    with pytest.raises(ValueError, match="share no variables"):
        MutualLearning(pair)


def test_what_is_for_one_network_is_given_once(batch):
    for loss in (HardTargets, Relational):
        if loss is Relational:
            with pytest.raises(ValueError, match="by a loss on logits"):
                MutualLearning(nets(4, 5), loss())
        else:
            MutualLearning(nets(4, 5), loss())
    peers = MutualLearning(nets(4, 5))
    with pytest.raises(ValueError, match="are for all networks"):
        peers.compile("sgd", [CE, CE])
    with pytest.raises(ValueError, match="are for all networks"):
        peers.compile("sgd", CE, metrics=[["accuracy"], ["accuracy"]])
    with pytest.raises(ValueError, match="are for all networks"):
        peers.compile("sgd", CE, metrics="accuracy")
    with pytest.raises(ValueError, match=r"loss_weights=\[1, 0\]"):
        peers.compile("sgd", CE, loss_weights=[1, 0])
    with pytest.raises(ValueError, match="made anew for each network"):
        peers.compile("sgd", CE, metrics=[keras.metrics.MeanMetricWrapper(lambda y, p: p)])
    with pytest.raises(ValueError, match="needs the student's own loss"):
        peers.compile("sgd")
    peers.compile("sgd", CE, weighted_metrics=["accuracy"])
    assert "net0_accuracy" in peers.evaluate(*batch, verbose=0, return_dict=True)


# Chains.


def born_again(x, y, stages, folder, seen):
    def make():
        keras.utils.set_random_seed(100 + len(seen))
        return dense_net(4, activation=None)

    def train(teacher, student, stage):
        seen.append((stage, None if teacher is None else teacher.get_weights()))
        keras.utils.set_random_seed(stage)
        model = student
        if teacher is not None:
            model = Distiller(teacher, student, SoftTargets(1.0))
        model.compile("adam", LOGIT_CE)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)

    return chain([make] * stages, train, folder=folder)


def test_each_network_of_a_chain_is_taught_by_the_one_before(batch, tmp_path):
    seen = []
    networks = born_again(*batch, 3, tmp_path / "stages", seen)
    assert [stage for stage, _ in seen] == [0, 1, 2]
    assert seen[0][1] is None
    for (_, weights), network in zip(seen[1:], networks[:2], strict=True):
        assert all(map(np.array_equal, weights, network.get_weights()))
    files = sorted(path.name for path in (tmp_path / "stages").iterdir())
    assert files == ["0.weights.h5", "1.weights.h5", "2.weights.h5"]

    # Before the second: the third had another teacher, and is trained again too.
    (tmp_path / "stages" / ".0.weights.h5").write_bytes(b"half a file")
    (tmp_path / "stages" / "1.weights.h5").rename(tmp_path / "kept")
    once_more = [None]
    born_again(*batch, 3, tmp_path / "stages", once_more)
    assert [stage for stage, _ in once_more[1:]] == [1, 2]
    files = sorted(path.name for path in (tmp_path / "stages").glob("[0-9]*"))
    assert files == ["0.weights.h5", "1.weights.h5", "2.weights.h5"]
    (tmp_path / "kept").replace(tmp_path / "stages" / "1.weights.h5")

    # A stop after the second: what is there is loaded, what is missing is trained again to the same bits.
    (tmp_path / "stages" / "2.weights.h5").unlink()
    again_seen = [None, None]
    again = born_again(*batch, 3, tmp_path / "stages", again_seen)
    assert [stage for stage, _ in again_seen[2:]] == [2]
    for found, wanted in zip(again[:2], networks[:2], strict=True):
        assert all(map(np.array_equal, found.get_weights(), wanted.get_weights()))
    assert all(map(np.array_equal, again_seen[2][1], networks[1].get_weights()))


def test_a_maker_may_compile(tmp_path, batch):
    def make():
        model = dense_net(4)
        model.compile("adam", CE)
        return model

    def train(teacher, student, stage):
        student.fit(*batch, verbose=0)

    (first,) = chain([make], train, folder=tmp_path)
    (again,) = chain([make], lambda *_: pytest.fail("trained again"), folder=tmp_path)
    assert all(map(np.array_equal, first.get_weights(), again.get_weights()))


def test_a_chain_begins_with_its_teacher_and_leaves_it_alone(teacher, batch):
    before = teacher.get_weights()
    taught = []
    chain(
        [lambda: dense_net(8), lambda: dense_net(4)],
        lambda t, s, i: taught.append((t.name, i)),
        teacher=teacher,
    )
    assert taught[0] == ("teacher", 0)
    assert taught[1][0] != "teacher"
    assert all(map(np.array_equal, before, teacher.get_weights()))


def test_a_chain_that_fails_keeps_what_was_done(tmp_path):
    def train(teacher, student, stage):
        if stage == 1:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        chain([lambda: dense_net(4)] * 2, train, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["0.weights.h5"]


def test_chains_refuse_what_is_no_new_network(teacher, tmp_path):
    def never(*_):
        raise AssertionError("work was done")

    with pytest.raises(ValueError, match="a network or more"):
        chain([], never)
    with pytest.raises(ValueError, match=r"Received: .* of makers\[0\]. Give its first layer"):
        chain([lambda: keras.Sequential([layers.Dense(3)])], never)
    with pytest.raises(ValueError, match="'teacher' of makers.0. once more"):
        chain([lambda: teacher], never, teacher=teacher)
    chain([lambda: dense_net(4)], lambda *_: None, folder=tmp_path)
    with pytest.raises(ValueError, match="0.weights.h5, which .* cannot load"):
        chain([lambda: dense_net(5)], never, folder=tmp_path)
    (tmp_path / "0.weights.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="0.weights.h5, which .* cannot load"):
        chain([lambda: dense_net(4)], never, folder=tmp_path)


# Ensembles.


@pytest.mark.parametrize("activation", [None, "softmax", "log_softmax", "sigmoid"])
def test_an_ensemble_is_the_mean_of_probabilities(activation, batch, tmp_path):
    x, _ = batch
    models = nets(5, 4, 3, activation=activation)
    outputs = [logits_of(model, x) for model in models]
    as_probabilities = {
        None: lambda z: np.array([reference.softmax(row) for row in z]), "softmax": lambda p: p, "log_softmax": np.exp,
        "sigmoid": lambda p: p,
    }[activation]  # fmt: skip
    wanted = np.mean([as_probabilities(z) for z in outputs], axis=0)
    together = ensemble(models)
    np.testing.assert_allclose(logits_of(together, x), wanted, rtol=1e-5)
    together.save(tmp_path / "ensemble.keras")
    np.testing.assert_array_equal(
        logits_of(keras.models.load_model(tmp_path / "ensemble.keras"), x), logits_of(together, x)
    )
    assert together.layers[1] is models[0]


def test_an_ensemble_teaches_and_is_a_member_of_others(batch):
    x, _ = batch
    a, b, c = nets(5, 4, 3)
    inner = ensemble([a, b], name="inner")
    outer = ensemble([inner, c])
    wanted = 0.5 * logits_of(inner, x) + 0.5 * np.array([reference.softmax(row) for row in logits_of(c, x)])
    np.testing.assert_allclose(logits_of(outer, x), wanted, rtol=1e-5)
    student = dense_net(4, activation=None, name="student")
    taught = reference.soft_targets(np.log(wanted), logits_of(student, x), 2.0).mean()
    distiller = Distiller(outer, student, SoftTargets(2.0), student_loss_weight=0)
    distiller.compile("sgd")
    np.testing.assert_allclose(distiller.train_on_batch(x), taught, rtol=1e-5)


@only_on("tensorflow", reason="the formula is the same everywhere")
def test_half_precision_members_are_averaged_in_float32():
    def net(name, policy):
        head = layers.Dense(3, use_bias=False, kernel_initializer="identity", dtype=policy)
        return keras.Sequential([keras.Input((3,)), head], name=name)

    x = np.array([[20.0, 0.0, 0.0]], "float32")
    found = logits_of(ensemble([net("a", "mixed_float16"), net("b", "float32")]), x)
    np.testing.assert_allclose(found[0], reference.softmax(x[0].astype("float64")), rtol=1e-5)
    students = [dense_net(4, name=name) for name in "ab"]
    students[1].dtype_policy = keras.DTypePolicy("mixed_float16")
    with pytest.raises(ValueError, match="in one precision"):
        MutualLearning(students)
    for student in students:
        student.dtype_policy = keras.DTypePolicy("mixed_float16")
    peers = MutualLearning(students)
    peers.compile("sgd", CE)
    assert isinstance(peers.optimizer, keras.optimizers.LossScaleOptimizer)


def test_heads_that_have_no_common_mean_are_refused():
    with pytest.raises(ValueError, match="1 output, heads that end in .'linear', 'linear'"):
        ensemble(nets(4, 5, activation=None, classes=1))
    with pytest.raises(ValueError, match="heads that end in .'sigmoid', 'linear'"):
        ensemble([dense_net(4, activation="sigmoid", name="a"), dense_net(4, activation=None, name="b")])
    with pytest.raises(ValueError, match=r"Received: from_logits=\(True, False\)"):
        ensemble(nets(4, 5), from_logits=(True, False))


def test_a_member_with_a_step_of_its_own_is_refused():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            raise AssertionError

    inputs = keras.Input((6,))
    with pytest.raises(ValueError, match="its own compute_loss"):
        MutualLearning([Own(inputs, layers.Dense(3)(inputs), name="own"), *nets(4)])


def test_an_unknown_head_has_to_be_said(batch):
    def net(name):
        stack = [keras.Input((6,)), layers.Dense(3), layers.Lambda(lambda x: keras.ops.softmax(x))]
        return keras.Sequential(stack, name=name)

    models = [net("a"), net("b")]
    with pytest.raises(ValueError, match="ends in Lambda"):
        ensemble(models)
    x, _ = batch
    wanted = np.mean([logits_of(model, x) for model in models], axis=0)
    np.testing.assert_allclose(logits_of(ensemble(models, from_logits=False), x), wanted, rtol=1e-5)


# The virtual teacher.


def virtual(labels, logits, weight=0.1, temperature=20.0, correct=0.99):
    values = []
    for label, row in zip(labels, np.asarray(logits, "float64"), strict=True):
        d = np.full(len(row), (1 - correct) / (len(row) - 1))
        d[label] = correct
        u, log_q = reference.softmax(d / temperature), reference.log_softmax(row)
        divergence = sum(p * (np.log(p) - q) for p, q in zip(u, log_q, strict=True) if p > 0)
        values.append((1 - weight) * -log_q[label] + weight * divergence)
    return np.array(values)


SETTINGS = [{}, {"weight": 0.5, "temperature": 2.0, "correct": 0.9}, {"weight": 1.0, "temperature": 0.01}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_virtual_teacher_follows_its_definition(settings):
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 5, 8)
    wanted = virtual(labels, logits, **settings)
    loss = VirtualTeacher(**settings, from_logits=True)
    np.testing.assert_allclose(
        as_numpy(loss.call(labels, keras.ops.convert_to_tensor(logits))), wanted, rtol=1e-5
    )
    np.testing.assert_allclose(as_numpy(loss(labels[:, None], logits)), wanted.mean(), rtol=1e-5)
    probabilities = np.array([reference.softmax(row) for row in logits], "float32")
    np.testing.assert_allclose(
        as_numpy(VirtualTeacher(**settings)(labels, probabilities)), wanted.mean(), rtol=1e-4
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config()


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_gradient_of_the_virtual_teacher_follows_its_definition(settings, from_logits):
    rng = np.random.default_rng(1)
    outputs, labels = 2 * rng.normal(size=(3, 4)).astype("float32"), np.array([3, 0, 2])
    if not from_logits:
        outputs = np.array([reference.softmax(row) for row in outputs], "float32")
    loss = VirtualTeacher(**settings, from_logits=from_logits)
    value, (gradient,) = value_and_gradients(lambda x: loss(labels, x), outputs)

    def wanted(x):
        # Keras, too, divides probabilities by their sum.
        logits = x if from_logits else np.log(x / x.sum(axis=-1, keepdims=True))
        return virtual(labels, logits, **settings).mean()

    np.testing.assert_allclose(value, wanted(outputs.astype("float64")), rtol=1e-5)
    slope = reference.gradient(wanted, outputs)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_virtual_teacher_computes_in_float32(dtype):
    rng = np.random.default_rng(1)
    labels = np.array([2999, 0, 1001])  # the first and last are no numbers of half precision
    half = keras.ops.cast(3 * rng.normal(size=(3, 3000)), dtype)
    same = keras.ops.cast(half, "float32")
    expected = virtual(labels, as_numpy(same)).mean()
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        value, again = (VirtualTeacher(from_logits=True)(labels, x) for x in (half, same))
    finally:
        keras.config.set_floatx(before)
    assert dtype_of(value) == "float32"
    np.testing.assert_allclose(as_numpy(value), expected, rtol=1e-5)
    np.testing.assert_array_equal(as_numpy(value), as_numpy(again))


@pytest.mark.parametrize(
    "mutant",
    [{"weight": 0.2}, {"temperature": 4.0}, {"temperature": 1.0}, {"correct": 0.9, "temperature": 1.0}],
    ids=str,
)
def test_the_definition_tells_other_virtual_teachers(mutant):
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(8, 5)).astype("float32"), rng.integers(0, 5, 8)
    found = as_numpy(VirtualTeacher(**mutant, from_logits=True)(labels, logits))
    assert abs(found - virtual(labels, logits).mean()) > 1e-4 * found


@only_on("tensorflow", reason="elsewhere Keras clips the probabilities of a softmax head")
def test_a_virtual_teacher_trains_plain_models(batch):
    x, y = batch
    model = dense_net(8)
    model.compile("adam", VirtualTeacher())
    losses = model.fit(x, y, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"weight": 1.5}, "weight"), ({"temperature": 0.0}, "above 0"), ({"correct": -0.1}, "correct")],
    ids=str,
)
def test_impossible_virtual_teachers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VirtualTeacher(**arguments)


def test_a_label_that_is_no_class_is_nan():
    values = as_numpy(VirtualTeacher().call(np.array([-1, 0, 3]), keras.ops.ones((3, 3)) / 3))
    assert np.isnan(values).tolist() == [True, False, True]


def test_a_virtual_teacher_needs_labels_of_rows():
    with pytest.raises(ValueError, match=r"Received: labels of shape \(2, 3\)"):
        VirtualTeacher()(np.eye(3)[:2], np.ones((2, 3)) / 3)
