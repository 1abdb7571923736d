"""Temperatures and weights that follow a schedule of the step."""

import keras
import numpy as np
import pytest
from backend import BACKEND
from distilling import assert_logs, compiled, expected_loss, twin
from keras import ops

from distill import BernoulliSoftTargets, Distiller, SoftTargets
from distill.losses._settings import Setting

COOLING = keras.optimizers.schedules.PolynomialDecay(8.0, 4, end_learning_rate=2.0)


def temperature_at(step):
    return max(2.0, 8.0 - 1.5 * step)


def follow(distiller, batch, steps, **kwargs):
    """The logs of each batch of a fit."""
    seen = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    x, y = batch
    distiller.fit(
        x, y, batch_size=len(x), epochs=steps, shuffle=False, verbose=0, callbacks=[watch], **kwargs
    )
    return seen


@pytest.mark.parametrize("schedule", [COOLING, lambda step: ops.maximum(2.0, 8.0 - 1.5 * step)])
@pytest.mark.sweep(1)
def test_the_temperature_follows_its_schedule(teacher, student, batch, schedule):
    loss = SoftTargets(schedule)
    assert loss.temperature == 8.0
    distiller = compiled(Distiller(teacher, student, loss), keras.optimizers.SGD(0.0))
    logs = follow(distiller, batch, 6)
    for step, logged in enumerate(logs):
        expected = expected_loss(student.get_weights(), teacher, *batch, temperature=temperature_at(step))
        assert_logs(logged, {**expected, "soft_targets_temperature": temperature_at(step)})
    assert loss.temperature == temperature_at(5)


def test_every_weight_follows_its_schedule(teacher, student, batch):
    x, y = batch
    distiller = Distiller(
        [teacher, twin(teacher)],
        student,
        [SoftTargets(4.0), BernoulliSoftTargets(4.0)][:1],
        distillation_loss_weights=lambda step: 1.0 + step,
        student_loss_weight=lambda step: 0.25 * step,
        distillation_weight=lambda step: 3.0 - step,
        teacher_weights=[0.5, lambda step: 0.5 * step],
    )
    compiled(distiller, keras.optimizers.SGD(0.0))
    for step, logged in enumerate(follow(distiller, batch, 3)):
        terms = expected_loss(student.get_weights(), teacher, x, y)
        soft = (0.5 + 0.5 * step) * terms["soft_targets"]
        assert_logs(
            logged,
            {
                "student_loss_weight": 0.25 * step,
                "distillation_weight": 3.0 - step,
                "soft_targets_weight": 1.0 + step,
                "teacher_1_weight": 0.5 * step,
                "soft_targets": soft,
                "loss": 0.25 * step * terms["student_loss"] + (3.0 - step) * (1.0 + step) * soft,
            },
        )


def test_an_epoch_logs_the_mean_over_its_steps(teacher, student, batch):
    x, y = batch
    distiller = compiled(Distiller(teacher, student, SoftTargets(COOLING)), keras.optimizers.SGD(0.0))
    history = distiller.fit(x, y, batch_size=20, epochs=2, shuffle=False, verbose=0).history
    expected = [np.mean([temperature_at(step) for step in steps]) for steps in ((0, 1), (2, 3))]
    np.testing.assert_allclose(history["soft_targets_temperature"], expected, rtol=1e-6)


def test_steps_go_on_over_fits_and_saved_weights(teacher, student, batch, tmp_path):
    def make():
        return compiled(Distiller(teacher, student, SoftTargets(COOLING)), keras.optimizers.SGD(0.0))

    first = make()
    follow(first, batch, 2)
    assert follow(first, batch, 1)[0]["soft_targets_temperature"] == temperature_at(2)
    first.save_weights(tmp_path / "a.weights.h5")
    second = make()
    second.load_weights(tmp_path / "a.weights.h5")
    assert follow(second, batch, 1)[0]["soft_targets_temperature"] == temperature_at(3)


@pytest.mark.parametrize(
    "mode",
    [
        {"run_eagerly": True},
        pytest.param(
            {"steps_per_execution": 2},
            marks=pytest.mark.skipif(BACKEND == "torch", reason="Keras has no steps_per_execution on torch"),
        ),
    ],
)
def test_schedules_run_inside_the_step_in_every_mode(teacher, student, batch, mode):
    x, y = batch
    loss = SoftTargets(COOLING)
    distiller = compiled(Distiller(teacher, student, loss), **mode)
    distiller.fit(x, y, batch_size=20, epochs=2, shuffle=False, verbose=0)
    assert loss.temperature == temperature_at(3)


