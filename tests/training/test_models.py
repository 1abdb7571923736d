"""Every kind of model on either side: heads, sizes, types, masks and nested models."""

import keras
import numpy as np
import pytest
import reference
from backend import FLOAT64
from conftest import dense_net
from distilling import FeatureMSE, array, assert_logs, compiled, expected_loss, soft
from keras import layers, ops

from distill import BernoulliSoftTargets, Distiller, SoftTargets
from distill.losses import OutputMSE

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = RNG.integers(3, size=12)


POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]


@pytest.mark.parametrize("teacher_policy", POLICIES)
@pytest.mark.parametrize("student_policy", POLICIES)
@pytest.mark.sweep(1)
def test_any_precision_on_either_side(teacher_policy, student_policy):
    nets = []
    for width, policy in ((16, teacher_policy), (4, student_policy)):
        keras.config.set_dtype_policy(policy)
        try:
            nets.append(dense_net(width))
        finally:
            keras.config.set_dtype_policy("float32")
    teacher, student = nets
    # What the models should compute, by their own float32 weights.
    expected = expected_loss(student.get_weights(), teacher, X, Y)
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    exact = (teacher_policy, student_policy) == ("float32", "float32")
    assert_logs(logs, expected, rtol=1e-5 if exact else 0.05, atol=1e-6 if exact else 0.02)
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer) == (
        student_policy == "mixed_float16"
    )
    assert all(np.isfinite(weight).all() for weight in student.get_weights())


def test_losses_on_layers_join_models_of_other_heads():
    teacher, student = dense_net(4, classes=7), dense_net(4, classes=3, activation=None)
    hidden = [np.maximum(X @ m.get_weights()[0] + m.get_weights()[1], 0) for m in (teacher, student)]
    expected = np.square(hidden[0] - hidden[1]).mean()
    distiller = Distiller(teacher, student, FeatureMSE("hidden", "hidden"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(distiller, keras.optimizers.SGD(0.0), loss=loss)
    assert_logs(distiller.train_on_batch(X, Y, return_dict=True), {"feature_mse": expected})


def test_layers_inside_nested_models():
    def net(head):
        backbone = keras.Sequential(
            [keras.Input((6,)), layers.Dense(5, name="block3"), layers.ReLU()], name="backbone"
        )
        inputs = keras.Input((6,))
        return keras.Model(
            inputs, layers.Dense(3, activation="softmax")(layers.Dense(head)(backbone(inputs)))
        )

    teacher, student = net(16), net(4)
    block = [X @ m.get_weights()[0] + m.get_weights()[1] for m in (teacher, student)]
    ours = Distiller(teacher, student, FeatureMSE("backbone/block3", "backbone/block3"))
    keras_feature = keras.distillation.FeatureDistillation("mse", "backbone/block3", "backbone/block3")
    for distiller, name in (
        (ours, "feature_mse"),
        (Distiller(teacher, student, keras_feature), "feature_distillation"),
    ):
        compiled(distiller, keras.optimizers.SGD(0.0))
        logs = distiller.train_on_batch(X, Y, return_dict=True)
        assert_logs(logs, {name: np.square(block[0] - block[1]).mean()})


def head_net(width, activation, units):
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(units, activation=activation)(hidden))


@pytest.mark.parametrize("units", [1, 5])
@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.sweep(1)
def test_binary_and_multi_label_heads(units, activation):
    teacher, student = head_net(16, activation, units), head_net(4, activation, units)
    outputs = [array(net(X)) for net in (teacher, student)]
    logits = [np.log(p / (1 - p)) for p in outputs] if activation else outputs
    expected = reference.bernoulli_soft_targets(*logits, 2.0).mean()
    y = RNG.integers(2, size=(12, units)).astype("float32")
    distiller = Distiller(teacher, student, BernoulliSoftTargets(2.0))
    distiller.compile(
        keras.optimizers.SGD(0.0), loss=keras.losses.BinaryCrossentropy(from_logits=activation is None)
    )
    logs = distiller.train_on_batch(X, y, return_dict=True)
    assert_logs(logs, {"bernoulli_soft_targets": expected}, rtol=1e-4)


def test_regression_heads():
    teacher, student = head_net(16, None, 2), head_net(4, None, 2)
    weights = RNG.uniform(size=12).astype("float32")
    expected = (weights * np.square(array(teacher(X)) - array(student(X))).mean(axis=-1)).mean()
    distiller = Distiller(teacher, student, OutputMSE())
    distiller.compile(keras.optimizers.SGD(0.0), loss="mse", metrics=["mae"])
    y = RNG.normal(size=(12, 2)).astype("float32")
    logs = distiller.train_on_batch(X, y, sample_weight=weights, return_dict=True)
    assert_logs(logs, {"output_mse": expected})
    with pytest.raises(ValueError, match=r"the same shape.*teacher \(None, 3\) and student \(None, 2\)"):
        Distiller(head_net(16, None, 3), student, OutputMSE())


IMAGES = RNG.normal(size=(4, 5, 7, 2)).astype("float32")


def segmenter(width):
    inputs = keras.Input((5, 7, 2))
    hidden = layers.Conv2D(width, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(hidden))


@pytest.mark.parametrize("weighting", [None, "example", "pixel"])
def test_segmentation_maps(weighting):
    teacher, student = segmenter(16), segmenter(4)
    per_pixel = soft(teacher(IMAGES), student(IMAGES))
    weights = {
        None: np.ones((4, 1, 1)),
        "example": RNG.uniform(size=(4, 1, 1)),
        "pixel": RNG.uniform(size=(4, 5, 7)),
    }[weighting]
    expected = (weights * per_pixel).mean()
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    # Keras' own losses take no weight per example here; ours do. With the sparse one, torch 2.13 fails in Keras' step.
    loss = "categorical_crossentropy" if weighting != "example" else None
    distiller.student_loss_weight = 0.5 if loss else 0.0
    distiller.compile(keras.optimizers.SGD(0.0), loss=loss)
    sample_weight = {None: None, "example": weights[:, 0, 0], "pixel": weights}[weighting]
    y = np.eye(3, dtype="float32")[RNG.integers(3, size=(4, 5, 7))]
    logs = distiller.train_on_batch(IMAGES, y, sample_weight=sample_weight, return_dict=True)
    assert_logs(logs, {"soft_targets": expected})


TOKENS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 1, 2]], "int32")


