"""How long must training last before a distilled student wins?

An MLP learns to read 3,500 series (mnist1d), which are moved anew in each epoch, from labels or from a CNN that finds
digits wherever they lie: the pair of `series`. A consistent teacher that sees the same views is reported to pay off
late [1], so training takes from 10 to 300 epochs, each time with a full cosine decay of the learning rate. At each
length, a student with a teacher and one without start alike, see the same series in the same order, and have as many
settings to choose from on dev. The teacher is the same for all.

Command: scripts/study patience. 9 arms of 8 seeds; --tune chooses the settings on dev again.

Found, with 8 seeds and settings chosen on dev: patience does not decide. After 10 epochs the distilled student is
ahead (+.56 points, 97.5 % interval +.02 to +1.10); after 300, no difference is shown (+.20, -.95 to +1.35), nor after
30 and 100. Both students still gain 4 points from 100 to 300 epochs, and neither comes near the teacher's 96.4 %. Dev
chose a temperature of 1 for every length; with 4, students are behind on dev by 2.9 points after 10 epochs and by .6
after 300.

[1] Beyer et al. 2022, arXiv:2106.05237.
"""

import functools

from matplotlib.figure import Figure

from distill import studies
from distill.studies import levels, plots
from experiments._training import fit, one_hot
from experiments.series import PLACES, RATE, SHORT, cnn, distil, learn, mnist1d

# Epochs -> what dev chose: smoothing and dropout of the student alone; temperature and label weight of the other.
CHOSEN = {
    10: ((0.0, 0.0), (1.0, 0.1)),
    30: ((0.1, 0.0), (1.0, 0.1)),
    100: ((0.0, 0.0), (1.0, 0.0)),
    300: ((0.1, 0.0), (1.0, 0.0)),
}
LENGTHS = tuple(CHOSEN)
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


for epochs, (labels, soft) in CHOSEN.items():
    declare = functools.partial(study.arm, group=f"{epochs} epochs")
    settings = {"epochs": epochs} | dict(zip(LABELS, labels, strict=True))
    declare(alone, name=f"alone-{epochs}", settings=settings, tune=LABELS)
    settings = {"epochs": epochs} | dict(zip(SOFT, soft, strict=True))
    declare(distilled, name=f"distilled-{epochs}", settings=settings, needs="teacher", tune=SOFT)
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
