"""The Distiller's loss, logs and state, against numpy and against the student trained alone."""

import warnings

import keras
import numpy as np
import pytest
import reference
from backend import BACKEND, TORCH_COMPILES, as_numpy, only_on
from conftest import dense_net
from distilling import CE, assert_logs, compiled, counting_net, expected_loss, forward, twin
from keras import layers

import distill
from distill import BernoulliSoftTargets, Distiller, SoftTargets


@pytest.mark.parametrize(
    "settings", [{}, {"w": 0.5}, {"w": 0.0}, {"w": 1.0}, {"temperature": 1.0}, {"w": 1.0, "d": 0.9}]
)
def test_one_step_follows_the_definition(teacher, student, batch, settings):
    """Logs and the gradient step, against finite differences of the float64 loss."""
    x, y = batch
    before = student.get_weights()
    expected = expected_loss(before, teacher, x, y, **settings)
    distiller = Distiller(
        teacher,
        student,
        SoftTargets(settings.get("temperature", 4.0)),
        student_loss_weight=settings.get("w"),
        distillation_weight=settings.get("d"),
    )
    logs = compiled(distiller).train_on_batch(x, y, return_dict=True)
    assert_logs(logs, expected)
    assert set(logs) == {"loss", "student_loss", "soft_targets", "accuracy"}
    for i, weight in enumerate(before):
        gradient = reference.gradient(
            lambda point, i=i: expected_loss(
                [*before[:i], point, *before[i + 1 :]], teacher, x, y, **settings
            )["loss"],
            weight,
        )
        np.testing.assert_allclose(student.get_weights()[i], weight - 0.1 * gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("weighting", ["sample_weight", "class_weight"])
def test_weights_of_examples_reach_every_term(teacher, student, batch, weighting):
    x, y = batch
    if weighting == "sample_weight":
        per_example = np.random.default_rng(0).uniform(0, 2, size=len(x)).astype("float32")
        kwargs = {"sample_weight": per_example}
    else:
        kwargs = {"class_weight": {0: 3.0, 1: 0.0, 2: 0.5}}
        per_example = np.array([3.0, 0.0, 0.5])[y]
    expected = expected_loss(student.get_weights(), teacher, x, y, sample_weight=per_example)
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    assert_logs(distiller.train_on_batch(x, y, return_dict=True, **kwargs), expected)


def test_penalties_count_in_full(teacher, batch):
    x, y = batch

    class Activity(layers.Layer):
        def call(self, inputs):
            self.add_loss(0.01 * keras.ops.mean(keras.ops.square(inputs)))
            return inputs

    inputs = keras.Input((6,))
    hidden = layers.Dense(4, activation="relu", kernel_regularizer=keras.regularizers.L2(0.3))(inputs)
    student = keras.Model(inputs, layers.Dense(3, activation="softmax")(Activity()(hidden)))
    weights = student.get_weights()
    activity = np.maximum(x @ weights[0] + weights[1], 0)
    penalties = 0.3 * np.sum(weights[0] ** 2) + 0.01 * np.mean(activity**2)
    expected = expected_loss(weights, teacher, x, y, w=0.2)
    logs = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0.2)).train_on_batch(
        x, y, return_dict=True
    )
    assert_logs(logs, {**expected, "loss": expected["loss"] + penalties})


def test_logs_are_means_over_examples_not_over_batches(teacher, student, batch):
    x, y = (side[:9] for side in batch)
    expected = expected_loss(student.get_weights(), teacher, x, y)
    frozen = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(0.0))
    history = frozen.fit(x, y, batch_size=8, verbose=0).history
    assert_logs({key: values[0] for key, values in history.items()}, expected)


