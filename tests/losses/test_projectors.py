"""Projectors: which one for which shapes, their arithmetic, and projectors of the user."""

import keras
import numpy as np
import pytest
from backend import as_numpy
from keras import layers

from distill.losses import (
    Hint,
    OverhaulDistillation,
    VariationalInformation,
    projectors,
)

CE = "sparse_categorical_crossentropy"


def kinds(projector):
    inner = projector.layers if isinstance(projector, keras.Sequential) else [projector]
    return [type(layer).__name__ for layer in inner]


# --- by shape -----------------------------------------------------------------------------------------

REGRESSORS = {
    "half the size": ((4, 6), (8, 12), ["ZeroPadding2D", "Conv2D"], (3, 3)),
    "half of one pixel": ((1, 1), (2, 2), ["ZeroPadding2D", "Conv2D"], (3, 3)),
    "twice the size": ((8, 12), (4, 6), ["Conv2DTranspose"], (4, 4)),
    "the same size": ((4, 6), (4, 6), ["Conv2D"], (1, 1)),
    "a little smaller": ((4, 5), (6, 6), ["Conv2D"], (3, 2)),
    "half on one axis": ((4, 6), (8, 6), ["Conv2D"], (5, 1)),
    "a pixel": ((1, 1), (7, 7), ["Conv2D"], (7, 7)),
}


@pytest.mark.parametrize("case", REGRESSORS)
def test_fitnets_regressor_by_shape(case):
    teacher, student, kind, kernel = REGRESSORS[case]
    regressor = projectors.regressor((None, *teacher, 5), (None, *student, 3))
    assert kinds(regressor) == [*kind, "BatchNormalization", "ReLU"]
    convolution = next(layer for layer in regressor.layers if hasattr(layer, "kernel_size"))
    assert tuple(convolution.kernel_size) == kernel
    assert regressor(np.zeros((2, *student, 3), "float32")).shape == (2, *teacher, 5)


@pytest.mark.parametrize("shape", [(None, 3), (None, None, 3)])
def test_vectors_and_tokens_get_a_dense_layer(shape):
    assert kinds(projectors.regressor((*shape[:-1], 5), shape)) == ["Dense"]


@pytest.mark.parametrize(
    ("teacher", "student", "rule"),
    [
        ((None, 8, 8, 5), (None, 3, 3, 3), "can shrink a map or double its size"),
        ((None, 8, 8, 5), (None, 4, 8, 3), "can shrink a map or double its size"),
        ((None, None, 8, 5), (None, 4, 8, 3), "sizes of the maps, so they must be known"),
    ],
)
def test_sizes_without_a_regressor_are_refused(teacher, student, rule):
    with pytest.raises(ValueError, match=rf"{rule}.*Received: teacher.*and student.*projector="):
        Hint().ensure_built(keras.KerasTensor(teacher), keras.KerasTensor(student))


def windows(values, kernel, stride):
    """A valid convolution, window by window, in float64."""
    height, width = kernel.shape[:2]
    rows = range(0, values.shape[1] - height + 1, stride)
    columns = range(0, values.shape[2] - width + 1, stride)
    return np.array(
        [
            [
                [np.tensordot(one[i : i + height, j : j + width], kernel, axes=3) for j in columns]
                for i in rows
            ]
            for one in values
        ]
    )


@pytest.mark.parametrize("case", ["half the size", "twice the size", "a little smaller"])
def test_the_regressors_arithmetic(case):
    """A convolution centred on each pixel, the statistics of the batch, and ReLU."""
    teacher, student, *_ = REGRESSORS[case]
    regressor = projectors.regressor((None, *teacher, 2), (None, *student, 3))
    x = np.random.default_rng(0).normal(size=(2, *student, 3))
    actual = as_numpy(regressor(x.astype("float32"), training=True))
    kernel, bias, gamma, beta = (as_numpy(v).astype("float64") for v in regressor.trainable_variables)
    if case == "half the size":
        values = windows(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel, 2)
    elif case == "twice the size":
        # The gradient of a convolution with stride 2: zeros between the pixels, and the kernel turned around.
        spread = np.zeros((2, *teacher, 3))
        spread[:, ::2, ::2] = x
        turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        values = windows(np.pad(spread, ((0, 0), (2, 1), (2, 1), (0, 0))), turned, 1)
    else:
        values = windows(x, kernel, 1)
    values += bias
    mean, variance = values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))
    expected = np.maximum(gamma * (values - mean) / np.sqrt(variance + 1e-5) + beta, 0)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_networks_of_linear_maps():
    assert kinds(projectors.linear(4, rank=4)) == ["Conv2D"]
    assert kinds(projectors.linear(4, rank=2)) == kinds(projectors.linear(4, rank=3)) == ["Dense"]
    assert kinds(projectors.mlp(4, rank=4)) == ["Conv2D", "ReLU", "Conv2D", "ReLU", "Conv2D"]
    narrow = projectors.mlp(4, rank=2, hidden=[7], use_bias=False)
    assert kinds(narrow) == ["Dense", "ReLU", "Dense"]
    assert narrow(np.zeros((2, 3), "float32")).shape == (2, 4)
    assert [tuple(v.shape) for v in narrow.trainable_variables] == [(3, 7), (7, 4)]
    assert kinds(projectors.connector(4, rank=4)) == ["Conv2D", "BatchNormalization"]
    assert kinds(projectors.connector(4, rank=2)) == ["Dense", "BatchNormalization"]


