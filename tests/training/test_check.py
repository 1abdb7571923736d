"""What a check finds before training, against values computed another way, and that it changes nothing."""

import re
import warnings

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, only_on
from keras import layers
from scipy import special, stats

from distill import BernoulliSoftTargets, Distiller, MutualLearning, SoftTargets
from distill.losses import ContrastiveRepresentation, LogitMSE
from distill.training import Identified
from distill.training import _advice_on_answers as advice

CE = "sparse_categorical_crossentropy"


def net(width, activation="softmax", *, classes=3, name=None, first=()):
    stack = [*first, layers.Dense(width, "relu"), layers.Dense(classes, activation)]
    return keras.Sequential([keras.Input((6,)), *stack], name=name)


def solved(x, y, *, name="teacher", scale=4.0):
    """A linear model that is right on nearly every example: its logits are `scale` times the one-hot labels."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, "softmax")], name=name)
    ones = np.c_[x, np.ones(len(x))]
    solution = np.linalg.lstsq(ones, scale * np.eye(3)[y], rcond=None)[0]
    model.set_weights([solution[:-1], solution[-1]])
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=120)
    return (3 * np.eye(6)[y] + rng.normal(size=(120, 6))).astype("float32"), y


def compiled(teacher, student, losses, loss=CE, metrics=("accuracy",), **kwargs):
    distiller = Distiller(teacher, student, losses, **kwargs)
    distiller.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=list(metrics))
    return distiller


def texts(checked, *, grave=None):
    return [one.text for one in checked.advice if grave is None or one.grave == grave]


def test_scores_and_sizes_are_those_of_the_models(data):
    x, y = data
    teacher, student = solved(x, y), net(4, name="student")
    checked = compiled(teacher, student, SoftTargets(2.0)).check(x, y, examples=200, batch_size=50)
    assert checked.examples == 120
    for row, model, role in zip(checked.models, (teacher, student), ("teacher", "student"), strict=True):
        answers = as_numpy(model(x)).astype("float64")
        assert (row.role, row.name, row.parameters) == (role, model.name, model.count_params())
        assert row.scores["accuracy"] == pytest.approx(np.mean(answers.argmax(1) == y))
        assert row.scores["loss"] == pytest.approx(-np.log(answers[np.arange(120), y]).mean(), rel=1e-5)


def test_terms_are_the_losses_of_the_first_batch_and_gradients_are_right(data):
    """The student is one linear layer, whose gradients are the logits' gradients times the inputs."""
    x, y = data
    teacher = solved(x, y)
    student = keras.Sequential([keras.Input((6,)), layers.Dense(3, "softmax")], name="student")
    own, soft = compiled(teacher, student, SoftTargets(2.0)).check(x[:32], y[:32]).terms
    kernel, bias = (weight.astype("float64") for weight in student.get_weights())
    logits = x[:32].astype("float64") @ kernel + bias
    theirs = x[:32].astype("float64") @ teacher.get_weights()[0] + teacher.get_weights()[1]

    def softmax(values):
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def weights_gradient(logit_gradient):
        return np.concatenate([(x[:32].T @ logit_gradient / 32).ravel(), logit_gradient.mean(axis=0)])

    of_labels = weights_gradient(softmax(logits) - np.eye(3)[y[:32]])
    of_teacher = weights_gradient(2.0 * (softmax(logits / 2) - softmax(theirs / 2)))
    assert (own.loss, own.weight, own.cosine) == ("student_loss", pytest.approx(0.1), None)
    assert (soft.loss, soft.weight) == ("soft_targets", pytest.approx(0.9))
    assert own.gradient == pytest.approx(0.1 * np.linalg.norm(of_labels), rel=1e-4)
    assert soft.gradient == pytest.approx(0.9 * np.linalg.norm(of_teacher), rel=1e-4)
    lengths = np.linalg.norm(of_labels) * np.linalg.norm(of_teacher)
    assert soft.cosine == pytest.approx(of_labels @ of_teacher / lengths, abs=1e-4)
    assert soft.value == pytest.approx(reference.soft_targets(theirs, logits, 2.0).mean(), rel=1e-4)