@pytest.mark.parametrize("teacher_head", ["softmax", None])
@pytest.mark.parametrize("student_head", ["softmax", None])
def test_heads_with_and_without_softmax_are_one(batch, teacher_head, student_head):
    x, y = batch
    teacher, student = dense_net(16, activation=teacher_head), dense_net(4, activation=student_head)
    expected = expected_loss(student.get_weights(), teacher, x, y)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=student_head is None)
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), loss=loss)
    assert_logs(distiller.train_on_batch(x, y, return_dict=True), expected)


def test_binary_heads(batch):
    x, y = batch[0], (batch[1] > 1).astype("float32")[:, None]
    teacher, student = (dense_net(width, activation="sigmoid", classes=1) for width in (16, 4))
    expected = reference.bernoulli_soft_targets(
        forward(teacher.get_weights(), x), forward(student.get_weights(), x), 2.0
    ).mean()
    distiller = compiled(Distiller(teacher, student, BernoulliSoftTargets(2.0)), loss="binary_crossentropy")
    assert_logs(distiller.train_on_batch(x, y, return_dict=True), {"bernoulli_soft_targets": expected})


def test_several_losses_each_with_its_weight(teacher, student, batch):
    x, y = batch
    cold, warm = (expected_loss(student.get_weights(), teacher, x, y, temperature=t) for t in (1.0, 4.0))
    distiller = compiled(
        Distiller(
            teacher,
            student,
            [SoftTargets(1.0), SoftTargets(4.0)],
            distillation_loss_weights=[0.5, 2.0],
            student_loss_weight=0.25,
        )
    )
    logs = distiller.train_on_batch(x, y, return_dict=True)
    total = 0.25 * cold["student_loss"] + 0.75 * (0.5 * cold["soft_targets"] + 2.0 * warm["soft_targets"])
    assert_logs(
        logs, {"soft_targets": cold["soft_targets"], "soft_targets_1": warm["soft_targets"], "loss": total}
    )


def test_losses_of_keras_distillation_work_here(teacher, batch):
    x, y = batch
    student = dense_net(16, name="student")
    hidden = [np.maximum(x @ m.get_weights()[0] + m.get_weights()[1], 0) for m in (teacher, student)]
    feature = keras.distillation.FeatureDistillation("mse", "hidden", "hidden")
    distiller = compiled(Distiller(teacher, student, [feature, SoftTargets(4.0)], student_loss_weight=0.5))
    expected = expected_loss(student.get_weights(), teacher, x, y, w=0.5)
    logs = distiller.train_on_batch(x, y, return_dict=True)
    expected_feature = np.mean((hidden[0] - hidden[1]) ** 2)
    assert_logs(
        logs,
        {
            "feature_distillation": expected_feature,
            "soft_targets": expected["soft_targets"],
            "loss": expected["loss"] + 0.5 * expected_feature,
        },
    )
    with pytest.raises(ValueError, match="'feature_distillation' returns one number for a batch"):
        distiller.train_on_batch(x, y, sample_weight=np.ones(len(x), "float32"))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"run_eagerly": True},
        pytest.param({"jit_compile": True}, marks=TORCH_COMPILES),
        pytest.param(
            {"steps_per_execution": 3},
            marks=only_on("tensorflow", "jax", reason="Keras has none of it on torch"),
        ),
        {"jit_compile": False},
    ],
    ids=str,
)
def test_every_way_to_run_gives_the_same_weights(teacher, student, batch, kwargs):
    x, y = batch
    weights = student.get_weights()
    results = []
    for mode in ({}, kwargs):
        student.set_weights(weights)
        distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), **mode)
        history = distiller.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0).history
        results.append((student.get_weights(), history))
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert_logs(results[1][1], results[0][1], rtol=1e-4)


def test_half_precision_students_get_loss_scaling_and_float32_losses(teacher, batch):
    x, y = batch
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(4, activation="relu"),
                layers.Dense(3, activation="softmax", dtype="float32"),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    expected = expected_loss(student.get_weights(), teacher, x, y)
    assert_logs(distiller.train_on_batch(x, y, return_dict=True), expected, rtol=5e-3)


