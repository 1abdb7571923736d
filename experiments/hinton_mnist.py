"""Repeats Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 3, on full MNIST.

A teacher with two layers of 1,200 rectified units and dropout learns from images that are shifted by up to two pixels.
Students with two layers of 800 units and without regularization see the images as they are, and learn alone, or from
the labels (weight .1) and the teacher's answers at T = 20. Then a student never sees the digit 3, and the bias of its
logit is changed afterwards, by what is best on dev. The paper chose it on test; the measure "best bias" does that too.
Unlike the paper, this study also trains a student alone without 3s, which shows that labels cannot teach what the
teacher's answers do, and, on request, students that see shifted images.

Differences from the paper: networks learn from 54,000 of the 60,000 training images, since dev takes the other 6,000;
the teacher has no weight constraint; training takes 60 epochs of Adam, and 40 for students.

Command: scripts/study hinton_mnist. The four files of MNIST, in a folder DIR, are prepared once, by
`python -c "from distill import data; data.load('mnist', manual_dir='DIR')"`. To check that it runs:
scripts/study hinton_mnist --smoke --data dataset=mnist5k.
"""

import functools

import keras
import numpy as np

import distill
from distill import data, studies

OMITTED = 3
BATCH = 256


def mnist(seed, dataset="mnist"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


def best_bias(y, outputs):
    """What to add to the logit of the omitted digit for the fewest errors; the middle one of equals."""
    others = outputs.astype("float64")  # a copy
    others[:, OMITTED] = -np.inf
    # With a bias above its margin, an example is taken for the digit.
    margins = others.max(axis=1) - outputs[:, OMITTED]
    won = np.sort(margins[y == OMITTED])
    lost = np.sort(margins[others.argmax(axis=1) == y])
    edges = np.unique(margins)
    biases = np.sort([0.0, edges[0] - 1, *(edges[1:] + edges[:-1]) / 2, edges[-1] + 1])
    gain = np.searchsorted(won, biases) - np.searchsorted(lost, biases)
    best = biases[gain == gain.max()]
    return float(best[len(best) // 2])


def errors(y, outputs):
    """Number of examples that are taken for another class."""
    return int(np.sum(outputs.argmax(axis=1) != y))


def errors_on_omitted(y, outputs):
    """Number of these among the omitted digit's images."""
    return errors(y[y == OMITTED], outputs[y == OMITTED])


def errors_at_best(y, outputs):
    """Number of errors with the bias that is best for the very images on which it is chosen."""
    raised = outputs.astype("float64")  # a copy
    raised[:, OMITTED] += best_bias(y, outputs)
    return errors(y, raised)


counted = functools.partial(studies.Measure, digits=0, lower_is_better=True)
study = studies.Study(
    "hinton_mnist",
    data=mnist,
    seeds=4,
    metrics=[
        counted("errors", errors, name="errors", unit="errors"),
        counted("errors_on_omitted", errors_on_omitted, name=f"on {OMITTED}s", unit="errors"),
        counted(
            "errors_at_best",
            errors_at_best,
            name="best bias",
            unit="errors",
            about=f"errors if the bias of the {OMITTED} is chosen on the same images, as in the paper",
        ),
    ],
    title="Hinton, Vinyals and Dean 2015 on MNIST",
    question="Does a teacher that learned from shifted images improve a student that never sees one, and can it "
    "teach a digit that the student never sees?",
)


def dense_net(x, *, units, dropout=0.0):
    """A network of two layers for images like x; it returns logits."""
    layers = keras.layers
    model = keras.Sequential([keras.Input(x.shape[1:]), layers.Flatten()])
    for _ in range(2):
        model.add(layers.Dense(units, "relu"))
        if dropout:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(10))
    return model


def batches(examples, run, *, shift):
    """The batches of an epoch, whose images are moved by up to that many pixels, anew in each epoch."""
    plain = data.batches(examples, BATCH, seed=run.seed)
    return data.shift(plain, shift, seed=run.seed) if shift else plain


def fit(model, examples, run, *, epochs, rate, shift):
    """Trains with Adam, whose learning rate falls to 0."""
    epochs = 2 if run.smoke else epochs
    given = batches(examples, run, shift=shift)
    steps = int(given.cardinality())
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps,
    )
    dev = data.batches(run.dev, 500)
    model.fit(given, epochs=epochs, validation_data=dev, callbacks=run.callbacks, verbose=0, shuffle=False)


def learner(run):
    """The student, as it starts in all arms."""
    return dense_net(run.train[0], units=800)


def seen(run, omit):
    """The training images, with or without the omitted digit."""
    x, y = run.train
    return (x[y != OMITTED], y[y != OMITTED]) if omit else (x, y)


ALL, WITHOUT, SHIFTED = "all digits", f"without the digit {OMITTED}", "shifted images"
STUDENT = {"epochs": 40, "rate": 2.5e-3}


@study.arm(group=ALL)
def teacher(run, dropout=0.3, shift=2):
    """The large network, trained on shifted images and labels. The paper: 67 errors."""
    network = dense_net(run.train[0], units=1200, dropout=dropout)
    fit(network, run.train, run, epochs=60, rate=1e-3, shift=shift)
    return network


@study.arm(group=ALL)
def alone(run, omit=False, shift=0):
    """The student, trained on labels. The paper: 146 errors."""
    network = learner(run)
    fit(network, seen(run, omit), run, **STUDENT, shift=shift)
    return network


@study.arm(group=ALL, needs="teacher")
def distilled(run, temperature=20.0, label_weight=0.1, omit=False, shift=0):
    """The student, trained on labels and the teacher's answers. The paper: 74 errors."""
    loss = distill.SoftTargets(temperature)
    distiller = distill.Distiller(run.model("teacher"), learner(run), loss, student_loss_weight=label_weight)
    fit(distiller, seen(run, omit), run, **STUDENT, shift=shift)
    return distiller.student


def biased(run, of=""):
    """That student, with the bias of the omitted digit's logit that is best on dev."""
    network, (x, y) = run.model(of), run.dev
    head = network.layers[-1]
    change = best_bias(y, studies.logits(network, x))
    head.bias.assign_add(change * np.eye(10, dtype="float32")[OMITTED])
    return network


study.arm(alone, name="omitted-alone", settings={"omit": True}, group=WITHOUT)
# The paper: 206 errors, of which 133 on 3s; with the bias that is best on test, 109 and 14.
study.arm(distilled, name="omitted-distilled", settings={"omit": True}, group=WITHOUT, needs="teacher")
for omitted in ("omitted-alone", "omitted-distilled"):
    study.arm(biased, name=f"{omitted}-biased", settings={"of": omitted}, group=WITHOUT, needs=omitted)
study.arm(alone, name="shifted-alone", settings={"shift": 2}, group=SHIFTED, on_request=True)
study.arm(
    distilled,
    name="shifted-distilled",
    settings={"shift": 2},
    group=SHIFTED,
    needs="teacher",
    on_request=True,
)

study.compare("distilled", "alone")
study.compare("omitted-distilled", "omitted-alone")
study.compare("omitted-distilled-biased", "omitted-distilled", primary=False)
study.compare("omitted-distilled", "distilled", primary=False)
study.compare("shifted-distilled", "shifted-alone", primary=False)
study.compare("shifted-distilled", "distilled", primary=False)

if __name__ == "__main__":
    study.main()
