"""Curriculum temperature: how it is trained and saved."""

import keras
import numpy as np
import pytest
from loss_checks import temperature_is_trained_against_the_student

import distill
from distill.losses import CurriculumTemperature


@pytest.mark.parametrize(("step", "epoch"), [(0, 0), (4, 4), (10, 10), (25, 25)])
def test_the_temperature_is_trained_against_the_student(step, epoch):
    temperature_is_trained_against_the_student(step, epoch)


def test_a_curriculum_temperature_trains_in_a_distiller_and_stays_out_of_the_student(
    teacher, student, batch, tmp_path
):
    loss = CurriculumTemperature(steps=2)
    distiller = distill.Distiller(teacher, student, loss, **loss.recipe)
    distiller.compile(keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
    before = loss.temperature
    history = distiller.fit(*batch, epochs=6, verbose=0).history
    assert abs(loss.temperature - before) > 1e-4
    assert history["curriculum_temperature_gradient_factor"][-1] == -1.0
    distiller.save(tmp_path / "student.keras")
    assert keras.models.load_model(tmp_path / "student.keras").count_params() == student.count_params()
    distiller.save_weights(tmp_path / "a.weights.h5")
    trained = loss.temperature
    loss.layers[0].set_weights([np.float32(0)])
    distiller.load_weights(tmp_path / "a.weights.h5")
    assert loss.temperature == trained
