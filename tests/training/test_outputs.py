"""Models of several inputs and outputs: which output a loss, a weight and a teacher are for."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, only_on, since_keras
from conftest import dense_net
from distilling import CE, FeatureMSE, array, assert_logs, compiled, expected_loss, one_head_idle, soft
from keras import layers

from distill import BernoulliSoftTargets, Distiller, SoftTargets
from distill.losses import DecoupledKD, OutputMSE

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = RNG.integers(3, size=12)


def forked(width, structure, names=("digit", "parity")):
    """Two softmax heads, of 3 and 2 classes, on one hidden layer."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, activation="relu", name="hidden")(inputs)
    heads = [
        layers.Dense(classes, activation="softmax", name=name)(hidden)
        for name, classes in zip(names, (3, 2), strict=True)
    ]
    return keras.Model(
        inputs, dict(zip(names, heads, strict=True)) if structure is dict else structure(heads)
    )


def as_structure(structure, digit, parity):
    return {"digit": digit, "parity": parity} if structure is dict else structure([digit, parity])


@one_head_idle
@pytest.mark.parametrize(
    ("structure", "by"),
    [(list, "name"), (list, "position"), (tuple, "name"), (tuple, "position"), (dict, "name")],
)
@pytest.mark.sweep(2)
def test_a_loss_a_weight_or_none_for_each_output(structure, by):
    teacher, student = forked(16, structure), forked(4, structure)
    digit, parity = ("digit", "parity") if by == "name" else (0, 1)
    y = as_structure(structure, Y, Y % 2)
    taught, learned = (list(m(X).values()) if structure is dict else m(X) for m in (teacher, student))
    cold, warm = soft(taught[0], learned[0], 1.0).mean(), soft(taught[1], learned[1], 2.0).mean()
    cross_entropy = [
        reference.cross_entropy(array(p), label).mean() for p, label in zip(learned, (Y, Y % 2), strict=True)
    ]
    word = "" if by == "name" else "output_"
    both = Distiller(
        teacher,
        student,
        {digit: SoftTargets(1.0), parity: [SoftTargets(2.0)]},
        distillation_loss_weights={parity: [0.25]},
        student_loss_weight=0.5,
    )
    both.compile(keras.optimizers.SGD(0.0), loss=as_structure(structure, CE, CE))
    logs = both.train_on_batch(X, y, return_dict=True)
    assert_logs(
        logs,
        {
            f"{word}{digit}_soft_targets": cold,
            f"{word}{parity}_soft_targets": warm,
            "student_loss": sum(cross_entropy),
            "loss": 0.5 * sum(cross_entropy) + 0.5 * (cold + 0.25 * warm),
        },
    )
    one = Distiller(teacher, student, {digit: None, parity: SoftTargets(2.0)}, student_loss_weight=0)
    one.compile(keras.optimizers.SGD(0.0))
    assert_logs(one.train_on_batch(X, return_dict=True), {f"{word}{parity}_soft_targets": warm, "loss": warm})


def test_weights_of_examples_go_by_output():
    teacher, student = forked(16, dict), forked(4, dict)
    weights = {"digit": RNG.uniform(size=12), "parity": RNG.uniform(size=12)}
    taught, learned = teacher(X), student(X)
    expected = {
        f"{name}_soft_targets": (weights[name] * soft(taught[name], learned[name])).mean()
        for name in ("digit", "parity")
    }
    distiller = Distiller(teacher, student, {name: SoftTargets(4.0) for name in weights})
    distiller.compile(keras.optimizers.SGD(0.0), loss={"digit": CE, "parity": CE})
    y = {"digit": Y, "parity": Y % 2}
    assert_logs(distiller.train_on_batch(X, y, sample_weight=weights, return_dict=True), expected)


def test_a_loss_on_a_layer_takes_one_weight_per_example_whatever_the_outputs():
    teacher, student = forked(4, dict), forked(4, dict)
    weights = RNG.uniform(size=12).astype("float32")
    hidden = [np.maximum(X @ m.get_weights()[0] + m.get_weights()[1], 0) for m in (teacher, student)]
    expected = (weights * np.square(hidden[0] - hidden[1]).mean(axis=-1)).mean()
    distiller = Distiller(teacher, student, FeatureMSE("hidden", "hidden"))
    distiller.compile(keras.optimizers.SGD(0.0), loss={"digit": CE, "parity": CE})
    y = {"digit": Y, "parity": Y % 2}
    history = distiller.fit(X, y, sample_weight=weights, verbose=0, shuffle=False).history
    assert_logs({"feature_mse": history["feature_mse"][0]}, {"feature_mse": expected})


