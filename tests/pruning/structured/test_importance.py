"""Importances against plain numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.layers import Dense
from small_nets import net

from distill.pruning import find_kernels
from distill.pruning.structured import importance
from distill.pruning.structured._groups import find_groups
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._scoring import score_atoms
from distill.pruning.structured._tracing import read
from distill.pruning.weights import importance as of_single


@pytest.fixture
def model():
    """Two kernels make or read the 4 channels in the middle; a scale changes them."""
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(4, 3, name="made")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(3, 1, name="read")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(1)
    for variable in model.trainable_weights:
        variable.assign(rng.normal(size=variable.shape))
    return model


def scores_of(model, scored, **options):
    structure = read(model, rules_with())
    (group,) = (group for group in find_groups(structure) if group.atoms.size > 1)
    return score_atoms(structure, [group], scored, **options)[group.atoms]


def kernels(model):
    """One row a channel, of the kernel that makes it and of the one that reads it."""
    made, read_ = model.get_layer("made").kernel.numpy(), model.get_layer("read").kernel.numpy()
    return np.moveaxis(made, 3, 0).reshape(4, -1).astype(np.float64), read_[0, 0].astype(np.float64)


def test_norms_are_of_all_kernels_on_a_channel(model):
    made, read_ = kernels(model)
    absolute = np.abs(made).sum(1), np.abs(read_).sum(1)
    np.testing.assert_allclose(
        scores_of(model, importance.l1, normalize=None), np.mean(absolute, 0), rtol=1e-6
    )
    squares = (made**2).sum(1), (read_**2).sum(1)
    np.testing.assert_allclose(
        scores_of(model, importance.l2, normalize=None), np.mean(squares, 0), rtol=1e-6
    )


@pytest.mark.parametrize(("reduce", "reduced"), [("mean", np.mean), ("sum", np.sum), ("max", np.max)])
@pytest.mark.parametrize(("normalize", "by"), [("mean", np.mean), ("max", np.max), (None, lambda scores: 1)])
def test_scores_are_reduced_then_normalized(model, reduce, reduced, normalize, by):
    made, read_ = kernels(model)
    scores = reduced([np.abs(made).sum(1), np.abs(read_).sum(1)], axis=0)
    found = scores_of(model, importance.l1, reduce=reduce, normalize=normalize)
    np.testing.assert_allclose(found, scores / by(scores), rtol=1e-6)


def test_scales(model):
    expected = np.abs(model.get_layer("norm").gamma)
    np.testing.assert_allclose(
        scores_of(model, importance.batch_norm_scale, normalize=None), expected, rtol=1e-6
    )


def test_fpgm_is_the_sum_of_distances(model):
    made, _ = kernels(model)
    expected = [sum(np.linalg.norm(one - other) for other in made) for one in made]
    np.testing.assert_allclose(scores_of(model, importance.fpgm, normalize=None), expected, rtol=1e-5)


def test_lamp_is_over_what_is_as_large_or_larger(model):
    made, _ = kernels(model)
    squares = (made**2).sum(1)
    expected = [one / squares[squares >= one].sum() for one in squares]
    np.testing.assert_allclose(scores_of(model, importance.lamp, normalize=None), expected, rtol=1e-6)


def test_scores_of_weights_are_summed(model):
    found = scores_of(model, importance.of_weights(of_single.magnitude), normalize=None)
    np.testing.assert_allclose(found, scores_of(model, importance.l1, normalize=None), rtol=1e-6)
    x = np.random.default_rng(2).normal(size=(6, 5, 5, 2)).astype("float32")
    taylor = of_single.taylor((x, np.ones((6, 3), "float32")), "mse")
    found = scores_of(model, importance.of_weights(taylor), normalize=None)
    made, read_ = taylor(model, find_kernels(model).found)
    expected = made.sum((0, 1, 2)), read_.sum((0, 1, 3))
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-6)


def test_curvature_of_channels_is_that_of_their_weights():
    """Of mean((x A B - y)²) with diagonal matrices and y = 2 x A B, so that the Hessian is diagonal too."""
    x, a, b = np.array([[1.0, 2, 3, 4], [1, 3, 2, 1], [4, 1, 1, 2]])
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, use_bias=False), layers.Dense(4, use_bias=False)]
    )
    model.set_weights([np.diag(a), np.diag(b)])
    obd = of_single.obd((np.diag(x).astype("float32"), np.diag(2 * x * a * b).astype("float32")), "mse")
    of_each = 2 / 16 * (x * b) ** 2 * a**2 / 2, 2 / 16 * (x * a) ** 2 * b**2 / 2
    for reduce, expected in (("sum", np.sum(of_each, 0)), ("mean", np.mean(of_each, 0))):
        found = scores_of(model, importance.of_weights(obd), normalize=None, reduce=reduce)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("scored", "size"),
    [
        (importance.activation_mean, 7),
        (importance.apoz, 7),
        (lambda data: importance.of_weights(of_single.wanda(data)), 7),
        (lambda data: importance.of_weights(of_single.taylor(data, "mse")), 30),
    ],
)
def test_a_dataset_scores_as_arrays_do(model, scored, size):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 5, 5, 2)).astype("float32"), rng.normal(size=(30, 3)).astype("float32")
    found = scores_of(model, scored(tf.data.Dataset.from_tensor_slices((x, y)).batch(size)))
    np.testing.assert_allclose(found, scores_of(model, scored((x, y))), rtol=1e-5)
    assert len(set(found)) == 4


def test_activations_are_those_behind_the_activation(model):
    x = np.random.default_rng(2).normal(size=(300, 5, 5, 2)).astype("float32")
    values = keras.Model(model.input, model.get_layer("relu").output).predict(x, verbose=0)
    found = scores_of(model, importance.activation_mean(x), normalize=None)
    np.testing.assert_allclose(found, np.abs(values).mean((0, 1, 2)), rtol=1e-5)
    found = scores_of(model, importance.apoz(x), normalize=None)
    np.testing.assert_allclose(found, (values != 0).mean((0, 1, 2)), rtol=1e-12)
    assert len(set(found)) == 4


def test_random_scores_follow_the_seed(model):
    one, other = (scores_of(model, importance.random(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(scores_of(model, importance.random(0)), one)
    assert (one != other).all()


def test_activations_need_examples(model):
    with pytest.raises(ValueError, match="data must have at least one example"):
        scores_of(model, importance.apoz(np.zeros((0, 5, 5, 2))))


def test_data_are_given_to_inputs_by_name():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    made = [Dense(6, "relu", name=name)(tensor) for name, tensor in (("da", a), ("db", b))]
    model = keras.Model([b, a], Dense(2)(layers.Concatenate()(made)))
    rng = np.random.default_rng(0)
    data = {"a": rng.normal(size=(8, 4)).astype("float32"), "b": rng.normal(2, 3, (8, 4)).astype("float32")}
    structure = read(model, rules_with())
    scores = {id(labels): values for labels, values in importance.activation_mean(data)(structure)}
    for name in ("da", "db"):
        (labels,) = (slot.labels for slot in structure.slots if slot.path == name and slot.role == "output")
        found = np.concatenate([scores[key] for key in scores if key == id(labels)])
        expected = np.abs(model.get_layer(name)(data[name[1]])).mean(0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_slopes_are_no_kernels():
    model = net(lambda x: Dense(3)(layers.PReLU()(Dense(8, name="made")(x))), (5, 4))
    structure = read(model, rules_with())
    assert len(list(importance.l1(structure))) == 2 * 2  # two axes of two kernels
