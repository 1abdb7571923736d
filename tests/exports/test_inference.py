"""Files answer as the model does in inference, whatever mode its layers take when nothing is said."""

import keras
import numpy as np
import pytest
from keras import layers

from distill.exports import Exported, export

SHAPE = (8, 8, 3)
FORMATS = ("m.tflite", "m.onnx", "m")


def images(count=12):
    return np.random.default_rng(0).normal(size=(count, *SHAPE)).astype("float32")


class Trains(layers.Layer):
    """Trains unless it is told not to."""

    def call(self, inputs, training=True):
        return 100.0 * inputs if training else inputs


class Holder(layers.Layer):
    """Calls a layer without saying the mode."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, layers.Conv2D(2, 3)

    def call(self, inputs):
        return self.head(self.layer(inputs))


def sequential(layer):
    return keras.Sequential([keras.Input(SHAPE), layer, layers.Conv2D(2, 3)])


def nested(layer):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, sequential(layer)(inputs))


def subclassed(layer):
    model = Subclassed(layer)
    model(images(2))
    return model


AUGMENTATION = {
    "flip": lambda: layers.RandomFlip(),
    "rotation": lambda: layers.RandomRotation(0.2),
    "noise": lambda: layers.GaussianNoise(0.5),
    "own": Trains,
    "held": lambda: Holder(Trains()),
    "contrast": lambda: layers.RandomContrast(0.5),
    "erasing": lambda: layers.RandomErasing(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.sweep(1)
def test_layers_that_augment_do_not(name, tmp_path):
    x = images()
    for i, (kind, layer) in enumerate(AUGMENTATION.items()):
        model = (sequential, nested, subclassed)[i % 3](layer())
        head = next(one for one in model._flatten_layers() if isinstance(one, layers.Conv2D))
        found = Exported(export(model, tmp_path / f"{i}{name}")).predict(x)
        # None of them changes anything in inference, so that the head alone gives the right answer.
        np.testing.assert_allclose(found, np.asarray(head(x)), atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("name", ["m.tflite", "m"])
@pytest.mark.sweep(1)
def test_an_export_leaves_seeds_states_and_attributes(name, tmp_path):
    inputs = keras.Input((4, 3), batch_size=2)
    recurrent = layers.LSTM(3, stateful=True)
    model = keras.Model(inputs, recurrent(layers.GaussianNoise(0.1)(inputs)))
    model(np.ones((2, 4, 3), "float32"))
    kept = [*model.variables, *recurrent.states]
    before = [np.array(variable) for variable in kept]
    assert any((state != 0).any() for state in before[-2:])
    attributes = {layer.name: set(vars(layer)) for layer in model.layers}
    path = export(model, tmp_path / name)
    assert all((np.array(one) == other).all() for one, other in zip(kept, before, strict=True))
    assert attributes == {layer.name: set(vars(layer)) for layer in model.layers}
    x = np.random.default_rng(0).normal(size=(6, 4, 3)).astype("float32")
    expected = [np.array(model(x[i : i + 2], training=False)) for i in (0, 2, 4)]
    # The state goes with the file, and moves from batch to batch as the model's does.
    np.testing.assert_allclose(Exported(path).predict(x), np.concatenate(expected), atol=1e-5)
