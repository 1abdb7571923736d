"""Callbacks that look at a model's layers find the student's, and files of a training's state stay as they were."""

import h5py
import keras
import numpy as np
import pytest
from distilling import LOGIT_CE, compiled
from keras import layers

import distill
from distill import training

X = np.random.default_rng(0).integers(0, 9, (8, 5)).astype("int32")
Y = np.arange(8) % 3


def reader(width, name):
    inputs = keras.Input((5,), dtype="int32")
    hidden = layers.Dense(width, "relu", name="hidden")(
        layers.Flatten()(layers.Embedding(9, 4, name=f"{name}_words")(inputs))
    )
    return keras.Model(inputs, layers.Dense(3, name="head")(hidden), name=name)


def hinting():
    losses = [distill.SoftTargets(2.0), distill.losses.Hint("hidden", "hidden")]
    return training.Distiller(reader(8, "teacher"), reader(4, "student"), losses)


def mutual():
    return distill.MutualLearning([reader(4, "one"), reader(4, "two")])


@pytest.mark.parametrize(("make", "names"), [(hinting, ["student"]), (mutual, ["one", "two"])])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.sweep(1)
def test_tensorboard_finds_the_embeddings(make, names, tmp_path):
    pytest.importorskip("tensorboard")
    metadata = {f"{name}_words": f"{name}.tsv" for name in names}
    board = keras.callbacks.TensorBoard(
        tmp_path, embeddings_freq=1, embeddings_metadata=metadata, histogram_freq=1
    )
    model = compiled(make(), loss=LOGIT_CE)
    model.fit(X, Y, verbose=0, callbacks=[board])
    (projector,) = tmp_path.rglob("projector_config.pbtxt")
    text = projector.read_text()
    assert [f'metadata_path: "{name}.tsv"' in text for name in names] == [True] * len(names)


def test_layers_are_those_of_the_student_and_of_the_losses():
    distiller = compiled(hinting(), loss=LOGIT_CE)
    assert distiller.get_layer("head") is distiller.student.get_layer("head")
    weights = {id(w) for layer in distiller.layers for w in layer.weights}
    assert {id(w) for w in distiller.trainable_weights} <= weights
    assert not weights & {id(w) for w in distiller.teacher.model.weights}


def test_a_training_state_keeps_its_layout(tmp_path):
    distiller = compiled(hinting(), loss=LOGIT_CE)
    distiller.fit(X, Y, verbose=0)
    before, path = [layer.name for layer in distiller.layers], tmp_path / "state.weights.h5"
    distiller.save_weights(path)
    with h5py.File(path) as file:
        groups = {name: sorted(file[name]) for name in ("layers", "layers/functional/layers")}
    assert groups["layers"] == ["functional", "loss_layers"]
    assert groups["layers/functional/layers"] == ["dense", "dense_1", "embedding", "flatten", "input_layer"]
    again = compiled(hinting(), loss=LOGIT_CE)
    again.train_on_batch(X, Y)
    again.load_weights(path)
    for one, other in zip(distiller.student.get_weights(), again.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [layer.name for layer in distiller.layers] == before
