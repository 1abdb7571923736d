"""Does a small student learn more from a teacher than from labels, if both are trained as well as they can be?

A CNN of 6,790 parameters learns to read 3,000 digits (mnist5k): from their labels, or from a CNN that is 16 times as
large. First as one would do it in earnest: for 100 epochs, in each of which every image is moved anew by up to two
pixels. Then with 120 of the labels. Arms with a teacher and without have the same initial weights, the same images in
the same order, as many steps, and as many settings to choose from on dev. The test split is read once.

On request, twice the time; three teachers; another loss; the same pair trained for 30 epochs on images as they are,
while its teacher has seen moved ones; the teacher's answers as hard labels; and rivals in size: the teacher with 80 or
95 % zeros or without most of its channels, a deeper network without layers, and int8 files.

The teacher is asked once where students see images as they are (distilled_plain): 8.2 s of a core become 6.6, with the
same weights to the bit, or but for last bits where a processor rounds an answer otherwise at another place in a batch.
Where images are moved it stays live. Its answers to 100 views would serve the 130 epochs of both distilled arms: live,
these take 44 s a seed (.34 an epoch); from a cache 35 (.27), and 26 more to make the views twice, to count and to ask,
and to keep them (.26 a view). With --tune 520 epochs share them, 177 s against 167, in three seeds of eleven: in all,
884 s live and 992 from a cache.

Command: scripts/compare. --tune chooses the settings on dev again; --arms all adds the arms on request.

Found, with 8 seeds and settings chosen on dev: nothing is shown to be gained from the teacher with all labels (−.07
points, 95 % interval −.43 to +.30), and 7.03 points (5.43 to 8.62) with 120 labels. That was with AVX2 alone, where the
default run took 20 minutes on the two threads of one core from 2021, and its first verdict, with 120 labels, 8.6. The
verdicts are the same with AMX, −.01 (−.26 to +.24) and 7.17 (5.64 to 8.71), where the run took 9 minutes on two cores;
with eight other seeds, from 100 on, +.11 (−.24 to +.46) and 7.20 (5.91 to 8.49); and with Keras 3.13 and two threads a
cell, +.01 (−.30 to +.32) and 6.98 (5.52 to 8.45). Of the arms on request: moved images are worth 1.0 points without a
teacher and 1.2 with one; twice the time, three teachers and standardized logits are not shown to help; the teacher
without most of its channels scored 1.2 points less than a new network of that size, with its own dropout and without a
choice of settings, which these arms have had since; int8 costs a few hundredths. All arms took an hour and a half on
two cores.
"""

import functools

import keras
import numpy as np

import distill
from distill import cache, data, pruning, studies
from experiments._networks import Network, plain_cnn
from experiments._training import BATCH, fit, one_hot, record_answers, recorded_answers

SHORT, LONG = 30, 100  # epochs
PLACES = 2  # pixels
RATE = 6e-3
LABELS = 120
TEACHER = Network(filters=(16, 32), units=64, dropout=0.4)
DEEP = Network(filters=(16, 32), units=64, dropout=0.4, blocks=2)
STUDENT = Network(filters=(4, 8), units=16)
SPARSITY = 0.95  # as many bytes, gzipped, as the student
CHANNELS = 0.0816  # of the multiply-adds remain, as many as the student has
BLOCKS = 2
RANGES = 300  # images that measure the ranges of an int8 file


def images(seed, dataset="mnist5k"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    if splits.num_classes != 10:
        raise ValueError(
            f"compare takes images of ten classes. Received: {dataset}, of {splits.num_classes}."
        )
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "compare",
    data=images,
    seeds=8,
    title="A student alone and a student distilled",
    question="Does a small student learn more from a teacher than from labels alone?",
)
on_request = functools.partial(study.arm, on_request=True)


def cnn(network, run):
    """A new CNN for the run's images."""
    return plain_cnn(network, input_shape=run.train[0].shape[1:], classes=10)


def learn(network, run, smoothing=0.0, *, epochs=LONG, rate=RATE, places=PLACES, labels=None):
    """Trains on labels; `labels` are those to take in place of the true ones."""
    x, y = run.train
    examples = x, one_hot(y if labels is None else labels, smoothing)
    fit(network, examples, run, epochs=epochs, rate=rate, places=places)
    return network


def distil(
    teacher, student, run, loss, label_weight=None, *, epochs=LONG, rate=RATE, places=PLACES, callbacks=()
):
    """Trains on what the teacher, or several, say of the images that the student sees, or said of unmoved ones."""
    distiller = distill.Distiller(teacher, student, loss, student_loss_weight=label_weight)
    x, y = run.train
    if isinstance(teacher, cache.Answers):
        x = teacher.with_ids(x)
    fit(distiller, (x, one_hot(y)), run, epochs=epochs, rate=rate, places=places, callbacks=callbacks)
    return student


