"""Models whose class has methods of its own: what they do beside `call` is refused, not left out."""

import keras
import numpy as np
import pytest
from backend import only_on
from distilling import compiled, nets
from keras import layers

import distill
from distill import training

LEARNING = ["train_step", "test_step", "compute_loss", "compute_metrics", "make_train_function"]
ANSWERING = [
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
    "test_on_batch",
    "predict_on_batch",
    "predict_step",
]


def with_own(method, base=keras.Model):
    """A trained model of a class that defines a method, which does what it did before."""

    def own(self, *args, **kwargs):
        return getattr(base, method)(self, *args, **kwargs)

    kind = type("Special", (type("Between", (base,), {method: own}),), {})
    inputs = keras.Input((6,))
    return kind(inputs, layers.Dense(3, activation="softmax")(inputs), name="special")


@pytest.mark.parametrize("method", [*LEARNING, *ANSWERING])
def test_a_student(method):
    with pytest.raises(ValueError, match=f"'special', a Special with its own {method}, which would not run"):
        training.Distiller(nets(4)[0], with_own(method), distill.SoftTargets(4.0))


@pytest.mark.parametrize("method", ANSWERING)
def test_a_teacher(method):
    student, plain = nets(4, 8, activation="softmax")
    teacher = with_own(method)
    for given in (teacher, [plain, teacher]):
        with pytest.raises(
            ValueError, match=f"'special', a Special with its own {method}.*teacher_preprocessing"
        ):
            training.Distiller(given, student, distill.SoftTargets(4.0))


@pytest.mark.parametrize("method", LEARNING)
def test_how_a_teacher_learned_does_not_matter(method):
    training.Distiller(with_own(method), nets(4)[0], distill.SoftTargets(4.0))


def test_a_teacher_whose_call_is_told_what_it_takes(batch):
    """The fault as people meet it: predict scales the images, call does not."""

    class Scaling(keras.Model):
        def predict(self, x, **kwargs):
            return super().predict(x / 4, **kwargs)

    inputs, (student,) = keras.Input((6,)), nets(4, activation="softmax")
    teacher, (x, _) = Scaling(inputs, layers.Dense(3)(inputs)), batch
    with pytest.raises(ValueError, match="Scaling with its own predict"):
        training.Distiller(teacher, student, distill.SoftTargets(1.0))

    def loss(preprocessing):
        losses, kwargs = distill.SoftTargets(1.0), {"student_loss_weight": 0.0}
        distiller = training.Distiller(
            teacher, student, losses, teacher_preprocessing=preprocessing, **kwargs
        )
        compiled(distiller, keras.optimizers.SGD(0.0), loss=None, metrics=None)
        return distiller.fit(4 * x, batch_size=40, verbose=0).history["soft_targets"][0]

    def expected(logits):
        p = np.exp(logits.astype("float64"))
        p, q = p / p.sum(-1, keepdims=True), student.predict(4 * x, verbose=0).astype("float64")
        return np.mean(np.sum(p * np.log(p / q), axis=-1))

    assert np.isclose(loss(lambda x: x / 4), expected(teacher.predict(4 * x, verbose=0)), rtol=1e-4)
    assert np.isclose(
        loss(layers.Identity()), expected(keras.Model.predict(teacher, 4 * x, verbose=0)), rtol=1e-4
    )


def test_a_method_that_one_object_alone_has():
    student, teacher = nets(4, 8, activation="softmax")
    object.__setattr__(teacher, "predict", lambda x: x)
    with pytest.raises(ValueError, match="its own predict"):
        training.Distiller(teacher, student, distill.SoftTargets(4.0))


def test_members_of_an_ensemble_and_networks_that_learn_from_each_other():
    plain, *_ = nets(4, activation="softmax")
    for join in (training.ensemble, distill.MutualLearning):
        with pytest.raises(ValueError, match="Special with its own predict"):
            join([plain, with_own("predict")])


def test_a_tf_keras_teacher():
    tf_keras = pytest.importorskip("tf_keras")

    class Own(tf_keras.Model):
        def predict(self, x, **kwargs):
            return super().predict(x / 4, **kwargs)

    inputs = tf_keras.Input((6,))
    teacher = Own(inputs, tf_keras.layers.Dense(3)(inputs))
    with pytest.raises(ValueError, match="Own with its own predict"):
        training.Distiller(teacher, nets(4)[0], distill.SoftTargets(4.0), from_logits=(True, None))


@only_on("tensorflow", reason="only there does the step hold the teachers")
def test_xla_is_only_asked_of_preprocessing_that_keras_knows():
    student, teacher = nets(4, 8)
    for preprocessing, allowed in [(None, True), (layers.Rescaling(2.0), True), (lambda x: 2 * x, False)]:
        distiller = training.Distiller(
            teacher, student, distill.SoftTargets(4.0), teacher_preprocessing=preprocessing
        )
        assert distiller.allows_jit is allowed
