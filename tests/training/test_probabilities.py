"""Probabilities in place of logits: what their dtype can tell, and the number that a softmax leaves free."""

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, FLOAT64, as_numpy, as_tensor, value_and_gradients
from conftest import dense_net
from distilling import array, assert_logs
from keras import layers, ops

from distill import BernoulliSoftTargets, Distiller, MutualLearning, SoftTargets
from distill.losses import DistillationLoss, LogitMSE
from distill.training._probabilities import dtype_rounded_in, logits_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
# What a dtype cannot tell from 1, and from 0.
RESOLVED = {"float16": (2**-12, 2**-25), "bfloat16": (2**-9, 2**-126), "float32": (2**-25, 2**-126)}
RESOLVED["float64"] = (2**-54, 2**-1022)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", FLOAT64])
def test_log_odds_go_as_far_on_both_sides_as_the_dtype_can_tell(dtype):
    logits = np.array([0.0, 1.0, 3.0, 5.0, 12.0, 40.0, 200.0])
    logits = np.concatenate([-logits[::-1], logits])
    p = ops.cast(1 / (1 + np.exp(-logits)), dtype)
    found = as_numpy(logits_of(p, "sigmoid"))
    assert found.dtype == np.float32
    bound = np.log((1 - RESOLVED[dtype][0]) / RESOLVED[dtype][0])
    held = np.clip(logits, -bound, bound)
    resolved = np.abs(logits) < bound / 2
    np.testing.assert_allclose(found[resolved], held[resolved], rtol=0.02, atol=0.05)
    np.testing.assert_allclose(found, held, atol=0.7)  # a factor of two in 1 − p
    np.testing.assert_allclose(found[[0, -1]], [-bound, bound], rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", FLOAT64])
def test_logarithms_go_as_far_as_the_dtype_can_tell(dtype):
    gaps = np.array([1.0, 6.0, 12.0, 80.0, 200.0, 2000.0])
    p = ops.cast(np.stack([1 / (1 + np.exp(-gaps)), np.exp(-gaps) / (1 + np.exp(-gaps))], -1), dtype)
    found = as_numpy(logits_of(p, "softmax"))
    held = np.minimum(gaps, -np.log(RESOLVED[dtype][1]))
    np.testing.assert_allclose(found[:, 0] - found[:, 1], held, rtol=0.01)
    turned = as_numpy(logits_of(ops.flip(p, axis=-1), "softmax"))
    np.testing.assert_allclose(turned, found[:, ::-1], rtol=1e-6, atol=1e-7)


def test_a_student_that_is_surely_wrong_learns_from_its_probabilities():
    for logit in (-30.0, -10.0, 0.0, 10.0):
        _, (gradient,) = value_and_gradients(
            lambda z: ops.sum(logits_of(ops.sigmoid(z), "sigmoid")), np.array([logit], "float32")
        )
        np.testing.assert_allclose(gradient, [1.0], rtol=0.02)


def test_a_cast_does_not_make_probabilities_finer():
    half, single = layers.Dense(3, "softmax", dtype="float16"), layers.Dense(3, "softmax")
    for head, dtype in ((half, "float16"), (single, "float32")):
        cast = [layers.Reshape((3,), dtype="float32"), layers.Activation("linear", dtype="float32")]
        model = keras.Sequential([keras.Input((6,)), head, *cast])
        assert dtype_rounded_in(model.outputs[0]) == dtype
        inputs = keras.Input((6,))
        nested = keras.Model(inputs, ops.cast(model(inputs), "float32"))
        assert dtype_rounded_in(nested.outputs[0]) == dtype


@pytest.mark.parametrize("cast", [False, True])
def test_a_teacher_in_float16_is_not_certain_where_it_rounds_to_zero(cast):
    kernel = np.zeros((6, 3), "float32")
    kernel[0] = [30.0, 0.0, 0.0]
    head = layers.Dense(3, "softmax", dtype="float16", use_bias=False)
    after = [layers.Activation("linear", dtype="float32")] if cast else []
    teacher = keras.Sequential([keras.Input((6,)), head, *after])
    head.set_weights([kernel])
    student, x = dense_net(4, activation=None), np.ones((1, 6), "float32")
    expected = reference.soft_targets(
        np.log([[1.0, 2.0**-25, 2.0**-25]]), np.asarray(array(student(x))), 4.0
    ).mean()
    distiller = Distiller(
        teacher, student, SoftTargets(4.0), student_loss_weight=0, from_logits=(False, None)
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    assert_logs(distiller.train_on_batch(x, return_dict=True), {"soft_targets": expected})


def test_a_sigmoid_teacher_says_as_much_of_yes_as_of_no():
    student = keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer="zeros")])
    losses = []
    for logit in (18.0, -18.0):
        distiller = Distiller(
            lambda x: ops.sigmoid(x),
            student,
            BernoulliSoftTargets(4.0),
            student_loss_weight=0,
            from_logits=(False, None),
        )
        distiller.compile(keras.optimizers.SGD(0.0))
        losses.append(distiller.train_on_batch(np.array([[logit]], "float32"), return_dict=True)["loss"])
    wanted = reference.bernoulli_soft_targets([[np.log(2**25 - 1)]], [[0.0]], 4.0).mean()
    np.testing.assert_allclose(losses, [wanted, wanted], rtol=1e-4)


