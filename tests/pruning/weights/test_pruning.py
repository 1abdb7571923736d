"""Pruning in one shot: how much goes, what goes, and what cannot be meant."""

import re

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import layers
from pruned_nets import compiled, half, kernels_of, masks_of, net, zeros_of

from distill import pruning
from distill.pruning import Blocks, GradualPruning, NofM
from distill.pruning.weights import importance


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
    assert zeros_of(model) == [48, 24]


def test_global_pruning_cuts_where_weights_are_small():
    model = net()
    model.get_layer("hidden").kernel.assign(np.full((6, 8), 0.1))
    model.get_layer("head").kernel.assign(np.full((8, 3), 0.2))
    assert pruning.prune(model, 0.5, scope="global").zeros == 36
    assert zeros_of(model) == [36, 0]


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
    assert found.skipped == {"hidden/kernel": "its 6 input channels are not a multiple of 4"}
    with pytest.raises(
        ValueError, match="fits no kernel, so nothing can be pruned. hidden/kernel: its 6 input"
    ):
        pruning.prune(net(), pattern=NofM(2, 4), include="hidden")


def test_random_scores_are_drawn_from_the_seed():
    masks = []
    for seed in (1, 1, 2):
        model = net()
        pruning.prune(model, 0.5, importance=importance.random(seed))
        assert zeros_of(model) == [24, 12]
        masks.append(np.array(model.get_layer("hidden").kernel.constraint.kept))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_more_is_cut_of_the_same():
    model = net()
    pruning.prune(model, 0.5, importance=importance.random(1))
    before = kernels_of(model)
    pruning.prune(model, 0.75, importance=importance.random(2))
    for name, value in kernels_of(model).items():
        assert not value[before[name] == 0].any()
        assert (value == 0).sum() == 0.75 * value.size


def test_weights_that_were_replaced_are_judged_anew():
    model = compiled()
    weights = model.get_weights()
    pruning.prune(model, 0.9)
    model.set_weights(weights)
    pruning.prune(model, 0.5)
    after = model.get_weights()
    model.set_weights(weights)
    pruning.strip_pruning(model)
    pruning.prune(model, 0.5)
    for a, b in zip(after, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_blocks_after_elements_are_judged_by_what_is_left():
    model = keras.Sequential([keras.Input((16,)), layers.Dense(16, use_bias=False)])
    pruning.prune(model, 0.25)
    kernel = np.abs(np.array(model.layers[0].kernel))
    pruning.prune(model, 0.5, pattern=Blocks((4, 4)))
    means = kernel.reshape(4, 4, 4, 4).mean((1, 3))
    kept = masks_of(model)[0].reshape(4, 4, 4, 4).any((1, 3))
    assert kept.sum() == 8
    assert means[kept].min() >= means[~kept].max()


class Three(keras.Model):
    def __init__(self):
        super().__init__()
        self.p, self.r, self.q = layers.Dense(8, name="proj"), layers.Dense(6), layers.Dense(8, name="proj")
        self.unused = layers.Dense(4, name="unused")

    def call(self, x):
        return self.q(self.r(self.p(x)))


@pytest.mark.filterwarnings("ignore:.build... was called on layer")  # Keras, of the layer that is not used
def test_layers_of_one_name_and_layers_that_are_not_built():
    model = Three()
    model(np.zeros((2, 8), "float32"))
    found = pruning.prune(model, pattern=NofM(2, 4))
    assert [row.name for row in found.kernels] == ["proj/kernel", f"{model.r.name}/kernel"]
    assert found.skipped == {
        "proj/kernel:2": "its 6 input channels are not a multiple of 4",
        "unused": "Dense is not built",
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scope": "model"}, ValueError, "scope must be 'layer', 'global' or 'output'"),
        ({"pattern": Blocks((2, 2)), "scope": "output"}, ValueError, "Blocks span several outputs"),
        ({"pattern": NofM}, TypeError, "pattern must be Elements(), Blocks(shape) or NofM(keep, of)"),
        ({"pattern": "2:4"}, TypeError, "pattern must be"),
        ({"importance": "magnitude"}, TypeError, "importance must be a function of a model and its kernels"),
        (
            {"importance": importance.random},
            TypeError,
            "such as importance.magnitude or importance.random(0)",
        ),
    ],
)
def test_mistakes_are_seen_before_any_training(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        GradualPruning(half, **arguments)
    with pytest.raises(error, match=re.escape(message)):
        pruning.prune(compiled(), 0.5, **arguments)


WRONG = {
    "nothing": ({}, "Exactly one of sparsity, zeros and threshold must be given. Received: none of them"),
    "two ways": ({"sparsity": 0.5, "zeros": 3}, "must be given. Received: {'sparsity': 0.5, 'zeros': 3}"),
    "all": ({"sparsity": 1.0}, "0 <= sparsity < 1. Received: sparsity=1.0"),
    "percent": ({"sparsity": 80}, "0 <= sparsity < 1. Received: sparsity=80"),
    "negative": ({"sparsity": -0.1}, "0 <= sparsity < 1"),
    "nan": ({"sparsity": float("nan")}, "0 <= sparsity < 1"),
    "text": ({"sparsity": "0.5"}, "0 <= sparsity < 1"),
    "bool": ({"sparsity": True}, "0 <= sparsity < 1"),
    "too many": (
        {"zeros": 30},
        "not exceed the number of units that compete. Received: zeros=30, where 24 compete",
    ),
    "half a weight": ({"zeros": 2.5}, "zeros must be an integer >= 0. Received: zeros=2.5"),
    "threshold": ({"threshold": float("nan")}, "threshold must be a finite number. Received: threshold=nan"),
    "pattern and sparsity": (
        {"sparsity": 0.5, "pattern": NofM(2, 4)},
        "must be left out. Received: {'sparsity': 0.5}",
    ),
    "scope": ({"sparsity": 0.5, "scope": "model"}, "scope must be 'layer', 'global' or 'output'"),
    "scores": (
        {"sparsity": 0.5, "importance": lambda model, kernels: [np.ones(3) for _ in kernels]},
        "must return one score per weight. Received: scores of shape (3,) for hidden/kernel of shape (6, 8)",
    ),
    "fewer scores": (
        {"sparsity": 0.5, "importance": lambda model, kernels: []},
        "Received: 0 arrays for 2 kernels",
    ),
    "nan scores": (
        {"sparsity": 0.5, "importance": lambda model, ks: [np.full(k.variable.shape, np.nan) for k in ks]},
        "Scores must be numbers, because they decide what is pruned. Received: NaN",
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


def test_the_weights_of_a_table_compete_with_one_another_where_outputs_do():
    """Each is an output of its own; alone, it would always stay."""
    inputs = keras.Input((3,), dtype="int32")
    model = keras.Model(inputs, layers.Flatten()(layers.Embedding(10, 4, name="table")(inputs)))
    before = np.abs(model.get_layer("table").embeddings)
    assert pruning.prune(model, 0.5, scope="output").sparsity == 0.5
    kept = np.array(model.get_layer("table").embeddings) != 0
    assert before[kept].min() > before[~kept].max()
