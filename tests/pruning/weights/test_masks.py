"""Pruning in one shot, and zeros that stay."""

import re
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
from conftest import dense_net
from keras import layers

import distill
from distill import pruning
from distill.pruning import Blocks, NofM, criteria

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(**kwargs):
    return dense_net(8, activation=None, **kwargs)


def kernels_of(model):
    return {k.name: np.array(k.variable) for k in pruning.find_kernels(model).found}


def zeros_of(model):
    return {name: int((value == 0).sum()) for name, value in kernels_of(model).items()}


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.8, 0.99])
def test_each_layer_has_the_zeros_asked_for_and_they_are_the_smallest(sparsity):
    model = net()
    before = kernels_of(model)
    found = pruning.prune(model, sparsity)
    for (name, value), row in zip(kernels_of(model).items(), found.kernels, strict=True):
        zeros = min(round(value.size * sparsity), value.size - 1)
        assert (row.name, row.shape, row.zeros, row.weights) == (name, value.shape, zeros, value.size)
        assert np.count_nonzero(value) == value.size - zeros
        np.testing.assert_array_equal(value[value != 0], before[name][value != 0])
        if zeros:
            assert np.abs(before[name])[value == 0].max() <= np.abs(value[value != 0]).min()
    np.testing.assert_array_equal(model.get_layer("hidden").bias, np.zeros(8))


@pytest.mark.parametrize(
    "value",
    [np.full((6, 8), 0.5), np.zeros((6, 8)), np.where(np.arange(48).reshape(6, 8) < 44, 0, 1.0)],
    ids=["all equal", "all zero", "mostly zero"],
)
def test_equal_and_zero_weights_are_cut_to_the_number_too(value):
    model = net()
    model.get_layer("hidden").kernel.assign(value)
    pruning.prune(model, 0.75)
    mask = np.array(model.get_layer("hidden").kernel.constraint.kept)
    assert mask.sum() == 12
    if value.any():
        assert mask[value == value.max()][:12].all()  # the first of equal ones stay


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_the_number_is_exact_whatever_the_dtype(dtype):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is told to")
    inputs = keras.Input((64,), dtype=dtype)
    model = keras.Model(inputs, layers.Dense(64, dtype=dtype)(inputs))
    before = np.array(model.layers[1].kernel).astype("float64")
    pruning.prune(model, 0.8)
    after = np.array(model.layers[1].kernel)
    assert after.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert (after == 0).sum() == round(0.8 * 4096)
    np.testing.assert_array_equal(after[after != 0].astype("float64"), before[after != 0])


def test_a_count_and_a_threshold():
    model = net()
    assert [row.zeros for row in pruning.prune(model, zeros=5).kernels] == [5, 5]
    assert pruning.prune(model, zeros=20, scope="global").zeros == 20
    before = kernels_of(model)
    pruning.prune(model, threshold=0.3)
    for name, value in kernels_of(model).items():
        np.testing.assert_array_equal(value, np.where(np.abs(before[name]) < 0.3, 0, before[name]))
    pruning.prune(model, threshold=100)
    assert zeros_of(model) == {"hidden/kernel": 48, "head/kernel": 24}


def test_global_pruning_cuts_where_weights_are_small():
    model = net()
    model.get_layer("hidden").kernel.assign(np.full((6, 8), 0.1))
    model.get_layer("head").kernel.assign(np.full((8, 3), 0.2))
    assert pruning.prune(model, 0.5, scope="global").zeros == 36
    assert zeros_of(model) == {"hidden/kernel": 36, "head/kernel": 0}


def test_blocks_and_two_of_four():
    model = net()
    found = pruning.prune(model, pattern=NofM(2, 4), include="head")
    assert found.sparsity == 0.5
    kept = kernels_of(model)["head/kernel"] != 0
    np.testing.assert_array_equal(kept.reshape(2, 4, 3).sum(1), 2)
    found = pruning.prune(model, 0.5, pattern=Blocks((2, 4)), include="hidden")
    blocks = kernels_of(model)["hidden/kernel"].reshape(3, 2, 2, 4) != 0
    assert sorted(blocks.sum((1, 3)).ravel()) == [0, 0, 0, 8, 8, 8]


def test_what_a_pattern_does_not_fit_is_listed():
    found = pruning.prune(net(), pattern=NofM(2, 4))
    assert [row.name for row in found.kernels] == ["head/kernel"]
    assert found.skipped == {"hidden/kernel": "its 6 input channels are no multiple of 4"}
    with pytest.raises(ValueError, match="which fits no kernel: hidden/kernel: its 6 input channels"):
        pruning.prune(net(), pattern=NofM(2, 4), include="hidden")