def labelled(run):
    """Which images have a label in the arms with few: drawn by seed, equally many of each class."""
    rng, (_, y) = np.random.default_rng(run.seed), run.train
    return np.concatenate(
        [rng.permutation(np.flatnonzero(y == digit))[: LABELS // 10] for digit in range(10)]
    )


# As many to choose from on dev with a teacher as without.
SMOOTHINGS = {"smoothing": (0.0, 0.05, 0.1, 0.2)}
SOFT = {"temperature": (1.0, 4.0), "label_weight": (0.0, 0.1)}
SOFT_ALONE = {"temperature": (1.0, 2.0, 4.0, 8.0)}


ALL, FEW = "all labels", f"{LABELS} labels"


@study.arm(group=ALL)
def teacher(run, start=0):
    """The large network, trained on labels."""
    keras.utils.set_random_seed(run.seed + 10_000 * start)
    network = cnn(TEACHER, run)
    x, y = run.train
    fit(network, (x, one_hot(y)), run, epochs=60, rate=RATE / 2, places=PLACES)
    record_answers(network, run)
    return network


@study.arm(group=ALL, tune=SMOOTHINGS)
def alone(run, smoothing=0.05):
    """The student, trained on labels."""
    return learn(cnn(STUDENT, run), run, smoothing)


@study.arm(group=ALL, needs="teacher", tune=SOFT)
def distilled(run, temperature=1.0, label_weight=0.1):
    """The student, trained on the teacher's soft targets."""
    return distil(
        run.model("teacher"), cnn(STUDENT, run), run, distill.SoftTargets(temperature), label_weight
    )


# As many again for twice the time, in which the best learning rate may be another.
RATES = {"rate": (RATE / 2, RATE)}


@on_request(group=ALL, tune={"smoothing": (0.0, 0.05), **RATES})
def alone_longer(run, smoothing=0.05, rate=RATE):
    """The student, trained on labels for twice as long."""
    return learn(cnn(STUDENT, run), run, smoothing, epochs=2 * LONG, rate=rate)


@on_request(group=ALL, needs="teacher", tune={"label_weight": (0.0, 0.1), **RATES})
def distilled_longer(run, label_weight=0.1, rate=RATE):
    """The student, trained on the teacher's soft targets for twice as long."""
    loss, student = distill.SoftTargets(1.0), cnn(STUDENT, run)
    return distil(run.model("teacher"), student, run, loss, label_weight, epochs=2 * LONG, rate=rate)


TEACHERS = ("teacher", "teacher_2", "teacher_3")
for start, name in enumerate(TEACHERS[1:], 1):
    on_request(teacher, name=name, settings={"start": start}, group=ALL)


@on_request(group=ALL, needs=TEACHERS, tune=SOFT)
def three_teachers(run, temperature=1.0, label_weight=0.1):
    """The student, trained on the soft targets of three teachers."""
    loss = distill.SoftTargets(temperature)
    return distil([run.model(name) for name in TEACHERS], cnn(STUDENT, run), run, loss, label_weight)


@on_request(group=ALL, needs="teacher", tune=SOFT)
def distilled_standardized(run, temperature=4.0, label_weight=0.1):
    """The student, trained on soft targets of logits that have mean 0 and deviation 1."""
    loss = distill.losses.Standardized(distill.SoftTargets(temperature))
    return distil(run.model("teacher"), cnn(STUDENT, run), run, loss, label_weight)


@study.arm(group=FEW, tune=SMOOTHINGS)
def few_alone(run, smoothing=0.2):
    """The student, trained on the few labelled images for as many steps."""
    x, y = run.train
    seen = np.resize(labelled(run), len(x))
    network = cnn(STUDENT, run)
    fit(network, (x[seen], one_hot(y[seen], smoothing)), run, epochs=SHORT, rate=RATE, places=PLACES)
    return network


@study.arm(group=FEW, needs="teacher", tune=SOFT_ALONE)
def few_distilled(run, temperature=4.0):
    """The student, trained on the teacher's soft targets for all images, without any label."""
    loss = distill.SoftTargets(temperature)
    return distil(run.model("teacher"), cnn(STUDENT, run), run, loss, 0.0, epochs=SHORT)


@on_request(group=FEW, needs="teacher", tune=SMOOTHINGS)
def few_pseudo(run, smoothing=0.1):
    """The student, trained on the few labels and, for all other images, on the class that the teacher predicts."""
    (x, y), seen = run.train, labelled(run)
    answers = studies.logits(run.model("teacher"), x).argmax(axis=1)
    answers[seen] = y[seen]
    return learn(cnn(STUDENT, run), run, smoothing, labels=answers, epochs=SHORT)


UNMOVED = "short, unmoved images"


@on_request(group=UNMOVED, tune=SMOOTHINGS)
def alone_plain(run, smoothing=0.2):
    """The student, trained on labels."""
    return learn(cnn(STUDENT, run), run, smoothing, epochs=SHORT, places=0)


@on_request(group=UNMOVED, needs="teacher", tune=SOFT)
def distilled_plain(run, temperature=4.0, label_weight=0.1):
    """The student, trained on the teacher's soft targets."""
    teacher, loss = recorded_answers(run, "teacher"), distill.SoftTargets(temperature)
    return distil(teacher, cnn(STUDENT, run), run, loss, label_weight, epochs=SHORT, places=0)


RIVALS = "rivals in size"


def with_dropout(network, dropout):
    """A network made from the teacher, with another share of dropout."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = dropout
    return network


# A network as small as the student may need less dropout than its teacher.
DROPOUTS = {"dropout": (0.0, 0.4)}
RIVAL_SOFT = DROPOUTS | {"temperature": (1.0, 4.0)}


@on_request(group=RIVALS, needs="teacher", tune=RIVAL_SOFT)
def zeros(run, sparsity=SPARSITY, dropout=0.4, temperature=4.0):
    """A copy of the teacher: most of its weights are set to zero while it learns from the teacher."""
    ramp, steps = SHORT // 2, -(-len(run.train[0]) // BATCH)
    # Keras calls callbacks once per epoch here.
    schedule = pruning.PolynomialDecay(0.0, sparsity, 0, (1 if run.smoke else ramp) * steps, frequency=steps)
    gradual = pruning.GradualPruning(schedule, scope="global")
    loss = distill.SoftTargets(temperature)
    student = with_dropout(run.model("teacher"), dropout)
    return distil(run.model("teacher"), student, run, loss, 0.1, epochs=SHORT, callbacks=[gradual])


on_request(zeros, name="zeros_80", settings={"sparsity": 0.8}, needs="teacher", group=RIVALS)


def cut(run, dropout):
    """The teacher without most of its channels."""
    return with_dropout(pruning.prune_channels(run.model("teacher"), macs=CHANNELS), dropout)


@on_request(group=RIVALS, needs="teacher", tune=DROPOUTS | {"smoothing": (0.0, 0.05)})
def channels_labels(run, dropout=0.4, smoothing=0.0):
    """The teacher without most of its channels; what remains learns from labels."""
    return learn(cut(run, dropout), run, smoothing)


@on_request(group=RIVALS, needs="teacher", tune=RIVAL_SOFT)
def channels(run, dropout=0.4, temperature=4.0):
    """The teacher without most of its channels; what remains learns from the teacher."""
    student = cut(run, dropout)
    return distil(run.model("teacher"), student, run, distill.SoftTargets(temperature), 0.1)


@on_request(group=RIVALS)
def deep(run):
    """A network with two residual blocks more than the teacher, trained on labels."""
    return learn(cnn(DEEP, run), run, epochs=SHORT)


@on_request(group=RIVALS, needs="deep")
def layers(run, temperature=4.0):
    """The deep network without the blocks, or convolutions in them, that it needs least; it learns from the whole."""
    whole = run.model("deep")
    student = pruning.prune_layers(whole, BLOCKS, pruning.output_change(whole, run.train[0][:500]))
    return distil(whole, student, run, distill.SoftTargets(temperature), 0.1, epochs=SHORT)


INTEGERS = "int8 files, nothing trained"


def int8(run, of):
    """The file of a finished arm, with ranges measured on training images."""
    examples = run.train[0][:RANGES]
    return distill.export(run.model(of), run.directory / "int8.tflite", precision="int8", examples=examples)


@on_request(group=INTEGERS, needs="teacher")
def teacher_int8(run):
    """The teacher."""
    return int8(run, "teacher")


@on_request(group=INTEGERS, needs=("teacher", "distilled"))
def distilled_int8(run):
    """The distilled student."""
    return int8(run, "distilled")


@on_request(group=INTEGERS, needs=("teacher", "channels"))
def channels_int8(run):
    """What remains of the teacher without most of its channels."""
    return int8(run, "channels")


study.compare("few_distilled", "few_alone")  # first, because its arms take less than half of the default run
study.compare("distilled", "alone")
study.compare("few_distilled", "few_pseudo", primary=False)
study.compare("alone_longer", "alone", primary=False)
study.compare("distilled_longer", "alone_longer", primary=False)
study.compare("three_teachers", "distilled", primary=False)
study.compare("distilled_standardized", "distilled", primary=False)
study.compare("distilled_plain", "alone_plain", primary=False)
study.compare("alone", "alone_plain", primary=False)
study.compare("distilled", "distilled_plain", primary=False)
study.compare("zeros", "distilled", primary=False)
study.compare("channels", "distilled", primary=False)
study.compare("channels", "channels_labels", primary=False)
study.compare("layers", "teacher", primary=False)

if __name__ == "__main__":
    study.main()
