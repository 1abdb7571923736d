"""A study that is over in seconds, for scripts/bench/faults: each arm draws random numbers in a way of its own."""

import keras
import numpy as np

import distill
from distill import pruning, studies


def data(seed):
    """Two classes of points in eight dimensions; the train split varies with the seed."""
    own, fixed = np.random.default_rng(seed), np.random.default_rng(99)

    def drawn(generator, count):
        x = generator.normal(size=(count, 8)).astype("float32")
        return x, (x[:, 0] * x[:, 1] > 0).astype("int64")

    return drawn(own, 200), drawn(fixed, 200), drawn(fixed, 400)


study = studies.Study("faults", data=data, seeds=2, question="Is the result the same after any interruption?")


def net(width, dropout=0.0):
    """A classifier with logits."""
    layers = keras.layers
    stack = [layers.Dense(width, "relu"), layers.Dropout(dropout), layers.Dense(2)]
    return keras.Sequential([keras.Input((8,)), *stack])


def fit(model, run, rate=0.01):
    """Trains for three epochs."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=False)
    model.fit(
        *run.train, batch_size=50, epochs=3, validation_data=run.dev, callbacks=run.callbacks, verbose=0
    )


@study.arm
def teacher(run):
    """Draws dropout."""
    network = net(32, dropout=0.3)
    fit(network, run)
    return network


@study.arm(tune={"rate": (0.001, 0.02)})
def alone(run, rate=0.01):
    """Has settings to choose."""
    network = net(4)
    fit(network, run, rate)
    return network


@study.arm(needs="teacher")
def distilled(run):
    """Loads the teacher, whose dropout has a state."""
    distiller = distill.Distiller(run.model("teacher"), net(4), distill.SoftTargets(2.0))
    fit(distiller, run)
    return distiller.student


@study.arm(needs="teacher")
def channels(run):
    """Copies the teacher with its dropout."""
    small = pruning.prune_channels(run.model("teacher"), 0.5, round_to=1)
    fit(small, run)
    return small


@study.arm(needs="distilled")
def integers(run):
    """Leaves a file."""
    examples = run.train[0][:50]
    return distill.export(
        run.model("distilled"), run.directory / "int8.tflite", precision="int8", examples=examples
    )


study.compare("distilled", "alone")

if __name__ == "__main__":
    study.main()
