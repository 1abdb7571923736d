"""Parameters, and bytes of files."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from distill import cost


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def small_cnn():
    return sequential(
        (8, 8, 1), layers.Conv2D(2, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)
    )


def test_parameters_count_non_trainable_weights_and_shared_layers_once():
    assert cost.parameters(small_cnn()) == (9 * 2 + 2) + 4 * 2 + (72 * 3 + 3)
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    assert cost.parameters(keras.Model(inputs, shared(shared(inputs)))) == 4 * 4 + 4


def test_parameters_of_an_unbuilt_model_are_refused():
    with pytest.raises(
        ValueError, match=r"Only a built model has parameters\. Received: headless, .*keras\.Input"
    ):
        cost.parameters(keras.Sequential([layers.Dense(2)], name="headless"))


def test_file_bytes_is_the_size_of_a_file_that_loads(tmp_path):
    model = small_cnn()
    model.save(tmp_path / "model.keras")
    assert zipfile.is_zipfile(tmp_path / "model.keras")
    assert cost.file_bytes(model) == (tmp_path / "model.keras").stat().st_size
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 8, 8, 1)), np.zeros((2, 3)), verbose=0)
    model.save(tmp_path / "training.keras")
    shipped, training = ((tmp_path / f"{name}.keras").stat().st_size for name in ("model", "training"))
    assert cost.file_bytes(model) == shipped
    assert model.compiled
    assert model.optimizer.iterations == 1
    assert training > 1.1 * shipped
    wider = sequential((8, 8, 1), layers.Flatten(), layers.Dense(1000))
    assert 4 * cost.parameters(wider) < cost.file_bytes(wider) < 4 * cost.parameters(wider) + 40_000


class Plain(keras.Model):
    """Cannot be rebuilt from its config."""

    def __init__(self):
        super().__init__(name="plain")
        self.parts = [layers.Dense(4), layers.Dense(2)]

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs))


def test_a_compiled_model_of_ones_own_is_measured_without_its_optimizer(tmp_path):
    model = Plain()
    model(np.zeros((1, 3), "float32"))
    model.save(tmp_path / "model.keras")
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 3)), np.zeros((2, 2)), verbose=0)
    assert cost.file_bytes(model) == (tmp_path / "model.keras").stat().st_size


def test_zeros_make_files_smaller_that_leave_them_out():
    model = sequential((64,), layers.Dense(256, use_bias=False))
    kernel = np.random.default_rng(0).normal(size=(64, 256)).astype("float32")
    model.set_weights([kernel])
    dense = cost.sizes(model)
    model.set_weights([np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.9), 0, kernel)])
    pruned = cost.sizes(model)
    assert pruned.keras == dense.keras == cost.file_bytes(model)
    assert pruned.litert == dense.litert > 4 * kernel.size
    saved = 0.9 * 4 * kernel.size
    # The positions of what is left take room too: half a byte or less for each weight there was.
    for name in ("keras_gzip", "litert_gzip", "litert_sparse"):
        less = getattr(dense, name) - getattr(pruned, name)
        assert saved - kernel.size / 2 < less < saved, name
    assert dense.litert_sparse == pytest.approx(dense.litert, abs=2000)
