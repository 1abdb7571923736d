"""A model out of the file of a larger one, the other way, and the student out of the state of its training."""

import keras
import numpy as np
import pytest
from backend import only_on
from conftest import dense_net
from keras import layers

from distill import files, losses, training

FORMS = ("w.weights.h5", "m.keras", "m.h5", "checkpoint")


def filled(model, seed):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.2, 0.8, weight.shape) for weight in model.weights])
    return model


def backbone(seed, activation="relu"):
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="one")(inputs))
    x = layers.Conv2D(5, 3, name="two")(layers.Activation(activation, name="act")(x))
    return filled(keras.Model(inputs, x, name="backbone"), seed)


def on_top(base):
    inputs = keras.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D()(base(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(pooled), name="whole")


def in_a_stack(base):
    return keras.Sequential([keras.Input((8, 8, 3)), base, layers.Flatten(), layers.Dense(3, name="head")])


def in_one_graph(base):
    pooled = layers.GlobalAveragePooling2D()(base.output)
    return keras.Model(base.input, layers.Dense(3, name="head")(pooled))


def frozen_in_part(base):
    base.get_layer("one").trainable = False
    return on_top(base)


def in_a_wrapper(base):
    inputs = keras.Input((2, 8, 8, 3))
    pooled = layers.GlobalAveragePooling3D()(layers.TimeDistributed(base)(inputs))
    return keras.Model(inputs, layers.Dense(3, name="head")(pooled))


def two_deep(base):
    return keras.Sequential([keras.Input((8, 8, 3)), on_top(base), layers.Dense(2, name="last")])


WHOLES = (on_top, in_a_stack, in_one_graph, frozen_in_part, in_a_wrapper, two_deep)


def save(model, path):
    if path.name == "checkpoint":
        import tensorflow as tf

        tf.train.Checkpoint(model).write(path)
    else:
        (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def forms(test):
    on_tensorflow = pytest.param(
        "checkpoint", marks=only_on("tensorflow", reason="a checkpoint is TensorFlow's")
    )
    return pytest.mark.parametrize("form", [*FORMS[:-1], on_tensorflow])(test)


def same(one, other):
    """Whether the weights agree, layer by layer: their order in the model depends on what is frozen."""
    pairs = zip(one.layers, other.layers, strict=True)
    return all(
        np.array_equal(a, b) for x, y in pairs for a, b in zip(x.get_weights(), y.get_weights(), strict=True)
    )


@forms
@pytest.mark.parametrize("whole", WHOLES)
def test_a_backbone_out_of_the_file_of_a_whole_model(tmp_path, whole, form):
    source, model = backbone(1), backbone(2)
    path = save(whole(source), tmp_path / form)
    before = model.get_weights()
    with pytest.raises(ValueError, match="nothing was loaded"):
        files.load_weights(model, path)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    loaded = files.load_weights(model, path, partial=True)
    assert same(model, source)
    assert loaded.taken == ("one", "norm", "two")
    assert "head" in str(loaded)  # what is left in the file


@forms
@pytest.mark.parametrize("whole", WHOLES)
def test_the_file_of_a_backbone_into_a_whole_model(tmp_path, whole, form):
    source, base = backbone(1), backbone(2)
    model = whole(base)
    head = model.get_weights()[-1].copy()
    path = save(source, tmp_path / form)
    loaded = files.load_weights(model, path, partial=True)
    assert same(base, source)
    assert {name.rpartition("/")[2] for name in loaded.taken} == {"one", "norm", "two"}
    assert ("head", "kernel") in {(row.layer, row.what) for row in loaded.differences}
    np.testing.assert_array_equal(head, model.get_weights()[-1])


@pytest.mark.parametrize("form", ["m.keras", "m.h5"])
def test_settings_are_compared_there_too(tmp_path, form):
    path = save(on_top(backbone(1)), tmp_path / form)
    model = backbone(2, activation="tanh")
    loaded = files.load_weights(model, path, partial=True)
    assert ("act", "activation", "tanh", "relu") in loaded.differences


@forms
def test_a_model_that_is_there_twice_is_named(tmp_path, form):
    def twins(first, second):
        inputs = keras.Input((8, 8, 3))
        models = [backbone(seed) for seed in (1, 2)]
        for model, name in zip(models, (first, second), strict=True):
            model.name = name
        return keras.Model(inputs, layers.Subtract()([model(inputs) for model in models])), models

    whole, (_, right) = twins("left", "right")
    path = save(whole, tmp_path / form)
    model = backbone(3)
    before = model.get_weights()
    with pytest.raises(ValueError, match="Give the model the name of the one that you want"):
        files.load_weights(model, path, partial=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    if form != "checkpoint":  # which holds no names of models
        model.name = "right"
        files.load_weights(model, path, partial=True)
        assert same(model, right)


def deep_net():
    inputs = keras.Input((6,))
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.BatchNormalization()])
    return keras.Model(inputs, layers.Dense(3, "softmax", name="head")(layers.Dropout(0.1)(inner(inputs))))


@pytest.mark.parametrize("make", [lambda: dense_net(4), deep_net])
@pytest.mark.parametrize("loss", [losses.SoftTargets(2.0), None])
@pytest.mark.sweep(1)
def test_the_student_out_of_the_state_of_its_training(tmp_path, batch, make, loss):
    student = make()
    hints = [losses.Hint("hidden", "head")] if loss is None else loss
    distiller = training.Distiller(dense_net(8), student, hints)
    distiller.compile("adam", "sparse_categorical_crossentropy")
    path = tmp_path / "best.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    distiller.fit(*batch, verbose=0, callbacks=[checkpoint])
    model = make()
    loaded = files.load_weights(model, path)
    assert same(model, student)
    assert not loaded.differences
    (tmp_path / "m.json").write_text(model.to_json())
    assert same(files.load_model(tmp_path / "m.json", weights=path), student)
    other = dense_net(9)
    with pytest.raises(ValueError, match=r"\(6, 9\) +\(6, 4\)|missing"):
        files.load_weights(other, path)
    again = training.Distiller(dense_net(8), make(), hints)
    files.load_weights(again, path)  # all of it
    assert same(again.student, student)
