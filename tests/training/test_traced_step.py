"""A compiled step is traced anew when labels, losses or the student have changed."""

import keras
import numpy as np
import pytest
import reference
from backend import as_numpy, only_on
from conftest import dense_net
from distilling import assert_logs, compiled, expected_loss, forward

from distill import Distiller, SoftTargets


def test_a_student_weight_cannot_rise_over_a_step_that_has_no_student_loss(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0))
    distiller.fit(batch[0], verbose=0)
    with pytest.raises(ValueError, match=r"Call compile\(loss=\.\.\.\) again"):
        distiller.student_loss_weight = 0.5
    compiled(distiller)
    distiller.student_loss_weight = 0.5
    expected = expected_loss(distiller.student.get_weights(), teacher, *batch, w=0.5)
    distiller.reset_metrics()  # since Keras 3.15, compile does so
    assert_logs(distiller.train_on_batch(*batch, return_dict=True), expected)


def test_missing_labels_are_an_error_when_they_count(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0)))
    with pytest.raises(ValueError, match="needs labels.*student_loss_weight=0"):
        distiller.fit(batch[0], verbose=0)


def test_loss_is_required_when_it_counts(teacher, student):
    with pytest.raises(ValueError, match="needs the student's own loss. Received: loss=None"):
        Distiller(teacher, student, SoftTargets(4.0)).compile("adam")


def test_weights_loaded_into_a_distiller_without_a_loss_are_noticed(teacher, student, batch, tmp_path):
    first = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0.5))
    first.fit(*batch, verbose=0)
    first.save_weights(tmp_path / "a.weights.h5")
    second = Distiller(teacher, dense_net(4), SoftTargets(4.0), student_loss_weight=0)
    second.compile(keras.optimizers.SGD(0.1))
    second.load_weights(tmp_path / "a.weights.h5")
    assert second.student_loss_weight == 0.5
    with pytest.raises(ValueError, match="needs the student's own loss"):
        second.fit(*batch, verbose=0)


def test_a_step_traced_without_labels_is_not_used_when_they_count_again(teacher, student, batch, tmp_path):
    counting = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0.5))
    counting.fit(*batch, verbose=0)
    counting.save_weights(tmp_path / "a.weights.h5")
    distiller = compiled(Distiller(teacher, dense_net(4), SoftTargets(4.0), student_loss_weight=0))
    distiller.fit(batch[0], verbose=0)
    distiller.load_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="needs labels"):
        distiller.fit(batch[0], verbose=0)


@pytest.mark.parametrize("by_batch", [False, True])
@pytest.mark.sweep(1)
def test_labels_may_come_after_steps_without(teacher, student, batch, by_batch):
    distiller = Distiller(teacher, student, SoftTargets(), student_loss_weight=0)
    distiller.compile("sgd", metrics=["accuracy"])
    distiller.fit(batch[0], verbose=0)
    if by_batch:
        assert "accuracy" in distiller.train_on_batch(*batch, return_dict=True)
    else:
        assert "accuracy" in distiller.fit(*batch, verbose=0).history


def test_a_student_quantized_between_fits_goes_on(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets()), keras.optimizers.SGD(0.0))
    distiller.fit(*batch, verbose=0)
    student.get_layer("hidden").quantize("int8")
    compiled(distiller, keras.optimizers.SGD(0.0))
    expected = reference.soft_targets(
        forward(teacher.get_weights(), batch[0]), np.log(as_numpy(student(batch[0]))), 4.0
    ).mean()
    history = distiller.fit(*batch, batch_size=40, verbose=0).history
    np.testing.assert_allclose(history["soft_targets"][0], expected, rtol=1e-4)


def test_compiling_again_forgets_the_earlier_loss(teacher, student, batch):
    distiller = compiled(Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0))
    distiller.compile("sgd")
    assert set(distiller.fit(*batch, verbose=0).history) == {"loss", "soft_targets"}


@only_on("tensorflow", reason="quantize")
@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`:UserWarning")
def test_predictions_follow_a_student_that_was_quantized(teacher, student, batch):
    x, _ = batch
    distiller = Distiller(teacher, student, SoftTargets())
    distiller.compile("adam", loss="sparse_categorical_crossentropy")
    before = distiller.predict(x, verbose=0)
    student.quantize("int8")
    after = distiller.predict(x, verbose=0)
    np.testing.assert_array_equal(after, student.predict(x, verbose=0))
    assert not np.array_equal(after, before)


class Times(keras.constraints.Constraint):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, weights):
        return self.factor * weights


def test_another_constraint_in_place_of_one_is_followed(teacher, student, batch):
    """As the masks of a student that is pruned anew: there are as many as before."""
    x, y = batch
    kernel = student.get_layer("hidden").kernel
    distiller = compiled(Distiller(teacher, student, SoftTargets()))
    for factor in (1.0, 0.0):
        kernel.constraint = Times(factor)
        distiller.fit(x, y, verbose=0)
        assert np.any(as_numpy(kernel)) == bool(factor)