def test_trains_without_labels(teacher, student, batch):
    x, y = batch
    expected = expected_loss(student.get_weights(), teacher, x, y, w=0.0)
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0), loss=None)
    history = distiller.fit(x, epochs=2, verbose=0, validation_data=(x, y), batch_size=len(x)).history
    assert set(history) == {"loss", "soft_targets", "val_accuracy"}
    np.testing.assert_allclose(history["loss"][0], expected["loss"], rtol=1e-5)
    predicted = student.predict(x, verbose=0).argmax(axis=-1)
    np.testing.assert_allclose(history["val_accuracy"][-1], np.mean(predicted == y), rtol=1e-6)


def test_the_teacher_is_left_as_it_was(batch):
    x, y = batch
    teacher = counting_net(16, "teacher")
    teacher.get_layer("hidden").trainable = False
    weights, flags = teacher.get_weights(), [layer.trainable for layer in teacher.layers]
    student = dense_net(4, batch_norm=True)
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    distiller.fit(x, y, epochs=2, batch_size=20, verbose=0, validation_data=(x, y))
    assert [layer.trainable for layer in teacher.layers] == flags
    for variable, before in zip(teacher.weights, weights, strict=True):
        if variable.name == "count":
            # Two epochs of two batches, none in validation. A step on JAX only returns variables of the Distiller.
            np.testing.assert_array_equal(as_numpy(variable), 0.0 if BACKEND == "jax" else 4.0)
        else:
            np.testing.assert_array_equal(as_numpy(variable), before)
    owned = {id(variable) for variable in distiller.variables}
    assert not owned & {id(variable) for variable in teacher.variables}


def test_evaluate_and_predict_are_the_students(teacher, batch):
    x, y = batch
    stack = [
        layers.Dense(4, kernel_regularizer="l2"),
        layers.BatchNormalization(),
        layers.Dense(3, "softmax"),
    ]
    student = keras.Sequential([keras.Input((6,)), *stack])
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    distiller.fit(x, y, verbose=0)
    alone = twin(student)
    alone.compile(loss=CE, metrics=["accuracy"])
    expected = {name: float(v) for name, v in alone.evaluate(x, y, verbose=0, return_dict=True).items()}
    state = student.get_weights()
    evaluated = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert {name: float(value) for name, value in evaluated.items()} == pytest.approx(expected, rel=1e-6)
    assert list(map(float, distiller.evaluate(x, y, verbose=0))) == pytest.approx(
        [expected["loss"], expected["accuracy"]], rel=1e-6
    )
    distiller.reset_metrics()  # as Keras does since 3.15
    tested = {name: float(value) for name, value in distiller.test_on_batch(x, y, return_dict=True).items()}
    assert tested == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(distiller.predict(x, verbose=0), student.predict(x, verbose=0))
    np.testing.assert_array_equal(as_numpy(distiller(x)), as_numpy(student(x)))
    for before, after in zip(state, student.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_one_student_pass_a_step_and_batch_norm_moves_once(teacher, batch):
    x, y = batch
    student = counting_net(4, "student")
    alone = twin(student)
    feature = keras.distillation.FeatureDistillation("mse", "head", "head")
    distiller = compiled(Distiller(teacher, student, [SoftTargets(4.0), feature]), keras.optimizers.SGD(0.0))
    distiller.train_on_batch(x, y)
    alone.compile(keras.optimizers.SGD(0.0), CE)
    alone.train_on_batch(x, y)
    np.testing.assert_array_equal(as_numpy(student.get_layer("calls").count), 1.0)
    for one, other in zip(student.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_student_trained_at_weight_one_is_the_student_alone(teacher, batch):
    x, y = batch
    student = dense_net(4, batch_norm=True)
    alone = twin(student)
    compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=1.0), "adam").fit(
        x, y, epochs=3, shuffle=False, verbose=0
    )
    alone.compile("adam", CE)
    alone.fit(x, y, epochs=3, shuffle=False, verbose=0)
    for one, other in zip(student.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_subclassed_models_with_their_logits_stated_by_hand(batch):
    class Net(keras.Model):
        def __init__(self, width):
            super().__init__()
            self.hidden, self.head = layers.Dense(width, activation="relu"), layers.Dense(3)

        def call(self, inputs):
            return self.head(self.hidden(inputs))

    x, y = batch
    teacher, student = Net(16), Net(4)
    teacher(x)
    distiller = Distiller(teacher, student, SoftTargets(4.0), from_logits=True)
    compiled(
        distiller,
        keras.optimizers.SGD(0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = distiller.fit(x, y, batch_size=len(x), verbose=0).history
    expected = expected_loss(student.get_weights(), teacher, x, y)
    assert_logs({key: values[0] for key, values in history.items()}, expected)


def test_an_unbuilt_student_is_built_by_fit(teacher, batch):
    student = keras.Sequential([layers.Dense(4, activation="relu"), layers.Dense(3, activation="softmax")])
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)), keras.optimizers.SGD(0.0))
    history = distiller.fit(*batch, batch_size=len(batch[0]), verbose=0).history
    expected = expected_loss(student.get_weights(), teacher, *batch)
    assert_logs({key: values[0] for key, values in history.items()}, expected)