def test_evaluation_is_no_step(teacher, student, batch):
    loss = SoftTargets(COOLING)
    distiller = compiled(Distiller(teacher, student, loss), keras.optimizers.SGD(0.0))
    logs = distiller.fit(*batch, batch_size=40, epochs=2, verbose=0, validation_data=batch).history
    assert not any(key.startswith("val_soft") for key in logs)
    distiller.evaluate(*batch, verbose=0)
    assert loss.temperature == temperature_at(1)


def test_a_scheduled_student_weight_needs_labels_from_the_start(teacher, student, batch):
    distiller = Distiller(
        teacher, student, SoftTargets(4.0), student_loss_weight=lambda step: ops.cast(step > 5, "float32")
    )
    assert distiller.student_loss_weight == 0
    with pytest.raises(ValueError, match="needs the student's own loss"):
        distiller.compile("sgd")
    with pytest.raises(ValueError, match="needs labels"):
        compiled(distiller).fit(batch[0], verbose=0)


def test_what_follows_a_schedule_is_not_set_by_hand(teacher, student):
    loss = SoftTargets(COOLING)
    with pytest.raises(ValueError, match="temperature follows a schedule"):
        loss.temperature = 3.0
    distiller = Distiller(
        teacher,
        student,
        [loss, SoftTargets(1.0)],
        distillation_loss_weights=[lambda step: 1.0, 2.0],
        student_loss_weight=lambda step: 0.5,
    )
    with pytest.raises(ValueError, match="student_loss_weight follows a schedule"):
        distiller.student_loss_weight = 0.1
    with pytest.raises(ValueError, match="soft_targets_weight follows a schedule"):
        distiller.distillation_loss_weights = [1.0, 5.0]
    assert distiller.distillation_loss_weights == (1.0, 2.0)  # all or none


def test_a_schedule_that_leaves_its_range_shows(teacher, student, batch):
    loss = SoftTargets(lambda step: 2.0 - step)
    distiller = compiled(Distiller(teacher, student, loss), keras.optimizers.SGD(0.0))
    logs = follow(distiller, batch, 3)
    assert np.isfinite([logged["loss"] for logged in logs[:2]]).all()
    assert np.isnan(logs[2]["loss"])
    assert np.isnan(logs[2]["soft_targets_temperature"])


WRONG_SCHEDULES = {
    "out of range at the start": (lambda step: -1.0, "temperature must be a number from"),
    "not a scalar": (lambda step: np.ones(2), r"float64 of shape \(2,\) at step 0"),
    "a class": (keras.optimizers.schedules.ExponentialDecay, "the class ExponentialDecay"),
    "text": (lambda step: "4", "Received: a schedule of temperature"),
}


@pytest.mark.parametrize("case", WRONG_SCHEDULES)
def test_wrong_schedules_are_refused(case):
    schedule, message = WRONG_SCHEDULES[case]
    with pytest.raises(ValueError, match=message):
        Setting("temperature", schedule, low=1e-6, high=1e6)


def test_a_schedule_survives_the_losss_config():
    loss = SoftTargets(COOLING, name="cooling")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.name == "cooling"
    assert float(ops.convert_to_numpy(again.settings[0].schedule(2))) == temperature_at(2)


def test_one_loss_object_may_stand_twice(teacher, student, batch):
    loss = SoftTargets(COOLING)
    distiller = compiled(Distiller(teacher, student, [loss, loss]), keras.optimizers.SGD(0.0))
    logs = follow(distiller, batch, 2)[1]
    assert_logs(
        logs, {"soft_targets": logs["soft_targets_1"], "soft_targets_1_temperature": temperature_at(1)}
    )


@pytest.mark.skipif(BACKEND == "torch", reason="steps are not compiled on torch, so Python's own if works")
@pytest.mark.parametrize(
    "schedule", [lambda s: 4.0 if s < 3 else 2.0, lambda s: max(2.0, 8.0 - s), lambda s: np.exp(-s)]
)
def test_schedules_that_cannot_be_compiled_are_refused_at_once(schedule):
    with pytest.raises(ValueError, match=r"must compute with keras.ops"):
        SoftTargets(schedule)
