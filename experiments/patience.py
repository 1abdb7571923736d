"""How long must training last before a distilled student wins?

An MLP learns to read 3,500 series (mnist1d), which are moved anew in each epoch, from labels or from a CNN that finds
digits wherever they lie: the pair of `series`. A consistent teacher that sees the same views is reported to pay off
late [1], so training takes from 10 to 300 epochs, each time with a full cosine decay of the learning rate. At each
length, a student with a teacher and one without start alike, see the same series in the same order, and have as many
settings to choose from on dev. The teacher is the same for all.

Command: scripts/study patience --tune. 9 arms of 8 seeds.

[1] Beyer et al. 2022, arXiv:2106.05237.
"""

import functools

from matplotlib.figure import Figure

from distill import studies
from distill.studies import levels, plots
from experiments._training import fit, one_hot
from experiments.series import PLACES, RATE, SHORT, cnn, distil, learn, mnist1d

LENGTHS = (10, 30, 100, 300)
LABELS = {"smoothing": (0.0, 0.1), "dropout": (0.0, 0.15)}
SOFT = {"temperature": (1.0, 4.0), "label_weight": (0.0, 0.1)}


study = studies.Study(
    "patience",
    data=mnist1d,
    seeds=8,
    title="How long training must be",
    question="How does what a teacher adds depend on how long a student trains?",
)


@study.arm(group="teacher")
def teacher(run):
    """The CNN, trained on moved series."""
    network, (x, y) = cnn(), run.train
    fit(network, (x, one_hot(y)), run, epochs=SHORT, rate=RATE, places=PLACES)
    return network


def alone(run, epochs=0, smoothing=0.0, dropout=0.0):
    """The MLP, trained on labels."""
    return learn(run, smoothing, dropout, epochs=epochs, places=PLACES)


def distilled(run, epochs=0, temperature=1.0, label_weight=0.1):
    """The MLP, trained on the teacher's soft targets."""
    return distil(run, temperature, label_weight, epochs=epochs, places=PLACES)


for epochs in LENGTHS:
    declare = functools.partial(study.arm, settings={"epochs": epochs}, group=f"{epochs} epochs")
    declare(alone, name=f"alone-{epochs}", tune=LABELS)
    declare(distilled, name=f"distilled-{epochs}", needs="teacher", tune=SOFT)
    study.compare(f"distilled-{epochs}", f"alone-{epochs}", primary=epochs in (LENGTHS[0], LENGTHS[-1]))


@study.section
def accuracy_by_length(found):
    """Accuracy by the length of training."""
    curves = levels.curves(found.arms)
    if any(len(curve.levels) > 1 for curve in curves):
        figure = Figure(figsize=(7.5, 4.0), layout="constrained")
        axes = figure.subplots()
        for curve, color in zip(curves, plots.PALETTE, strict=False):
            levels.draw(axes, curve, curve.levels, color=color)
        if any(arm.name == "teacher" for arm in found.arms):
            levels.draw_line(axes, found.arm("teacher"), label="teacher", dash="--")
        axes.set(xscale="log", xlabel="epochs")
        axes.set_xticks(LENGTHS, map(str, LENGTHS))
        levels.error_axis(axes)
        axes.legend(fontsize="small", loc="lower right")
        yield figure
        yield "Line: mean over seeds. Band: its 95 % t interval. The vertical axis is logarithmic in the error."


if __name__ == "__main__":
    study.main()