def test_what_the_losses_choose(caplog):
    maps = keras.KerasTensor((None, 4, 4, 5)), keras.KerasTensor((None, 8, 8, 3))
    with caplog.at_level("INFO", "distill"):
        for loss, kind in ((Hint(), "BatchNormalization"), (VariationalInformation(), "ReLU")):
            loss.ensure_built(*maps)
            assert kind in kinds(loss.projectors[0])
    assert (
        "hint: student (8, 8, 3) to teacher (4, 4, 5) by the default projector, 160 parameters" in caplog.text
    )


# --- the user's own -----------------------------------------------------------------------------------


def test_any_layer_projects():
    class Scale(layers.Layer):  # its call does not take `training`
        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones")

        def call(self, features):
            return self.scale * features[..., :1]

    loss = Hint(projector=Scale(dtype="float32"))
    teacher, student = np.zeros((2, 1), "float32"), np.full((2, 3), 2.0, "float32")
    np.testing.assert_allclose(as_numpy(loss(teacher, student)), 4.0)
    assert len(loss.variables) == 1


@pytest.mark.parametrize(
    "make",
    [Hint, VariationalInformation, lambda projector: OverhaulDistillation([-1.0] * 5, projector=projector)],
)
def test_a_projector_that_returns_another_shape_is_refused(make):
    maps = keras.KerasTensor((None, 4, 4, 5)), keras.KerasTensor((None, 4, 4, 3))
    for layer in (layers.Conv2D(5, 1, strides=2), layers.Conv2D(1, 1), layers.GlobalAveragePooling2D()):
        with pytest.raises(
            ValueError, match=r"must return the teacher's shape. Received: teacher \(None, 4, 4, 5\) and"
        ):
            make(projector=layer).ensure_built(*maps)


@pytest.mark.parametrize("projector", ["linear", layers.Dense, [layers.Dense(3), layers.Dense(3)], []])
def test_a_projector_is_a_layer(projector):
    with pytest.raises(
        ValueError, match=r"A projector must be a keras.Layer.*Received: projector=.*for 1 pair"
    ):
        Hint(projector=projector)


def test_a_layer_for_each_stage():
    names = ("a", "b"), ("a", "b")
    with pytest.raises(ValueError, match="for 2 pairs"):
        Hint(*names, projector=layers.Dense(3))
    own = layers.Dense(5)
    loss = Hint(*names, projector=[None, own])
    sides = [[keras.KerasTensor((None, width)) for _ in range(2)] for width in (5, 3)]
    loss.ensure_built(*sides)
    assert loss.projectors[1] is own
    assert loss.layers == loss.projectors
    assert kinds(loss.projectors[0]) == ["Dense"]


def test_their_input_is_not_cast_to_half_precision():
    features = np.full((2, 8, 8, 16), 7e4, "float32")  # beyond float16
    keras.config.set_dtype_policy("mixed_float16")
    try:
        made = [
            projectors.mlp(4, rank=4, hidden=[3]),
            projectors.connector(4, rank=4),
            projectors.regressor((None, 8, 8, 4), (None, 8, 8, 16)),
        ]
        answers = [as_numpy(projector(features)) for projector in made]
    finally:
        keras.config.set_dtype_policy("float32")
    for answer in answers:
        assert answer.dtype == "float32"
        assert np.isfinite(answer).all()
