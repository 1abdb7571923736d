"""Repeats Hinton, Vinyals and Dean 2015 (arXiv:1503.02531), section 3, on full MNIST.

A teacher with two layers of 1,200 rectified units and dropout learns from images that are shifted by up to two pixels.
Students with two layers of 800 units and without regularization see the images as they are, and learn alone, or from
the labels (weight .1) and the teacher's answers at T = 20. Then a student never sees the digit 3, and the bias of its
logit is changed afterwards to what is best on dev. The paper chose it on test; the measure "best bias" does that too.
Unlike the paper, this study also trains a student alone without 3s, which shows that labels cannot teach what the
teacher's answers do, and, on request, students that see shifted images.

Differences from the paper: networks learn from 54,000 of the 60,000 training images, since dev takes the other 6,000;
the teacher has no weight constraint; training takes 60 epochs of AdamW, and 40 for students.

Command: scripts/study hinton_mnist. First prepare the four files of MNIST, in a folder DIR, once, with
`python -c "from distill import data; data.load('mnist', manual_dir='DIR')"`. To see that it runs:
scripts/study hinton_mnist --smoke --data dataset=mnist5k. A seed takes about a quarter of an hour of processor time.

Found by this study's earlier form (`scripts/study hinton_mnist --manual-dir DIR` at commit c8320c9, with Adam and 2
seeds, which allow no test); this form has not yet been run at full size. Test errors: teacher 76 ± 2 (paper: 67), alone
150 ± 12 (146), distilled 96 ± 2 (74), distilled without 3s 117 ± 8, of them 36 on 3s (206, of them 133), and with the
better bias 106 ± 4 by dev or 102 ± 3 by test (109).

Why 96 errors and not 74? This was explored by hand, on dev with seed 0, where the teacher makes 46 errors and the
student 58. The cause is not the length of the training (120 epochs at 1e-3: 56), the learning rate (5e-4: 64), Adam
(SGD with momentum .9 at .02: 65, at .005: 77), the labels (without them: 55), or the number of images (48,000: 55). But
a student that sees images shifted like the teacher's makes 47 errors, about as few as the teacher. On unshifted images
it already answers as the teacher does; what it lacks is what the teacher knows about shifted ones. The arms on request
put that to a test. The paper's dropout rates, .5 and .2, and a weight constraint of 3 do not make a better teacher in
so short a training: such a teacher makes 57 errors after 80 of 100 epochs. Labels have weight .1 rather than 0, since
without 3s that makes 78 errors rather than 84 after the change of bias.
"""

import functools

import keras
import numpy as np

import distill
from distill import data, studies
from experiments._training import fit, one_hot

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
    # If the bias is above its margin, an example is taken for the digit.
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


def learner(run):
    """The student, as it starts in all arms."""
    return dense_net(run.train[0], units=800)


def train(model, run, *, omit=False, places=0, epochs=40, rate=2.5e-3):
    """Trains on images, with or without the omitted digit, that are moved by up to that many pixels."""
    x, y = run.train
    kept = y != OMITTED if omit else slice(None)
    fit(model, (x[kept], one_hot(y[kept])), run, epochs=epochs, rate=rate, size=BATCH, places=places)


ALL, WITHOUT, SHIFTED = "all digits", f"without the digit {OMITTED}", "shifted images"


@study.arm(group=ALL)
def teacher(run, dropout=0.3, places=2):
    """The large network, trained on shifted images and labels. The paper: 67 errors."""
    network = dense_net(run.train[0], units=1200, dropout=dropout)
    train(network, run, epochs=60, rate=1e-3, places=places)
    return network


@study.arm(group=ALL)
def alone(run, omit=False, places=0):
    """The student, trained on labels. The paper: 146 errors."""
    network = learner(run)
    train(network, run, omit=omit, places=places)
    return network


@study.arm(group=ALL, needs="teacher")
def distilled(run, temperature=20.0, label_weight=0.1, omit=False, places=0):
    """The student, trained on labels and the teacher's answers. The paper: 74 errors."""
    loss = distill.SoftTargets(temperature)
    distiller = distill.Distiller(run.model("teacher"), learner(run), loss, student_loss_weight=label_weight)
    train(distiller, run, omit=omit, places=places)
    return distiller.student


def biased(run, of=""):
    """That student, with the bias of the omitted digit's logit that is best on dev."""
    network, (x, y) = run.model(of), run.dev
    head = network.layers[-1]
    change = best_bias(y, studies.logits(network, x))
    head.bias.assign_add(change * np.eye(10, dtype="float32")[OMITTED])
    return network


study.arm(alone, name="omitted-alone", settings={"omit": True}, group=WITHOUT)
# The paper: 206 errors, 133 of them on 3s; with the bias that is best on test, 109 and 14.
study.arm(distilled, name="omitted-distilled", settings={"omit": True}, group=WITHOUT, needs="teacher")
for omitted in ("omitted-alone", "omitted-distilled"):
    study.arm(biased, name=f"{omitted}-biased", settings={"of": omitted}, group=WITHOUT, needs=omitted)
study.arm(alone, name="shifted-alone", settings={"places": 2}, group=SHIFTED, on_request=True)
study.arm(
    distilled,
    name="shifted-distilled",
    settings={"places": 2},
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
