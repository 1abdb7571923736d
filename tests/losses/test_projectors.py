"""Projectors: which kind for which shapes, its arithmetic, and that it trains and is kept with the Distiller."""

import keras
import numpy as np
import pytest
from backend import BACKEND, as_numpy
from keras import layers

import distill
from distill import Distiller
from distill.losses import (
    AttentionTransfer,
    Hint,
    NeuronSelectivity,
    OverhaulDistillation,
    VariationalInformation,
    batch_norm_margins,
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
    """Its convolution centred on each pixel, the statistics of the batch, and ReLU."""
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
    class Scale(layers.Layer):  # knows no `training`
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


# --- in training --------------------------------------------------------------------------------------


def net(width, name=None):
    """6×6 digits in three classes; layers are named norm (before a ReLU), block (after it) and half (3×3)."""
    inputs = keras.Input((6, 6, 1))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(width, 3, padding="same")(inputs))
    x = layers.ReLU(name="block")(x)
    x = layers.Conv2D(width, 3, strides=2, padding="same", activation="relu", name="half")(x)
    x = layers.GlobalAveragePooling2D(name="vector")(x)
    return keras.Model(inputs, layers.Dense(3, "softmax")(x), name=name)


RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6, 6, 1)).astype("float32")
Y = RNG.integers(3, size=32)


def all_losses(teacher):
    return [
        Hint("half", "block"),
        Hint("vector", "vector", name="vectors"),
        AttentionTransfer(("block", "half"), ("block", "half")),
        VariationalInformation("half", "block"),
        NeuronSelectivity("half", "half"),
        OverhaulDistillation(batch_norm_margins(teacher.get_layer("norm")), "norm", "norm"),
    ]


def with_projectors(teacher):
    hint, _, _, vid, _, ofd = all_losses(teacher)
    return [hint, vid, ofd]


NAMES = [
    "hint",
    "vectors",
    "attention_transfer",
    "variational_information",
    "neuron_selectivity",
    "overhaul_distillation",
]


def distiller_of(teacher, student, losses, **arguments):
    distiller = Distiller(teacher, student, losses, **{"student_loss_weight": 0.5, **arguments})
    distiller.compile(keras.optimizers.Adam(0.01), loss=CE, jit_compile=BACKEND == "jax")
    return distiller


def fit(distiller, epochs):
    return distiller.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0).history


def test_projectors_train_with_the_student_and_stay_out_of_it(tmp_path):
    teacher, student = net(5), net(3)
    losses = all_losses(teacher)
    frozen = [w.copy() for w in teacher.get_weights()]
    distiller = distiller_of(teacher, student, losses, student_loss_weight=0.0)
    variables = [v for loss in losses for layer in loss.layers for v in layer.trainable_variables]
    assert len(variables) == 4 + 2 + 4 + 3
    assert {id(v) for v in variables} <= {id(v) for v in distiller.trainable_variables}
    before = [as_numpy(v).copy() for v in variables]
    history = fit(distiller, 8)
    for name in NAMES:
        assert min(history[name]) < 0.99 * history[name][0], name
    # A bias before a batch normalization has no gradient.
    moved = [
        v.path for v, old in zip(variables, before, strict=True) if np.abs(as_numpy(v) - old).max() > 1e-3
    ]
    assert len(moved) >= len(variables) - 1
    statistics = losses[0].projectors[0].layers[2].moving_variance
    assert np.abs(as_numpy(statistics) - 1).max() > 1e-3
    for old, new in zip(frozen, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)

    distiller.save(tmp_path / "student.keras")
    saved = keras.models.load_model(tmp_path / "student.keras")
    assert saved.count_params() == net(3).count_params()
    np.testing.assert_allclose(saved.predict(X, verbose=0), student.predict(X, verbose=0), rtol=1e-6)


def test_evaluation_leaves_projectors_alone():
    teacher, student = net(5), net(3)
    losses = all_losses(teacher)
    distiller = distiller_of(teacher, student, losses)
    before = [as_numpy(v).copy() for loss in losses for v in loss.variables]
    logs = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(logs) == {"loss"}
    for old, v in zip(before, (v for loss in losses for v in loss.variables), strict=True):
        np.testing.assert_array_equal(old, as_numpy(v))