def test_a_teacher_of_one_output_may_teach_several_of_the_students():
    teacher, student = dense_net(16), forked(4, dict, names=("early", "late"))
    inputs = keras.Input((6,))
    both = student(inputs)
    student = keras.Model(inputs, {"early": both["early"], "late": layers.Dense(3, "softmax")(both["late"])})
    learned = student(X)
    distiller = Distiller(
        teacher, student, {"early": SoftTargets(4.0), "late": SoftTargets(4.0)}, student_loss_weight=0
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    assert_logs(
        distiller.train_on_batch(X, return_dict=True),
        {f"{name}_soft_targets": soft(teacher(X), learned[name]).mean() for name in learned},
    )


@pytest.mark.parametrize("structure", [list, tuple, dict])
@pytest.mark.sweep(1)
def test_several_inputs(structure):
    def net(width):
        a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
        inputs = {"a": a, "b": b} if structure is dict else structure([a, b])
        hidden = layers.Dense(width, activation="relu")(layers.Concatenate()([a, layers.Rescaling(2.0)(b)]))
        return keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))

    teacher, student = net(16), net(4)
    x = {"a": X, "b": X[::-1]} if structure is dict else structure([X, X[::-1].copy()])
    expected = soft(teacher(x), student(x)).mean()
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(0.0))
    history = distiller.fit(x, Y, batch_size=12, shuffle=False, verbose=0).history
    assert_logs({"soft_targets": history["soft_targets"][0]}, {"soft_targets": expected})


class Branching(keras.Model):
    """Subclassed, with logits in a structure."""

    def __init__(self, structure):
        super().__init__()
        self.digit, self.parity, self.structure = layers.Dense(3), layers.Dense(2), structure

    def call(self, inputs):
        return as_structure(self.structure, self.digit(inputs), self.parity(inputs))


@one_head_idle
@pytest.mark.parametrize("structure", [list, tuple, dict])
def test_subclassed_models_of_several_outputs(structure):
    teacher, student = Branching(structure), Branching(structure)
    key = "parity" if structure is dict else 1
    taught, learned = array(teacher(X)[key]), array(student(X)[key])
    distiller = Distiller(teacher, student, {key: SoftTargets(4.0)}, student_loss_weight=0, from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0))
    name = "parity_soft_targets" if structure is dict else "output_1_soft_targets"
    expected = reference.soft_targets(taught, learned, 4.0).mean()
    assert_logs(distiller.train_on_batch(X, return_dict=True), {name: expected})


WRONG_OUTPUTS = {
    "no such name": (
        {"digits": SoftTargets()},
        {},
        r"has no output 'digits'. Its outputs are \['digit', 'parity'\]",
    ),
    "none named": (SoftTargets(), {}, r"2 outputs, \['digit', 'parity'\]. Name the student's output"),
    "none at all": ({"digit": None}, {}, "at least one distillation loss"),
    "other structure of weights": (
        {"digit": SoftTargets()},
        {"distillation_loss_weights": [1.0]},
        "must be one too",
    ),
    "weight of no loss": (
        {"digit": SoftTargets()},
        {"distillation_loss_weights": {"parity": 1.0}},
        r"weights for \['parity'\], losses for \['digit'\]",
    ),
    "too many weights": (
        {"digit": SoftTargets()},
        {"distillation_loss_weights": {"digit": [1.0, 2.0]}},
        "for 1 distillation loss of output 'digit'",
    ),
    "negative position": ({-1: SoftTargets()}, {}, "positions from 0"),
    "output loss unnamed": (OutputMSE(), {}, "compares one output. Received: a teacher with outputs"),
    "two kinds of head": (
        {"digit": [SoftTargets(), BernoulliSoftTargets()]},
        {},
        "either softmax or sigmoid",
    ),
}


@pytest.mark.parametrize("case", WRONG_OUTPUTS)
def test_wrong_outputs_are_refused_before_training(case):
    losses, kwargs, message = WRONG_OUTPUTS[case]
    with pytest.raises(ValueError, match=message):
        Distiller(forked(16, dict), forked(4, dict), losses, **kwargs)


def test_a_teacher_without_that_output_is_refused():
    teacher = forked(16, dict, names=("a", "b"))
    with pytest.raises(ValueError, match=r"has no output 'digit'. Its outputs are \['a', 'b'\]"):
        Distiller(teacher, forked(4, dict), {"digit": SoftTargets()})


class Outputs(keras.Model):
    def __init__(self, names):
        super().__init__()
        self.dense, self.names = layers.Dense(3), names

    def call(self, inputs):
        return {name: self.dense(inputs) for name in self.names}


def test_a_subclassed_model_with_several_outputs_is_refused_unless_named(batch):
    teacher, student = Outputs("ab"), dense_net(4)
    teacher(batch[0])
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), from_logits=(True, None)))
    with pytest.raises(ValueError, match=r"one output of the teacher.*2 outputs, \['a', 'b'\]"):
        distiller.fit(*batch, verbose=0)


def test_an_only_output_needs_no_name(batch):
    teacher, student = Outputs("a"), dense_net(4)
    expected = reference.soft_targets(
        as_numpy(teacher(batch[0])["a"]), np.log(as_numpy(student(batch[0]))), 4.0
    ).mean()
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), from_logits=(True, None)))
    assert_logs(distiller.train_on_batch(*batch, return_dict=True), {"soft_targets": expected}, rtol=1e-4)


