"""Does a network of another family learn more from a teacher than from labels, if both train as well as they can?

mnist1d has 5,000 series of 40 numbers, in which a digit's outline lies at a random place. A CNN reads them well. The
student is an MLP of two layers, which is faster but has to learn every place by itself. It learns from labels or from
the CNN, for a short training and for a long one, and on series that are shifted anew in each epoch or not. Students on
labels and students with the teacher get the same shifts, the same number of steps and as many settings to choose from
on dev.

Command: scripts/study series. --tune chooses the settings on dev again; --arms all adds the arms on request.
"""

import functools

import keras
import numpy as np

import distill
from distill import data, studies
from experiments._networks import Network, normalized_cnn
from experiments._training import fit, one_hot

SHORT, LONG = 40, 160  # epochs
FEW = 400
PLACES = 3
RATE = 2e-3


def mnist1d(seed):
    """The splits do not depend on the seed."""
    splits = data.load("mnist1d")
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "series",
    data=mnist1d,
    seeds=8,
    title="An MLP learns series from labels and from a CNN",
    question="Does a student of another family learn more from a teacher than from labels alone?",
)


def cnn():
    """The teacher."""
    return normalized_cnn(
        Network(filters=(16, 32), units=64, dropout=0.2), input_shape=(40, 1), classes=10, name="cnn"
    )


def mlp(dropout):
    """The student."""
    layers = keras.layers
    # Made first, since Dropout draws a seed and would change the initial weights that follow.
    *hidden, head = layers.Dense(100, "relu"), layers.Dense(100, "relu"), layers.Dense(10)
    stack = [layer for dense in hidden for layer in (dense, layers.Dropout(dropout))]
    return keras.Sequential([keras.Input((40, 1)), layers.Flatten(), *stack, head], name="mlp")


def learn(run, smoothing, dropout, *, epochs, places=0):
    """A student that learns from labels."""
    network = mlp(dropout)
    x, y = run.train
    fit(network, (x, one_hot(y, smoothing)), run, epochs=epochs, rate=RATE, places=places)
    return network


def distil(run, temperature, label_weight, *, epochs, places=0):
    """A student that learns from the teacher."""
    loss = distill.SoftTargets(temperature)
    distiller = distill.Distiller(run.model("teacher"), mlp(0.0), loss, student_loss_weight=label_weight)
    x, y = run.train
    fit(distiller, (x, one_hot(y)), run, epochs=epochs, rate=RATE, places=places)
    return distiller.student


# As many settings for labels as for a teacher; without labels there is no weight to choose, so no smoothing either.
LABELS = {"smoothing": (0.0, 0.1), "dropout": (0.0, 0.15, 0.3)}
FEW_LABELS = {"dropout": LABELS["dropout"]}
SOFT = {"temperature": (1.0, 2.0, 4.0), "label_weight": (0.0, 0.1)}
on_request = functools.partial(study.arm, on_request=True)


@study.arm
def teacher(run):
    """The CNN, trained on shifted series."""
    network = cnn()
    x, y = run.train
    fit(network, (x, one_hot(y)), run, epochs=SHORT, rate=RATE, places=PLACES)
    return network


@study.arm(tune=LABELS)
def alone(run, smoothing=0.0, dropout=0.15):
    """The MLP, trained on labels."""
    return learn(run, smoothing, dropout, epochs=SHORT)


@study.arm(tune=LABELS)
def alone_patient(run, smoothing=0.1, dropout=0.0):
    """The MLP, trained four times as long on the labels of shifted series."""
    return learn(run, smoothing, dropout, epochs=LONG, places=PLACES)


@study.arm(needs="teacher", tune=SOFT)
def distilled(run, temperature=1.0, label_weight=0.1):
    """The MLP, trained on the teacher's soft targets."""
    return distil(run, temperature, label_weight, epochs=SHORT)


@study.arm(needs="teacher", tune=SOFT)
def distilled_patient(run, temperature=1.0, label_weight=0.1):
    """The MLP, trained four times as long on the teacher's soft targets for shifted series, which both see."""
    return distil(run, temperature, label_weight, epochs=LONG, places=PLACES)


@on_request(tune=LABELS)
def alone_long(run, smoothing=0.0, dropout=0.3):
    """The MLP, trained four times as long on labels, without shifts."""
    return learn(run, smoothing, dropout, epochs=LONG)


@on_request(needs="teacher", tune=SOFT)
def distilled_long(run, temperature=2.0, label_weight=0.0):
    """The MLP, trained four times as long on the teacher's soft targets, without shifts."""
    return distil(run, temperature, label_weight, epochs=LONG)


def labelled(run):
    """Which examples have a label in the arms with few: drawn by seed, equally many of each class."""
    rng, (_, y) = np.random.default_rng(run.seed), run.train
    return np.concatenate([rng.permutation(np.flatnonzero(y == digit))[: FEW // 10] for digit in range(10)])


@on_request(group="400 labels", tune=FEW_LABELS)
def few_alone(run, smoothing=0.0, dropout=0.3):
    """The MLP, trained on the labels of 400 shifted series for as many steps as the others."""
    network, (x, y) = mlp(dropout), run.train
    seen = np.resize(labelled(run), len(x))
    fit(network, (x[seen], one_hot(y[seen], smoothing)), run, epochs=SHORT, rate=RATE, places=PLACES)
    return network


@on_request(group="400 labels", needs="teacher", tune={"temperature": SOFT["temperature"]})
def few_distilled(run, temperature=2.0):
    """The MLP, trained on the teacher's soft targets for all series, shifted, without any label."""
    return distil(run, temperature, 0.0, epochs=SHORT, places=PLACES)


@on_request(group="400 labels", needs="teacher", tune=FEW_LABELS)
def few_pseudo(run, smoothing=0.0, dropout=0.0):
    """The MLP, trained on 400 labels and, for all other series, on the class that the teacher predicts; shifted."""
    (x, y), seen = run.train, labelled(run)
    answers = studies.logits(run.model("teacher"), x).argmax(axis=1)
    answers[seen] = y[seen]
    network = mlp(dropout)
    fit(network, (x, one_hot(answers, smoothing)), run, epochs=SHORT, rate=RATE, places=PLACES)
    return network


study.compare("distilled_patient", "alone_patient")
study.compare("distilled", "alone")
study.compare("distilled_patient", "distilled", primary=False)
study.compare("alone_patient", "alone", primary=False)
study.compare("distilled_long", "alone_long", primary=False)
study.compare("few_distilled", "few_alone", primary=False)
study.compare("few_distilled", "few_pseudo", primary=False)

if __name__ == "__main__":
    study.main()
