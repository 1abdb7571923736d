"""Models and weights in files that are written whole or not at all."""

import os
import resource

import keras
import numpy as np
import pytest
from conftest import dense_net
from keras import layers

import distill

FORMS = ("w.weights.h5", "m.keras", "m.h5")


@pytest.mark.parametrize("form", FORMS)
def test_what_is_saved_is_what_keras_reads(tmp_path, form):
    saved, model = dense_net(4), dense_net(4)
    path = tmp_path / form
    for _ in range(2):  # the second replaces the first
        saved.set_weights([w + 1 for w in saved.get_weights()])
        (distill.save_weights if form.endswith(".weights.h5") else distill.save_model)(saved, path)
        model.load_weights(path)
        assert all(
            np.array_equal(a, b) for a, b in zip(saved.get_weights(), model.get_weights(), strict=True)
        )
        assert os.listdir(tmp_path) == [form]


@pytest.mark.parametrize("form", [*FORMS, "student.keras"])
def test_a_full_disk_leaves_the_old_file(tmp_path, teacher, form):
    small, large = dense_net(4), dense_net(20000)
    path = tmp_path / form
    write = distill.save_weights if form.endswith(".weights.h5") else distill.save_model
    write(small, path)
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if form == "student.keras":
        distiller = distill.Distiller(teacher, large, distill.SoftTargets(1.0))
        write = lambda model, path: distiller.save(path)  # noqa: E731
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, limit[1])
    )  # Python ignores the signal, so that writing fails
    try:
        with pytest.raises(OSError, match="File too large"):
            write(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [form]


def test_endings_folders_and_unbuilt_models_are_checked_first(tmp_path, student):
    with pytest.raises(ValueError, match="The path of a model must end in .keras or .h5 or .hdf5"):
        distill.save_model(student, tmp_path / "m.json")
    with pytest.raises(ValueError, match="The path of weights must end in .weights.h5"):
        distill.save_weights(student, tmp_path / "m.h5")
    with pytest.raises(
        FileNotFoundError, match="No such folder: '.*nowhere'. Create it before saving '.*nowhere/m.keras'"
    ):
        distill.save_model(student, tmp_path / "nowhere" / "m.keras")
    with pytest.raises(ValueError, match="must be built before it can be saved"):
        distill.save_model(keras.Sequential([layers.Dense(2)]), tmp_path / "m.keras")
    assert os.listdir(tmp_path) == []


def test_a_layer_that_cannot_be_saved_is_no_fault_of_the_disk(tmp_path):
    class Applies(keras.layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, x):
            return self.function(x)

    model = keras.Sequential([keras.Input((4,)), Applies(lambda x: x)])
    with pytest.raises(NotImplementedError, match="Applies"):
        distill.save_model(model, tmp_path / "m.keras")
    assert not (tmp_path / "m.keras").exists()
