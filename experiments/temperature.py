"""Which temperature, and how much weight for the labels?

The CNN of 6,790 parameters that `compare` trains learns 3,000 digits (mnist5k) for 30 epochs, on images as they are.
Its teacher, 16 times as large, was trained on moved images, and so knows what these labels do not tell. Each student
learns at one temperature and one weight of the labels; the rest of the weight is the teacher's. The gradient of soft
targets is multiplied by T², so that the weight means the same at each temperature. All students of a seed start alike
and see the same images in the same order. The teacher is asked once a seed. The rival without a teacher has its label
smoothing chosen on dev.

The report draws the grid by its scores on dev, from which one would choose. Two differences are judged on test: the
setting published most often (T = 4, labels .1) against T = 1, and against labels of half the weight.

Command: scripts/study temperature --tune. 22 arms of 8 seeds, about an hour of one core.

Found, with 8 seeds: the grid is flat, .8 points on dev from its best corner to its worst. T = 4 has the highest scores,
and half a point more than T = 1 on test (+.50, 97.5 % interval −.08 to +1.08), which is not shown. The weight of the
labels is not shown to matter (−.07, −.28 to +.13). No setting scores higher on test than labels alone, smoothed by .1,
and T = 1 is worse (−.78, exploratory).
"""

import itertools

import numpy as np
from matplotlib.figure import Figure

import distill
from distill import data, studies
from experiments._networks import Network, plain_cnn
from experiments._training import fit, one_hot, record_answers, recorded_answers

EPOCHS, RATE = 30, 6e-3
PLACES = 2  # largest shift of the teacher's images, in pixels
TEMPERATURES, WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0), (0.0, 0.1, 0.5, 0.9)
TEACHER = Network(filters=(16, 32), units=64, dropout=0.4)
STUDENT = Network(filters=(4, 8), units=16)


def images(seed, dataset="mnist5k"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "temperature",
    data=images,
    seeds=8,
    title="Temperature and the weight of labels",
    question="How much do the temperature and the weight of the labels matter when a small network is distilled?",
)


def cnn(network, run):
    """A new CNN for the run's images."""
    return plain_cnn(network, input_shape=run.train[0].shape[1:], classes=10)


@study.arm(group="references")
def teacher(run):
    """The large network, trained on the labels of moved images for twice as long."""
    network, (x, y) = cnn(TEACHER, run), run.train
    fit(network, (x, one_hot(y)), run, epochs=2 * EPOCHS, rate=RATE / 2, places=PLACES)
    record_answers(network, run)
    return network


@study.arm(group="references", tune={"smoothing": (0.0, 0.05, 0.1, 0.2)})
def alone(run, smoothing=0.1):
    """The student, trained on labels."""
    network, (x, y) = cnn(STUDENT, run), run.train
    fit(network, (x, one_hot(y, smoothing)), run, epochs=EPOCHS, rate=RATE)
    return network


def distilled(run, temperature=4.0, label_weight=0.1):
    """The student, trained on the teacher's soft targets and on labels."""
    student, loss, (x, y) = cnn(STUDENT, run), distill.SoftTargets(temperature), run.train
    answers = recorded_answers(run, "teacher")
    distiller = distill.Distiller(answers, student, loss, student_loss_weight=label_weight)
    fit(distiller, (answers.with_ids(x), one_hot(y)), run, epochs=EPOCHS, rate=RATE)
    return student


def name_of(temperature, label_weight):
    """The name of an arm of the grid."""
    return f"T{temperature:g}-labels{label_weight:g}"


for temperature, label_weight in itertools.product(TEMPERATURES, WEIGHTS):
    study.arm(
        distilled,
        name=name_of(temperature, label_weight),
        settings={"temperature": temperature, "label_weight": label_weight},
        needs="teacher",
        group=f"temperature {temperature:g}",
    )

PUBLISHED = name_of(4.0, 0.1)
study.compare(PUBLISHED, name_of(1.0, 0.1))
study.compare(PUBLISHED, name_of(4.0, 0.5))
study.compare(PUBLISHED, "alone", primary=False)
study.compare(name_of(1.0, 0.1), "alone", primary=False)


@study.section
def accuracy_on_dev(found):
    """Accuracy on dev by temperature and weight of the labels."""
    means = {arm.name: 100 * np.mean([cell.dev["accuracy"] for cell in arm.cells]) for arm in found.arms}
    grid = np.array([[means.get(name_of(one, weight), np.nan) for one in TEMPERATURES] for weight in WEIGHTS])
    if np.isfinite(grid).sum() > 1:
        figure = Figure(figsize=(7.0, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.grid(False)
        drawn = axes.imshow(grid, cmap="viridis", aspect="auto")
        middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
        for (row, column), value in np.ndenumerate(grid):
            shown = f"{value:.2f}" if np.isfinite(value) else "–"
            color = "#111111" if value > middle else "#ffffff"  # contrasts with the cell, on a dark page too
            axes.text(column, row, shown, ha="center", va="center", color=color)
        axes.set_xticks(range(len(TEMPERATURES)), [f"{one:g}" for one in TEMPERATURES])
        axes.set_yticks(range(len(WEIGHTS)), [f"{one:g}" for one in WEIGHTS])
        axes.set(xlabel="temperature", ylabel="weight of the labels")
        figure.colorbar(drawn, label="dev accuracy %")
        yield figure
        reference = f" Without a teacher it is {means['alone']:.2f}." if "alone" in means else ""
        yield f"Means over the seeds, after the last epoch.{reference}"


if __name__ == "__main__":
    study.main()
