"""Weights and settings may change during training, without compiling again."""

import keras
import numpy as np
import pytest
from distilling import assert_logs, compiled, expected_loss

from distill import Distiller, SoftTargets


def test_settings_take_effect_between_fits_without_compiling_again(teacher, student, batch):
    x, y = batch
    loss = SoftTargets(4.0)
    distiller = compiled(
        Distiller(teacher, student, loss, student_loss_weight=0.5), keras.optimizers.SGD(0.0)
    )
    first = distiller.fit(x, y, verbose=0).history
    train_function = distiller.train_function
    loss.temperature = 1.5
    distiller.student_loss_weight = 0.125
    distiller.distillation_loss_weights = 3.0
    second = distiller.fit(x, y, verbose=0).history
    assert distiller.train_function is train_function
    assert_logs(
        {k: v[0] for k, v in first.items()}, expected_loss(student.get_weights(), teacher, x, y, w=0.5)
    )
    now = expected_loss(student.get_weights(), teacher, x, y, temperature=1.5)
    total = 0.125 * now["student_loss"] + 0.875 * 3.0 * now["soft_targets"]
    assert_logs({k: v[0] for k, v in second.items()}, {**now, "loss": total})
    assert (distiller.student_loss_weight, distiller.distillation_weight) == (0.125, 0.875)
    assert distiller.distillation_loss_weights == (3.0,)


def test_settings_take_effect_inside_a_fit(teacher, student, batch):
    x, y = batch
    loss = SoftTargets(1.0)
    distiller = compiled(Distiller(teacher, student, loss), keras.optimizers.SGD(0.0))

    def warm_up(epoch, logs):
        loss.temperature = 1.0 + epoch

    callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=warm_up)]
    history = distiller.fit(x, y, epochs=3, verbose=0, callbacks=callbacks).history
    for epoch in range(3):
        expected = expected_loss(student.get_weights(), teacher, x, y, temperature=1.0 + epoch)
        assert_logs({k: v[epoch] for k, v in history.items()}, expected)


def test_distillation_weight_of_its_own_can_change(teacher, student):
    apart = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=1.0, distillation_weight=0.9)
    apart.distillation_weight = 2.0
    np.testing.assert_allclose((apart.student_loss_weight, apart.distillation_weight), (1.0, 2.0))
    tied = Distiller(teacher, student, SoftTargets(4.0), student_loss_weight=0.5)
    with pytest.raises(ValueError, match="distillation_weight to the constructor"):
        tied.distillation_weight = 2.0


def test_settings_refuse_wrong_values_and_keep_the_old(teacher, student):
    distiller = Distiller(teacher, student, SoftTargets(4.0))
    for name, value in (("student_loss_weight", 2.0), ("distillation_loss_weights", [1.0, 1.0])):
        with pytest.raises(ValueError, match=name):
            setattr(distiller, name, value)
    np.testing.assert_allclose(distiller.student_loss_weight, 0.1)
    assert distiller.distillation_loss_weights == (1.0,)


def test_weights_of_several_outputs_are_set_together(batch):
    def two():
        inputs = keras.Input((6,))
        return keras.Model(inputs, {name: keras.layers.Dense(3, "softmax")(inputs) for name in "ab"})

    losses = {"a": SoftTargets(), "b": SoftTargets(name="other")}
    distiller = Distiller(two(), two(), losses, distillation_loss_weights={"a": 2.0, "b": 50.0})
    distiller.distillation_loss_weights = distiller.distillation_loss_weights
    assert distiller.distillation_loss_weights == (2.0, 50.0)
    with pytest.raises(ValueError, match=r"for all outputs with losses.* Received: none for \['b'\]"):
        distiller.distillation_loss_weights = {"a": 3.0}
    assert distiller.distillation_loss_weights == (2.0, 50.0)
    distiller.distillation_loss_weights = {"a": 3.0, "b": 4.0}
    assert distiller.distillation_loss_weights == (3.0, 4.0)