def test_tensorboard_logs_every_term(teacher, student, batch, tmp_path):
    import tensorflow as tf  # the callback writes with it on every backend

    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    board = keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1)
    distiller.fit(*batch, epochs=2, verbose=0, validation_data=batch, callbacks=[board])
    tags = set()
    for path in tmp_path.rglob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {value.tag for value in event.summary.value}
    assert {"epoch_loss", "epoch_student_loss", "epoch_soft_targets", "epoch_accuracy"} <= tags


def test_other_class_counts_of_an_unbuilt_student_are_refused_by_fit(teacher, batch):
    student = keras.Sequential([layers.Dense(5, activation="softmax")])
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    with pytest.raises(ValueError, match="the same shape"):
        distiller.fit(*batch, verbose=0)


def test_the_public_names():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in distill.__all__:
            assert getattr(distill, name).__doc__


def test_sample_weight_without_labels_is_refused(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0))
    with pytest.raises(ValueError, match="Keras drops it without"):
        distiller.fit(batch[0], sample_weight=np.ones(len(batch[0])), verbose=0)


def test_a_term_named_like_a_metric_is_refused(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0, name="accuracy")))
    with pytest.raises(ValueError, match=r"\['accuracy'\], both a term of the loss and a compiled metric"):
        distiller.fit(*batch, verbose=0)


def test_compute_loss_by_hand(teacher, student, batch):
    x, y = batch
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    distiller.train_on_batch(x, y)  # Keras builds the compiled loss
    expected = expected_loss(student.get_weights(), teacher, x, y)["loss"]
    for y_pred in (distiller(x, training=True), None):
        np.testing.assert_allclose(as_numpy(distiller.compute_loss(x, y, y_pred)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="must be what the Distiller returns"):
        distiller.compute_loss(x, y, student(x))


@only_on("tensorflow", "jax", reason="torch keeps a module that is assigned beside a property, to no effect")
def test_the_student_stays(teacher, student):
    with pytest.raises(AttributeError):
        Distiller(teacher, student, SoftTargets()).student = dense_net(4)


@only_on("tensorflow", reason="jit_compile='auto' asks Keras' layers on TensorFlow")
def test_automatic_compilation_asks_the_teacher(teacher, student):
    def resolved(teacher):
        distiller = Distiller(teacher, student, SoftTargets(), from_logits=True)
        distiller._distribute_strategy = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)
            return distiller._resolve_auto_jit_compile()

    assert resolved(dense_net(16))
    assert not resolved(lambda x: x[:, :3])