# --- the number that a softmax leaves free ------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Absolute(DistillationLoss):
    """A loss of a user's own that sees that number, and does not say otherwise."""

    shapes = ("logits (batch, ..., classes)",)
    same_shape = True
    head = "softmax"

    def call(self, teacher, student):
        return ops.mean(ops.abs(student - teacher), axis=-1)


def centered(model, x):
    logits = np.log(array(model(x)))
    return logits - logits.mean(axis=-1, keepdims=True)


@pytest.mark.parametrize("stated", [(False, None), (None, False), False])
@pytest.mark.parametrize(("loss", "power"), [(LogitMSE(), 2), (Absolute(name="absolute"), 1)])
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.sweep(3)
def test_logits_are_compared_up_to_the_number_that_probabilities_do_not_tell(stated, loss, power, equal):
    teacher, student = dense_net(4), dense_net(4)
    if equal:
        student.set_weights(teacher.get_weights())
    expected = (np.abs(centered(teacher, X) - centered(student, X)) ** power).mean()
    distiller = Distiller(teacher, student, loss, student_loss_weight=0, from_logits=stated)
    distiller.compile(keras.optimizers.SGD(0.0))
    assert_logs(distiller.train_on_batch(X, return_dict=True), {"loss": expected})


def test_functions_several_teachers_and_peers_too():
    nets = [dense_net(4, name=f"net{i}") for i in range(3)]
    pairs = [(centered(a, X) - centered(b, X)) ** 2 for a, b in ((nets[0], nets[2]), (nets[1], nets[2]))]
    options = {"student_loss_weight": 0, "from_logits": (False, None)}
    two = Distiller(nets[:2], nets[2], LogitMSE(), **options)
    two.compile(keras.optimizers.SGD(0.0))
    assert_logs(two.train_on_batch(X, return_dict=True), {"loss": np.mean(pairs)})
    mean = Distiller(nets[:2], nets[2], LogitMSE(), teacher_mean="logits", **options)
    mean.compile(keras.optimizers.SGD(0.0))
    both = (centered(nets[0], X) + centered(nets[1], X)) / 2 - centered(nets[2], X)
    assert_logs(mean.train_on_batch(X, return_dict=True), {"loss": (both**2).mean()})
    function = Distiller(lambda x: nets[0](x), nets[2], LogitMSE(), **options)
    function.compile(keras.optimizers.SGD(0.0), jit_compile=BACKEND == "jax")
    assert_logs(function.train_on_batch(X, return_dict=True), {"loss": pairs[0].mean()})
    peers = MutualLearning([nets[0], nets[2]], LogitMSE(), student_loss_weight=0.0, from_logits=False)
    peers.compile(keras.optimizers.SGD(0.0))
    assert_logs(peers.train_on_batch(X, return_dict=True), {"loss": 2 * pairs[0].mean()})


def test_logits_that_are_known_are_compared_as_they_are():
    teacher, student = dense_net(4), dense_net(4)
    student.set_weights(teacher.get_weights())
    student.layers[-1].bias.assign_add(np.ones(3))
    for stated in (None, (True, None)):
        teacher_head = teacher if stated is None else keras.models.clone_model(teacher)
        if stated is not None:
            teacher_head.layers[-1].activation = keras.activations.linear
            teacher_head.set_weights(teacher.get_weights())
        distiller = Distiller(teacher_head, student, LogitMSE(), from_logits=stated)
        distiller.compile(keras.optimizers.SGD(0.0))
        assert_logs(distiller.train_on_batch(X, return_dict=True), {"loss": 1.0})


def test_a_float64_teacher_keeps_its_digits():
    if BACKEND == "jax":
        pytest.skip("JAX has float64 if it was started with it")
    p = as_tensor(np.array([[1 / (1 + np.exp(-30.0))]], "float64"))
    np.testing.assert_allclose(as_numpy(logits_of(p, "sigmoid")), [[30.0]], rtol=1e-3)
