"""Habits and mistakes of Keras users that once went wrong in silence or deep inside Keras."""

import keras
import numpy as np
import pytest
import reference
from backend import FLOAT64, as_numpy
from conftest import dense_net
from keras import layers
from test_distiller import CE, assert_logs, compiled, expected_loss

from distill import Distiller, SoftTargets


@pytest.mark.parametrize("validation", ["unlabelled", "nothing compiled"])
def test_validation_that_has_nothing_to_report_is_refused(teacher, student, batch, validation):
    """Otherwise `val_loss` would be 0 for ever, and EarlyStopping would believe it."""
    x, y = batch
    distiller = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0)
    distiller.compile("adam", metrics=["accuracy"] if validation == "unlabelled" else None)
    data = (x,) if validation == "unlabelled" else (x, y)
    with pytest.raises(
        ValueError, match="Evaluation and validation report the student's own loss and metrics"
    ):
        distiller.fit(x, verbose=0, validation_data=data)


def test_sample_weight_without_labels_is_refused(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0))
    with pytest.raises(ValueError, match="Keras drops sample_weight"):
        distiller.fit(batch[0], sample_weight=np.ones(len(batch[0])), verbose=0)


def test_a_term_named_like_a_metric_is_refused(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0, name="accuracy")))
    with pytest.raises(ValueError, match=r"\['accuracy'\], both a term of the loss and a compiled metric"):
        distiller.fit(*batch, verbose=0)


def test_weights_loaded_into_a_distiller_without_a_loss_are_noticed(teacher, student, batch, tmp_path):
    first = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    first.fit(*batch, verbose=0)
    first.save_weights(tmp_path / "a.weights.h5")
    second = Distiller(teacher, dense_net(4), SoftTargets(4.0), student_loss_weight=0)
    second.compile(keras.optimizers.SGD(0.1))
    second.load_weights(tmp_path / "a.weights.h5")
    assert second.student_loss_weight == 0.5
    with pytest.raises(ValueError, match="needs the student's own loss"):
        second.fit(*batch, verbose=0)


def test_compiling_again_forgets_the_earlier_loss(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0))
    distiller.compile("sgd")
    assert set(distiller.fit(*batch, verbose=0).history) == {"loss", "soft_targets"}


def test_losses_and_metrics_by_output_name(teacher, student, batch):
    x, y = batch
    expected = expected_loss(student.get_weights(), teacher, x, y)
    distiller = compiled(
        Distiller(teacher, student, SoftTargets(4.0)), loss={"head": CE}, metrics={"head": ["accuracy"]}
    )
    assert_logs(distiller.train_on_batch(x, y, return_dict=True), expected)


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


TOKENS = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [6, 7, 8, 1, 2]], "int32")


@pytest.mark.parametrize("from_logits", [None, False])
def test_masked_tokens_do_not_count(from_logits):
    teacher, student = token_net(8), token_net(3)
    kept = TOKENS.ravel() != 0
    logits = [
        np.log(as_numpy(net(TOKENS)).astype("float64").reshape(-1, 4)[kept]) for net in (teacher, student)
    ]
    expected = reference.soft_targets(*logits, 4.0).mean()
    distiller = Distiller(teacher, student, SoftTargets(4.0), from_logits=from_logits)
    logs = compiled(distiller, metrics=None).train_on_batch(TOKENS, TOKENS % 4, return_dict=True)
    assert_logs(logs, {"soft_targets": expected}, rtol=1e-4)


def test_losses_of_keras_distillation_with_masked_students():
    teacher, student = token_net(8), token_net(3)
    expected = np.mean((as_numpy(teacher(TOKENS)) - as_numpy(student(TOKENS))) ** 2)
    distiller = Distiller(teacher, student, keras.distillation.FeatureDistillation("mse"))
    logs = compiled(distiller, metrics=None).train_on_batch(TOKENS, TOKENS % 4, return_dict=True)
    assert_logs(logs, {"feature_distillation": expected})


def test_a_quantized_teacher_teaches(student, batch):
    teacher = dense_net(16)
    for name in ("hidden", "head"):  # the whole model would warn that its input layer has no int8 form
        teacher.get_layer(name).quantize("int8")
    logits = [np.log(as_numpy(net(batch[0])).astype("float64")) for net in (teacher, student)]
    expected = reference.soft_targets(*logits, 4.0)
    logs = compiled(Distiller(teacher, student, SoftTargets(4.0))).train_on_batch(*batch, return_dict=True)
    assert_logs(logs, {"soft_targets": expected.mean()}, rtol=1e-4)


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


def test_a_class_in_place_of_a_loss(teacher, student):
    with pytest.raises(ValueError, match=r"Call it: SoftTargets\(\)"):
        Distiller(teacher, student, SoftTargets)


def test_a_distiller_is_no_student(teacher, student):
    with pytest.raises(ValueError, match=r"Pass its \.student"):
        Distiller(dense_net(16), Distiller(teacher, student, SoftTargets()), SoftTargets())


def test_weights_as_an_array(teacher, student):
    distiller = Distiller(teacher, student, [SoftTargets(1.0), SoftTargets(2.0)], np.array([1.0, 2.0]))
    assert distiller.distillation_loss_weights == (1.0, 2.0)


def test_compute_loss_by_hand(teacher, student, batch):
    x, y = batch
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    distiller.train_on_batch(x, y)  # Keras builds the compiled loss
    expected = expected_loss(student.get_weights(), teacher, x, y)["loss"]
    for y_pred in (distiller(x, training=True), None):
        np.testing.assert_allclose(as_numpy(distiller.compute_loss(x, y, y_pred)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="it is what the Distiller returns"):
        distiller.compute_loss(x, y, student(x))


def test_a_step_traced_without_labels_is_not_used_when_they_count_again(teacher, student, batch, tmp_path):
    counting = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    counting.fit(*batch, verbose=0)
    counting.save_weights(tmp_path / "a.weights.h5")
    distiller = compiled(Distiller(teacher, dense_net(4), SoftTargets(4.0), student_loss_weight=0))
    distiller.fit(batch[0], verbose=0)
    distiller.load_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="needs labels"):
        distiller.fit(batch[0], verbose=0)
