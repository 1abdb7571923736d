"""How many of its teacher's answers must a student see, and what if labels are wrong?

The CNN of 6,790 parameters that `compare` trains learns to read digits (mnist5k, moved images) from labels or from a
CNN that is 16 times as large. First, the student sees fewer examples; the teacher has seen their labels among 3,000.
Then a share of all labels is wrong, for the teacher too: the student learns from them, or from a teacher that has
learned from them. Last comes a case where a teacher must hurt: one that has seen 120 labels teaches a student that
could have 3,000. All students take as many steps and start alike within a seed, and have as many settings to choose
from on dev, whose labels are right.

Command: scripts/study transfer. 17 arms of 8 seeds; --tune chooses the settings on dev again.

Found, with 8 seeds and settings chosen on dev: a teacher's answers are worth 4.8 points with 100 examples and 1.7 with
300 (adjusted 97.5 % interval 1.04 to 2.43), and nothing that is shown with 1,000 and 3,000. A teacher that has learned
from 40 % wrong labels makes a student that is 1.05 points better than those labels do (.30 to 1.80). A teacher that has
seen 120 labels costs 3.13 points (2.27 to 4.00), though its student, for which labels have a tenth of the weight, is
.9 above it. Dev chose a temperature of 4 where a teacher helps most, and 1 elsewhere.
"""

import functools

import numpy as np

import distill
from distill import data, studies
from experiments._networks import Network, plain_cnn
from experiments._training import fit, one_hot

EPOCHS, RATE, PLACES = 30, 6e-3, 2
POOR = 120
# Examples, or percent of wrong labels -> what dev chose: smoothing of the student alone; temperature and label weight.
EXAMPLES = {
    100: (0.2, (4.0, 0.1)),
    300: (0.2, (4.0, 0.0)),
    1000: (0.05, (1.0, 0.1)),
    3000: (0.2, (1.0, 0.0)),
}
WRONG = {20: (0.2, (1.0, 0.0)), 40: (0.1, (4.0, 0.0))}
TEACHER = Network(filters=(16, 32), units=64, dropout=0.4)
STUDENT = Network(filters=(4, 8), units=16)
LABELS = {"smoothing": (0.0, 0.05, 0.1, 0.2)}
SOFT = {"temperature": (1.0, 4.0), "label_weight": (0.0, 0.1)}


def images(seed, dataset="mnist5k"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "transfer",
    data=images,
    seeds=8,
    title="Transfer sets and wrong labels",
    question="Does a teacher help more when the student sees fewer of its answers, and when more labels are wrong?",
)


def cnn(network, run):
    """A new CNN for the run's images."""
    return plain_cnn(network, input_shape=run.train[0].shape[1:], classes=10)


def seen(run, count):
    """As many examples as there are, of `count` different ones: drawn by seed, equally many of each class."""
    rng, (_, y) = np.random.default_rng(run.seed), run.train
    order = [rng.permutation(np.flatnonzero(y == digit))[: count // 10] for digit in range(10)]
    return np.resize(np.concatenate(order), len(y))


def labels_of(run, wrong):
    """The labels, of which `wrong` percent, drawn by seed, are those of another class."""
    rng, (_, y) = np.random.default_rng([run.seed, wrong]), run.train
    changed = rng.permutation(len(y))[: len(y) * wrong // 100]
    labels = y.copy()
    labels[changed] = (y[changed] + rng.integers(1, 10, len(changed))) % 10
    return labels


def learn(network, run, *, count, wrong, smoothing=0.0, epochs=EPOCHS, rate=RATE):
    """Trains on labels."""
    rows, labels = seen(run, count), labels_of(run, wrong)
    examples = run.train[0][rows], one_hot(labels[rows], smoothing)
    fit(network, examples, run, epochs=epochs, rate=rate, places=PLACES)
    return network


def teacher(run, examples=3000, wrong=0):
    """The large network, trained on labels for twice as long."""
    return learn(cnn(TEACHER, run), run, count=examples, wrong=wrong, epochs=2 * EPOCHS, rate=RATE / 2)


def alone(run, examples=3000, wrong=0, smoothing=0.1):
    """The student, trained on labels."""
    return learn(cnn(STUDENT, run), run, count=examples, wrong=wrong, smoothing=smoothing)


def distilled(run, by="teacher", examples=3000, wrong=0, temperature=4.0, label_weight=0.1):
    """The student, trained on soft targets and labels."""
    loss, student = distill.SoftTargets(temperature), cnn(STUDENT, run)
    distiller = distill.Distiller(run.model(by), student, loss, student_loss_weight=label_weight)
    learn(distiller, run, count=examples, wrong=wrong)
    return student


study.arm(teacher, group="teachers")
for wrong in WRONG:
    study.arm(teacher, name=f"teacher-wrong{wrong}", settings={"wrong": wrong}, group="teachers")
study.arm(teacher, name="teacher-poor", settings={"examples": POOR}, group="teachers")
for count, (smoothing, soft) in EXAMPLES.items():
    declare = functools.partial(study.arm, group=f"{count} examples")
    settings = {"examples": count, "smoothing": smoothing}
    declare(alone, name=f"alone-{count}", settings=settings, tune=LABELS)
    settings = {"examples": count} | dict(zip(SOFT, soft, strict=True))
    declare(distilled, name=f"distilled-{count}", settings=settings, needs="teacher", tune=SOFT)
    study.compare(f"distilled-{count}", f"alone-{count}", primary=count == 300)
for wrong, (smoothing, soft) in WRONG.items():
    declare, by = functools.partial(study.arm, group=f"{wrong} % wrong labels"), f"teacher-wrong{wrong}"
    settings = {"wrong": wrong, "smoothing": smoothing}
    declare(alone, name=f"alone-wrong{wrong}", settings=settings, tune=LABELS)
    settings = {"by": by, "wrong": wrong} | dict(zip(SOFT, soft, strict=True))
    declare(distilled, name=f"distilled-wrong{wrong}", settings=settings, needs=by, tune=SOFT)
    study.compare(f"distilled-wrong{wrong}", f"alone-wrong{wrong}", primary=wrong == 40)
study.arm(
    distilled,
    name="distilled-poor",
    settings={"by": "teacher-poor", "temperature": 1.0, "label_weight": 0.1},
    needs="teacher-poor",
    group="3000 examples",
    tune=SOFT,
)
study.compare("distilled-poor", "alone-3000")

if __name__ == "__main__":
    study.main()