def listed(order, **kwargs):
    """A model whose outputs a and b come in a list."""
    inputs = keras.Input((6,))
    outputs = {name: layers.Dense(3, name=name)(inputs) for name in "ab"}
    return keras.Model(inputs, [outputs[name] for name in order], **kwargs)


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")  # of output b
def test_outputs_are_matched_by_name_before_position(batch):
    teacher, student = listed("ba"), listed("ab")
    student.get_layer("a").set_weights(teacher.get_layer("a").get_weights())
    distiller = Distiller(teacher, student, {"a": SoftTargets()}, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    loss = distiller.train_on_batch(batch[0], return_dict=True)["loss"]
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)


def test_an_output_name_that_stands_twice_is_refused():
    inputs = keras.Input((6,))
    student = keras.Model(inputs, listed("ab", name="m")(inputs))
    with pytest.raises(ValueError, match=r"outputs are \['m', 'm'\]. Use their positions"):
        Distiller(listed("ab"), student, {"m": SoftTargets()})


def test_weights_of_outputs_without_labels():
    def forked():
        inputs = keras.Input((6,))
        return keras.Model(inputs, {name: layers.Dense(3, "softmax", name=name)(inputs) for name in "ab"})

    teacher, student = forked(), forked()
    x, y, weight = np.ones((8, 6), "float32"), np.arange(8) % 3, np.linspace(0, 1, 8)
    distiller = Distiller(teacher, student, {"a": SoftTargets(), "b": SoftTargets()})
    distiller.compile(keras.optimizers.SGD(0.0), loss={"a": CE})
    logs = distiller.train_on_batch(x, {"a": y}, sample_weight={"a": weight}, return_dict=True)
    taught, learned = teacher(x), student(x)
    rows = {
        name: reference.soft_targets(np.log(as_numpy(taught[name])), np.log(as_numpy(learned[name])), 4.0)
        for name in "ab"
    }
    assert_logs(
        logs,
        {"a_soft_targets": (weight * rows["a"]).mean(), "b_soft_targets": rows["b"].mean()},
        rtol=1e-4,
    )


def test_losses_and_metrics_by_output_name(teacher, student, batch):
    x, y = batch
    expected = expected_loss(student.get_weights(), teacher, x, y)
    distiller = compiled(
        Distiller(teacher, student, SoftTargets(4.0)), loss={"head": CE}, metrics={"head": ["accuracy"]}
    )
    assert_logs(distiller.train_on_batch(x, y, return_dict=True), expected)


@only_on("tensorflow", reason="numpy inputs of None are Keras' own on TensorFlow")
@since_keras("3.14", reason="Keras itself loses an input after an optional one")
def test_an_optional_input_may_come_first(batch):
    def net(width):
        first, second = keras.Input((6,), optional=True), keras.Input((6,))
        return keras.Model(
            [first, second], layers.Dense(3, activation="softmax")(layers.Dense(width)(second))
        )

    teacher, student = net(16), net(4)
    distiller = compiled(Distiller(teacher, student, SoftTargets()))
    assert np.isfinite(distiller.fit([None, batch[0]], batch[1], verbose=0).history["loss"]).all()


@one_head_idle
def test_labels_and_weights_by_name_for_a_student_that_returns_a_list():
    """Keras takes them so, by the names of the output layers."""
    teacher, student = forked(16, list), forked(4, list)
    labels = {"digit": Y, "parity": Y % 2}
    logs = []
    for y in (labels, list(labels.values())):
        distiller = Distiller(teacher, student, {"digit": DecoupledKD(), "parity": SoftTargets(2.0)})
        distiller.compile(keras.optimizers.SGD(0.0), loss={"digit": CE, "parity": CE})
        logs.append(distiller.train_on_batch(X, y, return_dict=True))
        own = sum(
            -np.log(array(head)[np.arange(12), each]).mean()
            for head, each in zip(student(X), labels.values(), strict=True)
        )
        assert distiller.check(X, y).models[-1].scores["loss"] == pytest.approx(own, rel=1e-5)
    assert_logs(logs[0], logs[1])
    weights = {"digit": RNG.uniform(size=12), "parity": RNG.uniform(size=12)}
    taught, learned = (array(model(X)[1]) for model in (teacher, student))
    distiller = Distiller(teacher, student, {"parity": SoftTargets(2.0)}, student_loss_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0))
    for each in (weights, RNG.uniform(size=12)):  # one weight per example, Keras gives to every output
        expected = ((each["parity"] if each is weights else each) * soft(taught, learned, 2.0)).mean()
        found = distiller.fit(X, labels, sample_weight=each, verbose=0, shuffle=False).history
        assert found["parity_soft_targets"][0] == pytest.approx(expected, rel=1e-5)