def test_looking_changes_nothing(data):
    x, y = data
    teacher = net(16, name="teacher", first=[layers.BatchNormalization()])
    student = net(4, name="student", first=[layers.BatchNormalization(), layers.Dropout(0.5)])
    distiller = compiled(teacher, student, SoftTargets(2.0))
    distiller.fit(x, y, verbose=0)
    before = [as_numpy(variable).copy() for variable in [*distiller.variables, *teacher.variables]]
    step = distiller.train_function
    distiller.check(x, y)
    after = [as_numpy(variable) for variable in [*distiller.variables, *teacher.variables]]
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
    assert distiller.train_function is step
    assert not student.losses
    assert not distiller.losses


def test_training_after_a_look_is_training_without_one(data):
    x, y = data
    weights = []
    for look in (False, True):
        keras.utils.set_random_seed(1)
        distiller = compiled(solved(x, y), net(4, first=[layers.Dropout(0.5)]), SoftTargets(2.0))
        if look:
            distiller.check(x, y)
        distiller.fit(x, y, verbose=0, shuffle=False)
        weights.append(distiller.student.get_weights())
    for left, right in zip(*weights, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_sound_distiller_gets_no_advice(data):
    x, y = data
    checked = compiled(solved(x, y), net(1), SoftTargets(4.0), student_loss_weight=0.5).check(x, y)
    assert texts(checked) == [], str(checked)
    assert str(checked).endswith("Nothing stands in the way of training.")


@pytest.mark.parametrize("form", ["string", "object", "function"])
@pytest.mark.sweep(1)
def test_logits_under_a_loss_on_probabilities_are_a_warning_of_fit(form, data):
    x, y = data
    loss = {
        "string": CE,
        "object": keras.losses.SparseCategoricalCrossentropy(),
        "function": keras.losses.sparse_categorical_crossentropy,
    }[form]
    distiller = compiled(solved(x, y), net(3, None, name="student"), SoftTargets(2.0), loss)
    text = " ".join(texts(distiller.check(x, y), grave=True))
    assert "'student' returns logits, but its loss" in text
    assert "from_logits=True" in text
    with pytest.warns(UserWarning, match="'student' returns logits, but its loss"):
        distiller.fit(x, y, verbose=0)


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`:UserWarning")  # Keras sees it on TensorFlow
def test_probabilities_under_a_loss_on_logits(data):
    x, y = data
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = compiled(solved(x, y), net(3, name="student"), SoftTargets(2.0), loss)
    with pytest.warns(UserWarning, match="ends in a softmax, but its loss"):
        distiller.fit(x, y, verbose=0)


def test_each_output_has_its_own_loss(data):
    x, y = data

    def forked(width, name, end):
        inputs = keras.Input((6,))
        hidden = layers.Dense(width, "relu")(inputs)
        heads = {
            "a": layers.Dense(3, "softmax", name="a")(hidden),
            "b": layers.Dense(1, end, name="b")(hidden),
        }
        return keras.Model(inputs, heads, name=name)

    losses = {"a": SoftTargets(), "b": BernoulliSoftTargets()}
    labels = {"a": y, "b": (y > 0).astype("float32")[:, None]}
    distiller = Distiller(forked(8, "t", "sigmoid"), forked(4, "student", None), losses)
    distiller.compile("sgd", loss={"a": CE, "b": "binary_crossentropy"})
    with pytest.warns(UserWarning, match="its loss 'binary_crossentropy' takes probabilities"):
        distiller.fit(x, labels, verbose=0)
    distiller = Distiller(forked(8, "t", "sigmoid"), forked(4, "student", "sigmoid"), losses)
    distiller.compile("sgd", loss={"a": CE, "b": "binary_crossentropy"})
    distiller.fit(x, labels, verbose=0)


def test_losses_that_do_not_matter_are_not_warned_of(data):
    x, y = data
    regression = compiled(net(8, None, name="t"), net(4, None), LogitMSE(), "mse", ())
    regression.fit(x, np.eye(3)[y], verbose=0)
    unused = compiled(net(8, None), net(4, None), SoftTargets(), CE, (), student_loss_weight=0)
    unused.fit(x, y, verbose=0)


def test_another_order_of_classes_is_seen(data):
    x, y = data
    order = np.array([1, 2, 0])
    (text,) = texts(compiled(solved(x, order[y]), net(3), SoftTargets()).check(x, y), grave=True)
    assert "classes in another order: its class 0 is label 2, 1 is label 0, 2 is label 1." in text
    one_hot = compiled(solved(x, order[y]), net(3), SoftTargets(), "categorical_crossentropy")
    assert texts(one_hot.check(x, np.eye(3)[y]), grave=True) == [text]


def test_a_teacher_that_knows_nothing_is_seen(data):
    x, y = data
    teacher = solved(x, y)
    teacher.set_weights([np.zeros((6, 3)), np.array([0.0, 0.0, 1.0])])
    (text,) = texts(compiled(teacher, net(3), SoftTargets()).check(x, y), grave=True)
    assert re.search(r"'teacher' is right on \d+\.\d% of the examples, no more than always", text)


def test_a_teacher_that_knows_nothing_of_several_labels_is_seen(data):
    x, y = data
    labels = np.stack([y == 0, y != 1, np.zeros_like(y)], axis=1).astype("float32")  # the last tells nothing
    labels[::5, 1] = -1  # unknown
    teacher = keras.Sequential([keras.Input((6,)), layers.Dense(3, "sigmoid")], name="teacher")
    distiller = compiled(teacher, net(4, "sigmoid"), BernoulliSoftTargets(), "binary_crossentropy", ())

    def said(kernel):
        teacher.set_weights([kernel, np.zeros(3)])
        return [text for text in texts(distiller.check(x, labels), grave=True) if "gives 50%" in text]

    kernel = np.zeros((6, 3), "float32")
    kernel[5] = (1, -1, 1)  # an input that tells nothing
    ranked = []
    for i in (0, 1):
        own = labels[:, i] >= 0
        positive, score = labels[own, i] == 1, x[own, 5] * kernel[5, i]
        pairs = stats.mannwhitneyu(score[positive], score[~positive]).statistic
        ranked.append(pairs / (positive.sum() * (~positive).sum()))
    (text,) = said(kernel)
    assert (
        f"'teacher' ranks an example that has a label above one that lacks it in only {np.mean(ranked):.0%} of pairs"
        in text
    )
    kernel[0, 0], kernel[1, 1] = 3, -3
    assert not said(kernel)
    (text,) = said(0 * kernel)  # the same answer for all
    assert "in only 50% of pairs" in text


def test_models_that_were_swapped_are_seen(data):
    x, y = data
    checked = compiled(net(4, name="small"), net(64, name="large"), SoftTargets()).check(x, y)
    assert any(
        "The student 'large' has 643 parameters, more than its teacher 'small' with 43." in t
        for t in texts(checked)
    )


def test_inputs_that_nobody_scales_are_seen(data):
    x, y = data
    teacher = net(8, name="teacher", first=[layers.Rescaling(1 / 255)])
    (text,) = [
        t
        for t in texts(compiled(teacher, net(4), SoftTargets()).check(100 * x, y))
        if "The inputs reach" in t
    ]
    assert "does not scale them" in text
    assert "as its teacher does" in text
    scaled = compiled(teacher, net(4, first=[layers.Rescaling(0.01)]), SoftTargets()).check(100 * x, y)
    assert not [t for t in texts(scaled) if "does not scale" in t]


def test_a_certain_teacher_is_seen(data):
    x, y = data
    checked = compiled(solved(x, y, scale=3000.0), net(3), SoftTargets(4.0)).check(x, y)
    assert any("almost certain of its answers even at temperature 4" in text for text in texts(checked))


def linear(name="student"):
    """One layer whose weights are 0: all classes are equally likely."""
    head = layers.Dense(3, "softmax", kernel_initializer="zeros")
    return keras.Sequential([keras.Input((6,)), head], name=name)


def test_a_timid_teacher_under_sgd_is_seen(data):
    """The student is one linear layer, so the gradients are those of the logits times the inputs."""
    x, y = data
    teacher = solved(x, y, scale=0.5)
    answers = as_numpy(teacher(x)).astype("float64")
    inputs = np.c_[x[:64], np.ones(64)].astype("float64")
    softened = answers[:64] ** 0.25 / (answers[:64] ** 0.25).sum(axis=1, keepdims=True)
    of_labels = inputs.T @ (1 / 3 - np.eye(3)[y[:64]]) / 64
    of_teacher = inputs.T @ (4 * (1 / 3 - softened)) / 64
    pull = 0.1 + 0.9 * (of_teacher * of_labels).sum() / (of_labels**2).sum()
    right, sure = np.mean(answers.argmax(axis=1) == y), answers.max(axis=1).mean()
    wanted = (
        f"'teacher' is right on {right:.0%} of the examples but only {sure:.0%} sure, and SGD does not rescale the "
        f"small gradient: towards the labels, it is {pull:.2f} of what the labels alone give. Set student_loss_weight=1"
    )

    def said(optimizer, teacher=teacher, **weights):
        distiller = Distiller(teacher, linear(), SoftTargets(4.0), **weights)
        distiller.compile(optimizer, loss=CE)
        return [text for text in texts(distiller.check(x, y)) if "small gradient" in text]

    sgd = keras.optimizers.SGD
    for optimizer in (sgd(), sgd(0.1, momentum=0.9), keras.optimizers.LossScaleOptimizer(sgd())):
        (text,) = said(optimizer)
        assert text.startswith(wanted)
    assert not said("adam")
    assert not said(sgd(), student_loss_weight=1, distillation_weight=0.9)
    assert not said(sgd(), solved(x, y, scale=8.0))
    assert 0.1 < pull < 0.75


def test_a_student_that_training_left_far_from_its_teacher_is_seen(data):
    x, y = data
    teacher, student = solved(x, y, scale=30.0), linear()
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    distiller.compile(keras.optimizers.Adam(0.01), loss=CE)

    def said(**kwargs):
        return [text for text in texts(distiller.check(x, y, **kwargs)) if "has trained" in text]

    assert not said()
    distiller.fit(x, y, verbose=0)
    theirs = x.astype("float64") @ teacher.get_weights()[0] + teacher.get_weights()[1]
    own = x.astype("float64") @ student.get_weights()[0] + student.get_weights()[1]
    for size in (16, 64):
        left, most = (
            reference.soft_targets(theirs[:size], logits[:size], 4.0).mean() for logits in (own, 0 * own)
        )
        (text,) = said(batch_size=size)
        value = f"'soft_targets' is still {left / most:.0%} of its value"
        assert f"{value} for a student that finds all classes equally likely" in text
        assert "far from 'teacher'" in text
        assert "raise the learning rate or lower the temperature." in text
    student.set_weights([0.8 * weight for weight in teacher.get_weights()])
    assert not said()


def test_a_student_that_training_left_far_from_a_teacher_of_several_labels_is_seen(data):
    x, y = data
    teacher, student = (
        keras.Sequential([keras.Input((6,)), layers.Dense(3, "sigmoid")], name=name)
        for name in ("teacher", "student")
    )
    teacher.set_weights([4 * np.eye(6, 3, dtype="float32"), np.array([-4.0, -4.0, -9.0])])
    distiller = Distiller(teacher, student, BernoulliSoftTargets(2.0))
    distiller.compile(keras.optimizers.Adam(0.01), loss="binary_crossentropy")
    labels = np.eye(3, dtype="float32")[y]

    def said():
        return [text for text in texts(distiller.check(x, labels)) if "has trained" in text]

    assert not said()
    distiller.fit(x, labels, verbose=0)
    first = x[:64].astype("float64")
    theirs, own = (first @ model.get_weights()[0] + model.get_weights()[1] for model in (teacher, student))
    mean = special.expit(theirs / 2.0).mean(axis=0)
    alike = np.tile(2.0 * special.logit(mean), (64, 1))
    left, most = (reference.bernoulli_soft_targets(theirs, logits, 2.0).mean() for logits in (own, alike))
    assert left > 0.5 * most
    (text,) = said()
    assert (
        f"still {left / most:.0%} of its value for a student that answers the same for all examples" in text
    )
    student.set_weights([0.8 * weight for weight in teacher.get_weights()])
    assert not said()


def test_terms_of_different_scales_and_without_gradient_are_seen(data):
    x, y = data
    both = compiled(solved(x, y), net(3), [SoftTargets(), LogitMSE()], distillation_loss_weights=[1.0, 1e4])
    assert any(
        re.search(r"The gradient of 'logit_mse' is \d+ times that of", text)
        for text in texts(both.check(x, y))
    )
    student = net(3)
    student.trainable_variables[0].assign(0 * student.get_weights()[0])
    student.trainable_variables[1].assign(-np.ones(3))  # the hidden units are dead
    student.layers[-1].trainable = False
    dead = compiled(solved(x, y), student, SoftTargets()).check(x, y)
    assert any("'soft_targets' has no gradient" in text for text in texts(dead, grave=True))


def test_a_teacher_of_logits_is_scored_as_the_student(data):
    """The compiled loss takes the student's probabilities."""
    x, y = data
    logits = keras.Sequential([keras.Input((6,)), layers.Dense(3)], name="teacher")
    logits.set_weights(solved(x, y).get_weights())
    found = compiled(logits, net(3), SoftTargets()).check(x, y).models[0].scores
    wanted = compiled(solved(x, y), net(3), SoftTargets()).check(x, y).models[0].scores
    assert found == pytest.approx(wanted, rel=1e-5)


def test_without_labels_there_are_no_scores(data):
    x, _ = data
    distiller = Distiller(net(8), net(4), SoftTargets(), student_loss_weight=0)
    distiller.compile("sgd")
    checked = distiller.check(x)
    assert [row.scores for row in checked.models] == [{}, {}]
    assert [(term.loss, term.cosine) for term in checked.terms] == [("soft_targets", None)]


@only_on("tensorflow", reason="tf.data")
def test_a_data_set_is_read_as_far_as_needed(data):
    import tensorflow as tf

    x, y = data
    dataset = tf.data.Dataset.from_tensor_slices((x, y, np.ones(len(y), "float32"))).batch(16)
    distiller = compiled(solved(x, y), net(4), SoftTargets())
    assert distiller.check(dataset, examples=40).examples == 48
    first = distiller.check(x[:48], y[:48], batch_size=16)
    assert distiller.check(dataset, examples=40).models == first.models


def test_bad_arguments(data):
    x, y = data
    distiller = Distiller(net(8), net(4), SoftTargets())
    with pytest.raises(ValueError, match="not compiled. Call compile first"):
        distiller.check(x, y)
    distiller.compile("sgd", loss=CE)
    with pytest.raises(ValueError, match="examples must be an integer of at least 1. Received: examples=0"):
        distiller.check(x, y, examples=0)
    peers = MutualLearning([net(4, name="one"), net(4, name="two")])
    peers.compile("sgd", loss=CE)
    with pytest.raises(ValueError, match="networks that learn from each other, which have none"):
        peers.check(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lazy = keras.Sequential([layers.Dense(3, "softmax")], name="lazy")
    unbuilt = compiled(net(8), lazy, SoftTargets())
    with pytest.raises(ValueError, match="Received: 'lazy', not built"):
        unbuilt.check(x, y)


def test_the_weights_of_several_losses_count(data):
    x, y = data
    inputs = keras.Input((6,))
    heads = [layers.Dense(3, "softmax", name=name)(inputs) for name in ("a", "b")]
    teacher = keras.Model(inputs, heads)
    student = keras.models.clone_model(teacher)
    distiller = Distiller(teacher, student, {"a": SoftTargets(2.0)})
    distiller.compile(loss={"a": CE, "b": CE}, loss_weights={"a": 1.0, "b": 0.01})
    a, b = (-np.log(as_numpy(head)[np.arange(120), y]).mean() for head in student(x))
    scores = distiller.check(x, {"a": y, "b": y}).models[-1].scores
    assert scores["loss"] == pytest.approx(a + 0.01 * b, rel=1e-5)


@pytest.mark.slow
def test_a_memory_of_embeddings_is_left_as_it_is(data):
    x, y = data
    teacher, student = (net(8, name=name) for name in ("teacher", "student"))
    loss = ContrastiveRepresentation(y, negatives=4, width=4)
    distiller = compiled(teacher, student, [SoftTargets(2.0), loss])
    identified = Identified(x, np.arange(120))
    distiller.fit(identified, y, verbose=0)
    before = [as_numpy(variable).copy() for variable in distiller.variables]
    distiller.check(identified, y)
    for left, right in zip(before, distiller.variables, strict=True):
        np.testing.assert_array_equal(left, as_numpy(right))


def test_labels_that_a_loss_ignores_are_not_counted(data):
    x, y = data
    ignored = np.where(np.arange(120) < 30, -1, y)
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    distiller = compiled(solved(x, y), net(4), SoftTargets(2.0), loss, metrics=())
    assert not any("right on" in text for text in texts(distiller.check(x, ignored)))
    nothing = np.full(120, -1)
    assert distiller.check(x, nothing).examples == 120


@only_on("tensorflow", reason="strings")
def test_lists_are_taken_as_fit_takes_them():
    texts_in = ["good film", "bad film", "good"] * 10
    words = layers.TextVectorization(output_mode="multi_hot", vocabulary=["good", "bad", "film"])

    def reader(width):
        inputs = keras.Input((), dtype="string")
        return keras.Model(inputs, layers.Dense(2, "softmax")(layers.Dense(width)(words(inputs))))

    checked = compiled(reader(8), reader(4), SoftTargets(2.0)).check(texts_in, [1, 0, 1] * 10)
    assert checked.examples == 30


def test_labels_that_training_needs_are_missed(batch, teacher, student):
    x, y = batch
    distiller = compiled(teacher, student, SoftTargets(2.0))
    assert distiller.check(x, y).terms[0].loss == "student_loss"
    # After a fit that failed, Keras on JAX has taken the weights away.
    for look in (distiller.check, distiller.fit):
        with pytest.raises(ValueError, match="student_loss_weight above 0 needs labels"):
            look(x)


@pytest.mark.parametrize("loss", ["categorical_crossentropy", keras.losses.CategoricalCrossentropy()])
def test_a_loss_of_one_class_does_not_go_with_a_sigmoid(loss, data):
    x, y = data
    labels = np.eye(3, dtype="float32")[y]
    found = compiled(
        net(8, "sigmoid"), net(4, "sigmoid", name="own"), BernoulliSoftTargets(), loss, ()
    ).check(x, labels)
    assert any(
        "'own' ends in a sigmoid, which scores each class on its own" in text
        for text in texts(found, grave=True)
    )
    for activation, term, own in (
        ("sigmoid", BernoulliSoftTargets(), "binary_crossentropy"),
        ("softmax", LogitMSE(), loss),
    ):
        found = compiled(net(8, activation), net(4, activation), term, own, ()).check(x, labels)
        assert not any("sigmoid" in text or "Labels" in text for text in texts(found))


@pytest.mark.parametrize(("shift", "factor"), [(-1, 1), (0, 2), (0, np.nan)])
def test_labels_of_a_binary_loss_lie_between_0_and_1(shift, factor, data):
    x, y = data
    labels = np.eye(3, dtype="float32")[y]
    distiller = compiled(
        net(8, "sigmoid"), net(4, "sigmoid"), BernoulliSoftTargets(), "binary_crossentropy", ()
    )
    (text,) = [
        text for text in texts(distiller.check(x, factor * labels + shift), grave=True) if "Labels" in text
    ]
    assert "the loss 'binary_crossentropy' takes labels from 0 to 1" in text


def test_a_student_that_cannot_learn_is_refused(data):
    x, y = data
    student = net(3, name="frozen")
    student.trainable = False
    distiller = compiled(net(4), student, SoftTargets())
    with pytest.raises(ValueError, match="'frozen', all of whose weights are frozen"):
        distiller.check(x, y, examples=np.int64(8))


def test_labels_of_a_large_vocabulary_are_compared(data):
    """A table of all pairs of classes would take terabytes."""
    x, y = data
    assert not texts(compiled(solved(x, y), net(3), LogitMSE()).check(x, y), grave=True)
    found = advice._advice_on_classes("teacher", np.array([0, 1, 1_000_000]), np.array([0, 1, 2_000_000]))
    assert found == []
