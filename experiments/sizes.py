"""Is a larger teacher a better one, and does a network of a size in between help?

CNNs of three sizes, of 24,000, 94,000 and 373,000 parameters, learn to read 3,500 series (mnist1d), and each teaches
students of two sizes, of 1,000 and 6,300. A student that is far smaller than its teacher may be unable to follow it;
the remedy is an assistant, a network of a size in between, that learns from the teacher and then teaches the student
[1]. All students of a size start alike within a seed, and see the same series in the same order for as long. Each
teacher and assistant is asked once a seed; the cost of asking is not counted. A student alone has as many settings to
choose from on dev as one that is taught.

Command: scripts/study sizes. 14 arms of 8 seeds; --tune chooses the settings on dev again.

Found, with 8 seeds and settings chosen on dev: no difference is shown between the largest teacher and the smallest
(-.52 points, adjusted 95 % interval -1.91 to +.86), nor between an assistant and the largest teacher (+.99, -.92 to
+2.89), for the tiny student, which differs by 3 points from seed to seed. Both students score higher with each teacher
than alone, by .3 to 1.3 points, which is not shown either. The temperature that dev chose is 1 for the tiny student and
4 for the small one.

[1] Mirzadeh et al. 2020, arXiv:1902.03393.
"""

import functools

from matplotlib.figure import Figure

import distill
from distill import data, studies
from distill.studies import plots
from experiments._networks import Network, normalized_cnn
from experiments._training import fit, one_hot, record_answers, recorded_answers

EPOCHS, RATE = 60, 6e-3
TEACHERS = {
    "middle": Network(filters=(16, 32), units=64, dropout=0.2),
    "large": Network(filters=(32, 64), units=128, dropout=0.2),
    "huge": Network(filters=(64, 128), units=256, dropout=0.2),
}
STUDENTS = {"tiny": Network(filters=(4, 6), units=12), "small": Network(filters=(8, 16), units=32)}
LABELS = {"smoothing": (0.0, 0.05, 0.1, 0.2)}
SOFT = {"temperature": (1.0, 4.0), "label_weight": (0.0, 0.1)}
# Temperature and weight of the labels that dev chose, by student and teacher.
CHOSEN = {
    "tiny": {"middle": (1.0, 0.1), "large": (1.0, 0.1), "huge": (1.0, 0.1), "assistant": (1.0, 0.0)},
    "small": {"middle": (4.0, 0.1), "large": (4.0, 0.0), "huge": (4.0, 0.0), "assistant": (4.0, 0.0)},
}


def series(seed, dataset="mnist1d"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "sizes",
    data=series,
    seeds=8,
    title="Sizes of teacher and student",
    question="Does a larger teacher make a better student, and does an assistant of a size between help?",
)


def cnn(run, network, name):
    """A new network; all of a size start alike within a seed."""
    return normalized_cnn(network, input_shape=run.train[0].shape[1:], classes=10, name=name)


def alone(run, size="", smoothing=0.0):
    """Trained on labels."""
    network, (x, y) = cnn(run, (TEACHERS | STUDENTS)[size], size), run.train
    fit(network, (x, one_hot(y, smoothing)), run, epochs=EPOCHS, rate=RATE)
    if size in TEACHERS:
        record_answers(network, run)
    return network


def taught(run, size="", by="", temperature=4.0, label_weight=0.1):
    """Trained on soft targets and labels."""
    network, (x, y) = cnn(run, (TEACHERS | STUDENTS)[size], size), run.train
    answers, loss = recorded_answers(run, by), distill.SoftTargets(temperature)
    distiller = distill.Distiller(answers, network, loss, student_loss_weight=label_weight)
    fit(distiller, (answers.with_ids(x), one_hot(y)), run, epochs=EPOCHS, rate=RATE)
    if size in TEACHERS:
        record_answers(network, run)
    return network


for size in TEACHERS:
    study.arm(alone, name=size, settings={"size": size}, group="teachers")
study.arm(
    taught,
    name="assistant",
    settings={"size": "middle", "by": "huge"},
    needs="huge",
    group="teachers",
)
for size in STUDENTS:
    declare = functools.partial(study.arm, group=f"{size} students")
    declare(alone, name=f"{size}-alone", settings={"size": size, "smoothing": 0.1}, tune=LABELS)
    for by, (temperature, label_weight) in CHOSEN[size].items():
        settings = {"size": size, "by": by, "temperature": temperature, "label_weight": label_weight}
        declare(taught, name=f"{size}-by-{by}", settings=settings, needs=by, tune=SOFT)

study.compare("tiny-by-huge", "tiny-by-middle")
study.compare("tiny-by-assistant", "tiny-by-huge")
for size in STUDENTS:
    study.compare(f"{size}-by-middle", f"{size}-alone", primary=False)
    study.compare(f"{size}-by-huge", f"{size}-alone", primary=False)
study.compare("small-by-huge", "small-by-middle", primary=False)
study.compare("small-by-assistant", "small-by-huge", primary=False)


@study.section
def students_by_teacher(found):
    """What students reach by their teacher."""
    arms = {arm.name: arm for arm in found.arms}
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes, teachers = figure.subplots(), (*TEACHERS, "assistant")
    for size, color in zip(STUDENTS, plots.PALETTE, strict=False):
        present = [by for by in teachers if f"{size}-by-{by}" in arms]
        spreads = [
            studies.statistics.spread(arms[f"{size}-by-{by}"].values(found.measures[0])) for by in present
        ]
        axes.errorbar(
            [teachers.index(by) for by in present],
            [one.mean for one in spreads],
            [one.half_interval if one.n > 1 else 0 for one in spreads],
            fmt="o",
            capsize=3,
            color=color,
            label=size,
        )
        if f"{size}-alone" in arms:
            mean = studies.statistics.spread(arms[f"{size}-alone"].values(found.measures[0])).mean
            axes.axhline(mean, color=color, linewidth=1, linestyle="--", label=f"{size}, alone")
    axes.set_xticks(range(len(teachers)), teachers)
    axes.set(xlabel="teacher", ylabel="test accuracy %")
    axes.legend(fontsize="small")
    yield figure
    yield "Bars: 95 % t intervals of the means over seeds. Dashed: the student without a teacher."


if __name__ == "__main__":
    study.main()
