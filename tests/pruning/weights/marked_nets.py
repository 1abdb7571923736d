"""Models of one kernel that the tests of tfmot's names share, and the masks that training gives them."""

import keras
import numpy as np
from keras import layers

from distill.pruning import UpdatePruningStep


def network(kernel):
    """A network of the one kernel, which SGD leaves as it is."""
    kernel = np.asarray(kernel, "float32")
    made = {
        2: lambda: layers.Dense(kernel.shape[-1], use_bias=False),
        3: lambda: layers.Conv1D(kernel.shape[-1], kernel.shape[0], use_bias=False),
        4: lambda: layers.Conv2D(kernel.shape[-1], kernel.shape[:2], use_bias=False),
    }[kernel.ndim]()
    model = keras.Sequential([keras.Input((*kernel.shape[:-2], kernel.shape[-2])), made])
    model.set_weights([kernel])
    return model


def fit(model, steps=1, callbacks=None):
    """Trains with a rate of 0, so that only pruning changes weights."""
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    x = np.ones((steps, *model.input_shape[1:]), "float32")
    y = np.ones((steps, *model.output_shape[1:]), "float32")
    callbacks = [UpdatePruningStep()] if callbacks is None else callbacks
    return model.fit(x, y, batch_size=1, verbose=0, callbacks=callbacks)


def each_step(step):
    return True, 0.5


def kept(model):
    (mask,) = (weight.constraint for weight in model.trainable_variables)
    return keras.ops.convert_to_numpy(mask.kept)


def zeros_after_each_step(model, steps):
    counts = []

    def count(batch, logs):
        (kernel,) = model.get_weights()
        counts.append(kernel.size - np.count_nonzero(kernel))

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=count)
    fit(model, steps, [UpdatePruningStep(), callback])
    return counts