def test_random_scores_are_drawn_from_the_seed():
    masks = []
    for seed in (1, 1, 2):
        model = net()
        pruning.prune(model, 0.5, criterion=criteria.random(seed))
        assert zeros_of(model) == {"hidden/kernel": 24, "head/kernel": 12}
        masks.append(np.array(model.get_layer("hidden").kernel.constraint.kept))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_more_is_cut_of_the_same():
    model = net()
    pruning.prune(model, 0.5, criterion=criteria.random(1))
    before = kernels_of(model)
    pruning.prune(model, 0.75, criterion=criteria.random(2))
    for name, value in kernels_of(model).items():
        assert not value[before[name] == 0].any()
        assert (value == 0).sum() == 0.75 * value.size


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
    assert zeros_of(model) == {"hidden/kernel": 24, "head/kernel": 12}
    pruning.strip_pruning(model)
    model.fit(*batch, verbose=0)
    assert zeros_of(model) == {"hidden/kernel": 0, "head/kernel": 0}


@pytest.mark.parametrize("given", ["distiller", "student"])
def test_a_distiller_prunes_its_student_and_keeps_the_zeros(given, teacher, batch):
    student = net()
    distiller = distill.Distiller(teacher, student, distill.SoftTargets(4.0))
    distiller.compile("adam", loss=LOSS)
    distiller.fit(*batch, verbose=0)
    before = [np.array(w) for w in teacher.weights]
    pruning.prune(distiller if given == "distiller" else student, 0.5)
    distiller.fit(*batch, epochs=2, verbose=0)
    assert zeros_of(student) == {"hidden/kernel": 24, "head/kernel": 12}
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
    assert zeros_of(loaded) == {"hidden/kernel": 24, "head/kernel": 12}


def test_the_table():
    model = net()
    shown = str(pruning.prune(model, pattern=NofM(2, 4)))
    assert shown.splitlines() == [
        "kernel       shape      weights        zeros  sparsity",
        "head/kernel  8 × 3           24           12    50.00%",
        "together                     24           12    50.00%",
        "not pruned: hidden/kernel (its 6 input channels are no multiple of 4)",
    ]


WRONG = {
    "nothing": ({}, "How much is cut is said once: by sparsity, zeros or threshold. Received: none of them"),
    "two ways": ({"sparsity": 0.5, "zeros": 3}, "said once"),
    "all": ({"sparsity": 1.0}, "0 <= sparsity < 1. Received: sparsity=1.0"),
    "percent": ({"sparsity": 80}, "0 <= sparsity < 1. Received: sparsity=80"),
    "negative": ({"sparsity": -0.1}, "0 <= sparsity < 1"),
    "nan": ({"sparsity": float("nan")}, "0 <= sparsity < 1"),
    "text": ({"sparsity": "0.5"}, "0 <= sparsity < 1"),
    "bool": ({"sparsity": True}, "0 <= sparsity < 1"),
    "too many": ({"zeros": 30}, "No more can be cut than there is. Received: zeros=30 where 24 compete"),
    "half a weight": ({"zeros": 2.5}, "zeros is a number of units >= 0. Received: zeros=2.5"),
    "threshold": ({"threshold": float("nan")}, "The threshold is a number"),
    "pattern and sparsity": ({"sparsity": 0.5, "pattern": NofM(2, 4)}, "says itself how much is cut"),
    "scope": ({"sparsity": 0.5, "scope": "model"}, "compete by 'layer', 'global' or 'output'"),
    "scores": (
        {"sparsity": 0.5, "criterion": lambda model, kernels: [np.ones(3) for _ in kernels]},
        "gives each weight a score. Received: scores (3,) for hidden/kernel (6, 8)",
    ),
    "fewer scores": ({"sparsity": 0.5, "criterion": lambda model, kernels: []}, "as many arrays"),
    "nan scores": (
        {"sparsity": 0.5, "criterion": lambda model, ks: [np.full(k.variable.shape, np.nan) for k in ks]},
        "each is a number. Received: NaN",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(arguments, message):
    model = net()
    before = model.get_weights()
    with pytest.raises(ValueError, match=re.escape(message)):
        pruning.prune(model, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(v.constraint is None for v in model.variables)
