"""Zeros that stay, whatever trains the model."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from pruned_nets import LOSS, compiled, kernels_of, net, zeros_of

import distill
from distill import pruning

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
    "accumulation": lambda: keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.sweep(2)
def test_zeros_stay_exactly_zero_and_the_others_move(name, jit, batch):
    if jit and keras.backend.backend() == "torch":
        pytest.skip("torch.compile warns, and does so for plain Keras models too")
    if jit and name == "loss scaling":
        pytest.skip("its skipped steps are a tf.cond on variables that XLA cannot compile in Keras 3.15")
    model = net()
    pruning.prune(model, 0.5)
    before = kernels_of(model)
    model.compile(OPTIMIZERS[name](), loss=LOSS, jit_compile=jit)
    callbacks = [pruning.KeepZeros()] if name == "ema" else []
    model.fit(*batch, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    for key, value in kernels_of(model).items():
        np.testing.assert_array_equal(value == 0, before[key] == 0)
        assert not np.signbit(value[value == 0]).any()
        moved = value[value != 0] != before[key][value != 0]
        assert moved.mean() > 0.6  # those into a dead ReLU do not


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_zeros_stay_under_mixed_precision(policy, batch):
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", dtype=policy, name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(3, dtype=policy, name="head")(x))
    pruning.prune(model, 0.5)
    before = kernels_of(model)
    model.compile(keras.optimizers.Adam(0.01), loss=LOSS)
    model.fit(*batch, batch_size=8, epochs=2, verbose=0)
    for key, value in kernels_of(model).items():
        np.testing.assert_array_equal(value == 0, before[key] == 0)


def test_a_model_that_was_trained_before_is_traced_again(batch):
    model = net()
    model.compile("adam", loss=LOSS)
    model.fit(*batch, verbose=0)
    pruning.prune(model, 0.5)
    model.fit(*batch, verbose=0)
    assert zeros_of(model) == [24, 12]
    pruning.strip_pruning(model)
    model.fit(*batch, verbose=0)
    assert zeros_of(model) == [0, 0]


@pytest.mark.parametrize("given", ["distiller", "student"])
@pytest.mark.sweep(1)
def test_a_distiller_prunes_its_student_and_keeps_the_zeros(given, teacher, batch):
    student = net()
    distiller = distill.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile("adam", loss=LOSS)
    distiller.fit(*batch, verbose=0)
    before = [np.array(w) for w in teacher.weights]
    pruning.prune(distiller if given == "distiller" else student, 0.5)
    distiller.fit(*batch, epochs=2, verbose=0)
    assert zeros_of(student) == [24, 12]
    for old, new in zip(before, teacher.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_constraint_that_was_there_holds_as_well_and_comes_back(batch):
    inputs = keras.Input((6,))
    own = keras.constraints.NonNeg()
    model = keras.Model(inputs, layers.Dense(3, kernel_constraint=own)(inputs))
    pruning.prune(model, 0.5)
    model.compile(keras.optimizers.SGD(0.5), loss=LOSS)
    model.fit(*batch, epochs=3, verbose=0)
    kernel = model.layers[1].kernel
    assert (np.array(kernel) >= 0).all()
    assert (np.array(kernel) == 0).sum() >= 9
    assert pruning.strip_pruning(model) is model
    assert kernel.constraint is own


def test_what_is_not_a_number_does_not_come_through_a_mask():
    model = net()
    pruning.prune(model, 0.5)
    kernel = model.get_layer("hidden").kernel
    mask = kernel.constraint
    out = keras.ops.convert_to_numpy(mask(np.full((6, 8), np.nan, "float32")))
    np.testing.assert_array_equal(np.isnan(out), np.array(mask.kept))


def test_a_file_needs_nothing_of_this_library_and_its_zeros_can_be_kept(tmp_path, batch):
    model = net()
    pruning.prune(model, 0.5)
    model.save(tmp_path / "pruned.keras")
    with zipfile.ZipFile(tmp_path / "pruned.keras") as file:
        assert b"distill" not in file.read("config.json")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    for old, new in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    found = pruning.keep_zeros(loaded)
    assert found.zeros == 36
    loaded.compile("adam", loss=LOSS)
    loaded.fit(*batch, epochs=2, verbose=0)
    assert zeros_of(loaded) == [24, 12]


def test_masks_of_layers_that_changed_since_are_stripped():
    model = compiled()
    pruning.prune(model, 0.5)
    model.get_layer("hidden").enable_lora(2)
    pruning.strip_pruning(model)
    assert all(variable.constraint is None for variable in model.variables)
