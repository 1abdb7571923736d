"""At a fixed number of epochs, what does the batch size change: how much is learned, and what a teacher adds?

A small CNN learns from 3,000 digits (mnist5k) with 8 to 1,024 examples a step, alone and distilled. All arms train for
the same number of epochs, so small batches make many more updates: 11,250 at size 8, and 90 at 1,024. Nothing is tuned
for a single size: the learning rate is the one that suits 64, scaled with the square root of the size or, on request,
the same for all. For Adam, the square root is the rule [1]: Adam divides the mean gradient by the root of its mean
square, which is mostly noise, and the noise falls with the root of the size.

By default three sizes are judged, 8, 64 and 1,024; --arms all trains all eight. Training also measures how noisy the
gradients are. It does not measure speed and memory: scripts/bench/batch_size does.

Command: scripts/study batch_size, or with --arms all.

Found by this study's earlier form (`scripts/study batch_size` at commit c8320c9, with Adam and 9 seeds, 67 minutes on
two cores that had as much other work to do); this form has not yet been run at full size. At a constant rate, accuracy
falls from 96.4% at size 8 to 91.7% at 1,024 alone, and from 97.0% to 89.7% distilled, because there are ever fewer
updates; with the square-root rule it falls to 94.7% and 94.1%. Sizes 64 to 256 reach 94% on dev soonest. Distillation
helps at 8 to 64 and hurts at 1,024, where it has too few updates.

[1] Malladi, Lyu, Panigrahi, Arora 2022, arXiv:2205.10287.
"""

import math

import numpy as np
from matplotlib.figure import Figure

import distill
from distill import data, studies
from distill.studies import levels, plots, tables
from experiments._networks import Network, plain_cnn
from experiments._noise import NoiseScale
from experiments._training import fit, one_hot

SIZES, REFERENCE, JUDGED = (8, 16, 32, 64, 128, 256, 512, 1024), 64, (8, 64, 1024)
EPOCHS, RATE = 30, 6e-3
MEASURED = (
    1,
    2,
    4,
    8,
    16,
    EPOCHS,
)  # epochs after which gradient noise is measured; most changes happen early
TARGET = 0.94  # dev accuracy
TEACHER = Network(filters=(16, 32), units=64, dropout=0.4)
STUDENT = Network(filters=(4, 8), units=16)


def digits(seed, dataset="mnist5k"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "batch_size",
    data=digits,
    seeds=9,
    title="What the batch size changes",
    question="With the same number of epochs, how well does a student learn in large and in small batches, from labels "
    "and from a teacher?",
)


def cnn(run, network):
    """A new network; all students of a seed start alike."""
    return plain_cnn(network, input_shape=run.train[0].shape[1:], classes=10)


def scaled(size):
    """The learning rate of a batch size, by the rule of the square root."""
    return RATE * (size / REFERENCE) ** 0.5


def train(model, run, *, size, rate):
    """Trains on labels, and measures gradient noise on the way."""
    x, y = run.train
    noise = NoiseScale(x, one_hot(y), epochs=MEASURED, seed=run.seed)
    fit(model, (x, one_hot(y)), run, epochs=EPOCHS, rate=rate, size=size, callbacks=[noise])


@study.arm(group="teacher")
def teacher(run):
    """The large network, trained on the labels in batches of 64."""
    network = cnn(run, TEACHER)
    train(network, run, size=REFERENCE, rate=RATE)
    return network


def alone(run, size=REFERENCE, rate=RATE):
    """The student, trained on the labels."""
    network = cnn(run, STUDENT)
    train(network, run, size=size, rate=rate)
    return network


def distilled(run, size=REFERENCE, rate=RATE):
    """The student, trained on soft targets at a temperature of 4 and, with a weight of .1, on the labels."""
    student = cnn(run, STUDENT)
    loss = distill.SoftTargets(4.0)
    distiller = distill.Distiller(run.model("teacher"), student, loss, student_loss_weight=0.1)
    train(distiller, run, size=size, rate=rate)
    return distiller.student


# How each kind of arm is trained, and which arm it needs.
KINDS = {"alone": (alone, ()), "distilled": (distilled, "teacher")}
for kind, (function, needs) in KINDS.items():
    for size in SIZES:
        study.arm(
            function,
            name=f"{kind}-{size}",
            settings={"size": size, "rate": scaled(size)},
            needs=needs,
            group=kind,
            on_request=size not in JUDGED,
        )
    for size in SIZES:
        if size != REFERENCE:
            study.arm(
                function,
                name=f"{kind}-same-rate-{size}",
                settings={"size": size},
                needs=needs,
                group=f"{kind}, one rate for all",
                on_request=True,
            )

study.compare("distilled-8", "alone-8")
study.compare("distilled-64", "alone-64")
study.compare("distilled-1024", "alone-1024")
for kind in KINDS:
    for size in SIZES:
        if size != REFERENCE:
            study.compare(f"{kind}-{size}", f"{kind}-{REFERENCE}", primary=False)
            study.compare(f"{kind}-{size}", f"{kind}-same-rate-{size}", primary=False)


@study.section
def accuracy_by_size(found):
    """Accuracy by batch size."""
    curves = levels.curves(found.arms)
    if any(len(curve.levels) > 1 for curve in curves):
        figure = Figure(figsize=(8.5, 4.6), layout="constrained")
        axes = figure.subplots()
        for curve, color in zip(curves, plots.PALETTE, strict=False):
            levels.draw(axes, curve, curve.levels, color=color)
        axes.set(xscale="log", xlabel="examples in a batch")
        axes.set_xticks(SIZES, map(str, SIZES))
        levels.error_axis(axes)
        axes.legend()
        yield figure
        yield "Line: mean over seeds. Band: its 95 % t interval. The vertical axis is logarithmic in the error."


def epochs_to_target(arm):
    """Median over the seeds of the epochs until dev accuracy reached the target; infinite if half never did."""
    reached = [[epoch["val_accuracy"] >= TARGET for epoch in cell.history] for cell in arm.cells]
    return float(np.median([hits.index(True) + 1 if any(hits) else math.inf for hits in reached]))


def noise_scale(arm, epoch):
    """tr(Σ) / |G|² after an epoch; NaN where it was not measured, or the gradient is lost in its noise."""
    measured = [cell.history[epoch - 1] for cell in arm.cells if len(cell.history) >= epoch]
    # A ratio of two noisy estimates is biased, so both are averaged first.
    gradient = sum(logs.get("noise_gradient", 0.0) for logs in measured)
    return sum(logs["noise_variance"] for logs in measured) / gradient if gradient > 0 else math.nan


@study.section
def speed_of_learning_and_noise(found):
    """How soon it learns, and how noisy its gradients are."""
    rows = []
    for arm in found.arms:
        values = [epochs_to_target(arm), *(noise_scale(arm, epoch) for epoch in MEASURED)]
        shown = [f"{value:,.0f}" if math.isfinite(value) else tables.NOTHING for value in values]
        rows.append((arm.name, *shown))
    headings = ("arm", f"epochs to\n{TARGET:.0%}", *(f"noise after\n{epoch}" for epoch in MEASURED))
    yield tables.Grid("Epochs to the target on dev, and noise scale by epoch", headings, tuple(rows))
    yield (
        "Epochs are medians over seeds; a dash means that at least half of them did not get that far. The noise scale "
        "is in examples: well below it, twice the batch size saves nearly half the steps. Each estimate uses 3,000 "
        "examples, so scales far above that are rough; a dash means that the gradient is lost in its noise."
    )


if __name__ == "__main__":
    study.main()
