"""Losses on layers in a Distiller: what they train is trained with the student, saved, and kept out of it."""

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
)

CE = "sparse_categorical_crossentropy"


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
    """Two epochs equal one epoch, a new Distiller with the saved weights, and another epoch."""
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
    with pytest.raises(ValueError, match="."):  # the message is Keras'
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


@pytest.mark.slow
def test_two_teachers_share_the_projector():
    loss = Hint("half", "block")
    distiller = distiller_of([net(5), net(5)], net(3), loss)
    assert len(loss.projectors) == 1
    assert np.isfinite(fit(distiller, 1)["hint"]).all()


@pytest.mark.slow
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
    # Read in training mode, because these layers come after a batch normalization.
    outputs = keras.Model(model.input, model.get_layer(loss.teacher_layer_name).output)
    return outputs(X, training=model.get_layer("norm").gamma.shape[0] == 3)


@pytest.mark.slow
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