def test_training_goes_on_from_saved_weights(tmp_path):
    """One fit of two epochs is a fit of one, a new process's Distiller with the saved weights, and another one."""
    teacher, start = net(5), net(3)

    def fresh():
        student = keras.models.clone_model(start)
        student.set_weights(start.get_weights())
        return distiller_of(teacher, student, with_projectors(teacher))

    first = fresh()
    fit(first, 1)
    first.save_weights(tmp_path / "a.weights.h5")
    second = fresh()
    second.optimizer.build(second.trainable_variables)
    second.load_weights(tmp_path / "a.weights.h5")
    for one, other in zip(first.variables, second.variables, strict=True):
        if "seed" not in one.path:
            np.testing.assert_array_equal(as_numpy(one), as_numpy(other), err_msg=one.path)
    history, again = fit(first, 1), fit(second, 1)
    for key, values in history.items():
        np.testing.assert_allclose(again[key], values, rtol=1e-5, err_msg=key)
    for one, other in zip(first.student.get_weights(), second.student.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_projector_of_another_width_is_not_restored(tmp_path):
    student = net(3)
    distiller_of(net(5), student, Hint("half", "half")).save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match="."):  # Keras words it
        distiller_of(net(4), student, Hint("half", "half")).load_weights(tmp_path / "a.weights.h5")


def test_a_student_that_comes_unbuilt():
    teacher = net(5)
    student = keras.Sequential(
        [
            layers.Conv2D(3, 3, padding="same", name="block"),
            layers.GlobalAveragePooling2D(name="vector"),
            layers.Dense(3, "softmax"),
        ]
    )
    loss = Hint("half", "block")
    distiller = distiller_of(teacher, student, [loss, VariationalInformation("vector", "vector")])
    history = fit(distiller, 2)
    assert loss.built
    assert history["hint"][1] < history["hint"][0]


def test_two_teachers_share_the_projector():
    loss = Hint("half", "block")
    distiller = distiller_of([net(5), net(5)], net(3), loss)
    assert len(loss.projectors) == 1
    assert np.isfinite(fit(distiller, 1)["hint"]).all()


def test_half_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if BACKEND != "torch" else "mixed_bfloat16")
    try:
        teacher, student = net(5), net(3)
        losses = with_projectors(teacher)
        history = fit(distiller_of(teacher, student, losses), 2)
    finally:
        keras.config.set_dtype_policy(policy)
    assert all(np.isfinite(values).all() for values in history.values())
    assert {v.dtype for loss in losses for v in loss.variables} == {"float32"}


def test_sample_weights_reach_every_row():
    teacher, student = net(5), net(3)
    losses = [AttentionTransfer("half", "half"), NeuronSelectivity("half", "half")]
    distiller = distiller_of(teacher, student, losses)
    weights = (np.arange(32) < 16).astype("float32")
    distiller.optimizer.learning_rate = 0.0
    one = distiller.fit(X, Y, sample_weight=weights, batch_size=32, verbose=0).history
    rows = [as_numpy(loss.call(*(read(model, loss) for model in (teacher, student)))) for loss in losses]
    for name, row in zip(("attention_transfer", "neuron_selectivity"), rows, strict=True):
        np.testing.assert_allclose(one[name][0], (weights * row).mean(), rtol=1e-4)


def read(model, loss):
    # What is read in training: these layers come after a batch normalization.
    outputs = keras.Model(model.input, model.get_layer(loss.teacher_layer_name).output)
    return outputs(X, training=model.get_layer("norm").gamma.shape[0] == 3)


def test_training_that_was_killed_goes_on_with_the_projectors(tmp_path):
    def made():
        keras.utils.set_random_seed(1)
        nets = [
            keras.Sequential(
                [
                    keras.Input((8, 8, 1)),
                    layers.Conv2D(width, 3, name="map"),
                    layers.GlobalAveragePooling2D(),
                    layers.Dense(3),
                ]
            )
            for width in (6, 3)
        ]
        losses = [distill.Hint("map", "map"), distill.losses.VariationalInformation("map", "map")]
        distiller = distill.Distiller(*nets, [*losses, distill.losses.CurriculumTemperature(20)])
        distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return distiller

    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8, 8, 1)), rng.integers(0, 3, 32)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)

    whole, killed, resumed = made(), made(), made()
    whole.fit(x, y, epochs=2, shuffle=False, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(x, y, epochs=2, shuffle=False, verbose=0, callbacks=[backup(), Killed()])
    resumed.fit(x, y, epochs=2, shuffle=False, verbose=0, callbacks=[backup()])
    own = len(whole.trainable_variables) - len(whole.student.trainable_variables)
    assert own > 2
    for one, other in zip(whole.trainable_variables, resumed.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    resumed.save(tmp_path / "student.keras")
    assert len(keras.models.load_model(tmp_path / "student.keras").weights) == len(whole.student.weights)
