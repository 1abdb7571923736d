"""What the arms of the studies share: one way to train, whatever teaches."""

from collections.abc import Sequence

import keras
import numpy as np

from distill import cache, data, studies

BATCH = 64


def one_hot(y, smoothing=0.0):
    """Labels of ten classes as shares; `smoothing` of each is spread over all classes."""
    return (1 - smoothing) * np.eye(10, dtype="float32")[y] + smoothing / 10


def batches(examples, run, *, size=BATCH, places=0):
    """The batches of an epoch; above 0 places, each example is moved by up to as many, anew in each epoch."""
    plain = data.batches(examples, size, seed=run.seed)
    return data.shift(plain, places, seed=run.seed) if places else plain


def record_answers(network: keras.Model, run: studies.Run, layers: Sequence[str] = ()):
    """Records what a trained network answers to the training examples as they are, in the folder of its cell."""
    cache.record(network, run.train[0], run.directory / "answers", layers=layers, batch_size=BATCH, verbose=0)


def recorded_answers(run: studies.Run, arm: str) -> cache.Answers:
    """What the network of an arm that this one needs answered, which its cell recorded: the teacher, once per seed."""
    return cache.open(run.file(arm).parent / "answers")


def fit(
    model: keras.Model,
    examples,
    run: studies.Run,
    *,
    epochs: int,
    rate: float,
    size: int = BATCH,
    places: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
):
    """Trains on inputs and labels of ten classes, one-hot, with Adam, whose rate falls to 0 along a cosine.

    An epoch is one call of the compiled function, since these networks are so small that calls would take most of the
    time. What `callbacks` add to the logs of an epoch is recorded.
    """
    epochs = min(2, epochs) if run.smoke else epochs
    given = batches(examples, run, size=size, places=places)
    prepare(model, rate=rate, epochs=epochs, steps=int(given.cardinality()))
    x, y = run.dev
    dev = data.batches((x, one_hot(y)), 500)
    model.fit(
        given,
        epochs=epochs,
        validation_data=dev,
        callbacks=[*callbacks, *run.callbacks],
        verbose=0,
        shuffle=False,
    )


def prepare(model: keras.Model, *, rate: float, epochs: int, steps: int):
    """Compiles a model for `epochs` of `steps`, as `fit` does."""
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
    model.compile(
        keras.optimizers.AdamW(schedule),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps,
    )
