"""A study of two features whose models need no training."""

import time

import keras
import numpy as np
from keras import layers

from distill import studies

QUIET = studies.Surroundings(wandb="disabled")


def splits(seed):
    """Two features; the class is the sign of the first. The train split varies with the seed."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(99)

    def drawn(generator, count):
        x = generator.normal(size=(count, 2)).astype("float32")
        return x, (x[:, 0] > 0).astype("int64")

    return drawn(rng, 40), drawn(fixed, 50), drawn(fixed, 60)


def classifier(slope, *, activation=None):
    """Logits (0, slope · first + the second feature / 2)."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(2, activation=activation)(inputs))
    model.set_weights([np.array([[0, slope], [0, 0.5]], "float32"), np.zeros(2, "float32")])
    return model


def teacher(run):
    """Knows the answer.

    And has more to say.
    """
    return classifier(9.0)


def taught(run, slope=1.0, sure=True):
    assert run.model("teacher").count_params() == 6
    (run.directory / "notes.txt").write_text("mine")
    return classifier(slope + 0.1 * (run.seed % 10), activation="softmax" if sure else None)


def trained(run):
    network = classifier(-0.5)
    network.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    network.fit(*run.train, validation_data=run.dev, epochs=2, callbacks=run.callbacks, verbose=0)
    return network


def slow(run, slope=1.0):
    """Takes three seconds, in which its process can be lost."""
    (run.directory / "begun").touch()
    time.sleep(3)
    return classifier(slope + run.seed)


def study_of(*arms, name="tiny", metrics=studies.CLASSIFICATION, seeds=2, data=splits):
    study = studies.Study(name, data=data, seeds=seeds, metrics=metrics, question="Which one?")
    for arm, options in arms:
        study.arm(arm, **options)
    return study


TAUGHT = (teacher, {}), (taught, {"needs": "teacher", "tune": {"slope": (-3.0, 1.0, 5.0, 0.1)}})


def run(study, folder, **options):
    return study.run(out=folder, surroundings=QUIET, **options)


def rate(logits, y):
    return np.mean(logits.argmax(1) == y)