def language_model(width):
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(9, width, mask_zero=True)(inputs)
    x = layers.Rescaling(20.0)(layers.GRU(width, return_sequences=True)(x))  # for logits of some size
    return keras.Model(inputs, layers.Dense(9)(x))


@pytest.mark.parametrize("weighting", [None, "token"])
@pytest.mark.sweep(1)
def test_token_logits_with_masks(weighting):
    teacher, student = language_model(8), language_model(3)
    kept = (TOKENS != 0).astype("float64")
    weights = kept if weighting is None else kept * RNG.uniform(size=TOKENS.shape)
    rows = [array(net(TOKENS)).reshape(-1, 9) for net in (teacher, student)]
    per_token = reference.soft_targets(*rows, 4.0).reshape(TOKENS.shape)
    expected = (weights * per_token).sum() / kept.sum()
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    distiller.compile(
        keras.optimizers.SGD(0.0), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    sample_weight = None if weighting is None else weights.astype("float32")
    logs = distiller.train_on_batch(TOKENS, TOKENS, sample_weight=sample_weight, return_dict=True)
    assert_logs(logs, {"soft_targets": expected}, rtol=1e-4)


def test_changes_to_the_student_count():
    teacher = dense_net(16)
    student = keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(3, "softmax")])
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    student.pop()
    student.add(layers.Dense(3, "softmax", kernel_initializer="ones"))
    expected = soft(teacher(X), student(X)).mean()
    logs = compiled(distiller, keras.optimizers.SGD(0.0)).train_on_batch(X, Y, return_dict=True)
    assert_logs(logs, {"soft_targets": expected})


def test_models_gain_no_trace_of_a_distiller():
    teacher, student = dense_net(16), dense_net(4)
    before = [[len(layer._inbound_nodes) for layer in net.layers] for net in (teacher, student)]
    outbound = [[len(layer._outbound_nodes) for layer in net.layers] for net in (teacher, student)]
    compiled(Distiller(teacher, student, SoftTargets(4.0))).fit(X, Y, verbose=0)
    assert [[len(layer._inbound_nodes) for layer in net.layers] for net in (teacher, student)] == before
    assert [[len(layer._outbound_nodes) for layer in net.layers] for net in (teacher, student)] == outbound


class Scalar(FeatureMSE):
    def call(self, teacher, student):
        return ops.mean(ops.square(student - teacher))


def test_a_loss_that_returns_one_number_is_refused():
    distiller = compiled(Distiller(dense_net(4), dense_net(4), Scalar("hidden", "hidden")))
    with pytest.raises(ValueError, match=r"one value per example.*Received: shape \(\) from Scalar"):
        distiller.train_on_batch(X, Y)


@pytest.mark.parametrize("floatx", [FLOAT64, "float16"])
def test_other_float_types_train(batch, floatx):
    keras.config.set_floatx(floatx)
    try:
        teacher, student = dense_net(16), dense_net(4)
        expected = expected_loss(student.get_weights(), teacher, *batch)
        logs = compiled(Distiller(teacher, student, SoftTargets(4.0))).train_on_batch(
            *batch, return_dict=True
        )
    finally:
        keras.config.set_floatx("float32")
    assert_logs(logs, expected, rtol=1e-5 if floatx == "float64" else 1e-2)


def token_net(width):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Dense(width)(layers.Embedding(9, width, mask_zero=True)(inputs))
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x))


@pytest.mark.parametrize("from_logits", [None, False])
def test_masked_tokens_do_not_count(from_logits):
    teacher, student = token_net(8), token_net(3)
    kept = TOKENS.ravel() != 0
    logits = [np.log(array(net(TOKENS)).reshape(-1, 4)[kept]) for net in (teacher, student)]
    expected = reference.soft_targets(*logits, 4.0).mean()
    distiller = Distiller(teacher, student, SoftTargets(4.0), from_logits=from_logits)
    logs = compiled(distiller, metrics=None).train_on_batch(TOKENS, TOKENS % 4, return_dict=True)
    assert_logs(logs, {"soft_targets": expected}, rtol=1e-4)


def test_losses_of_keras_distillation_with_masked_students():
    teacher, student = token_net(8), token_net(3)
    expected = np.mean((array(teacher(TOKENS)) - array(student(TOKENS))) ** 2)
    distiller = Distiller(teacher, student, keras.distillation.FeatureDistillation("mse"))
    logs = compiled(distiller, metrics=None).train_on_batch(TOKENS, TOKENS % 4, return_dict=True)
    assert_logs(logs, {"feature_distillation": expected})


def test_sizes_of_one_are_sizes(teacher):
    inputs = keras.Input((None, None, 2))
    maps = keras.Model(inputs, layers.Conv2D(3, 1)(inputs))
    pooled = keras.Model(inputs, layers.Conv2D(3, 1)(layers.GlobalAveragePooling2D(keepdims=True)(inputs)))
    with pytest.raises(ValueError, match=r"the same shape.*teacher \(None, 1, 1, 3\)"):
        Distiller(pooled, maps, SoftTargets())
