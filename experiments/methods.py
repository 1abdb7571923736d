"""Is any published method better than a tuned student without a teacher, and than plain distillation?

Small CNNs learn from 3,500 series (mnist1d) or 3,000 digits (mnist5k) with every method of `distill`, side by side:
with the same seed they have the same teacher, initial weights, data order, optimizer and number of steps. Each method
has one setting of three values that --tune tries on dev, most often a factor of the weight that its paper gives its
loss: a tenth, the weight itself, or ten times it. Labels have the weight that the loss's `recipe` says. The papers of
logit_mse, jsd and reverse_kl use no labels, and that of hard_labels gives both half the weight; here labels have weight
.1 and these losses .9, as for kd. function_matching and unlabelled see no label.

What a method needs beyond a teacher is an arm too: two more teachers, the assistant, the earlier generations. With
these, assisted takes twice the training, and born_again and the ensemble three times; the ensemble also costs three
times as much to run. The primary comparisons are of plain distillation, and of the two methods that an earlier run of
this study had ahead of the student alone. These and label smoothing are trained by default, and all others with --arms
all. Of so many methods, one in twenty would be "better" by chance if verdicts were not adjusted.

The networks and their learning rate were chosen on dev with only three arms (alone, smoothing, kd), so that teachers
train without collapse, and students are neither as good as their teachers nor too small to follow them. On mnist1d,
students with 4 and 8 filters become worse with any soft targets (82% against 87% alone, on dev); this study is not
about them.

Where a loss reads outputs or the embedding for examples as they are, teachers answer once and their cells keep the
answers; this holds for 16 of the 23 methods that need a teacher. An epoch of kd on mnist5k takes .46 s of a core
instead of .58 (a student alone .40), so 30 epochs save 3.6 s of 17, for .4 s of recording that all methods of a seed
share. Students are the same to the bit, except for last bits where a processor rounds an answer differently at another
place in a batch. Maps of features stay live: relu0 and relu1 take 75 kB an image, 226 MB a seed, and reading them takes
as long as running the teacher. Mixed examples stay live too, since each is seen once.

Command: scripts/study methods --tune, and with --data dataset=mnist5k for the digits.

Found by this study's earlier form (`scripts/study methods` at commit c8320c9: 5 seeds, each setting chosen on dev by
two more, intervals that were not adjusted, 11 hours of one core); this form has not yet been run at full size. Two of
28 methods were better than the student alone on both data sets: three teachers (+1.7 ± 1.7 and +0.6 ± 0.5 points) and
an ensemble of three students (+4.1 ± 1.9 and +0.6 ± 0.3). Only the ensemble was better than label smoothing on either.
Plain distillation gave +0.9 ± 2.4 and +0.2 ± 0.2; similarity gave +1.6 ± 1.2 and +0.2 ± 1.0. Judging by the spread
between those seeds, 16 seeds show with 95% probability a difference of 2.2 points (kd), 1.5 (three_teachers) and 1.1
(similarity) on mnist1d, and of .2, .5 and .9 on mnist5k.
"""

import math

import keras
import numpy as np
from keras.optimizers.schedules import CosineDecay, PolynomialDecay

import distill
from distill import data, losses, studies, training
from experiments._networks import Network, normalized_cnn
from experiments._training import BATCH, record_answers, recorded_answers

TEACHER = Network(filters=(16, 32), units=64, dropout=0.2)
ASSISTANT = Network(filters=(10, 20), units=40)
STUDENT = Network(filters=(6, 12), units=24)
EPOCHS, RATE = 30, 4e-3
MAPS, NORMS = ("relu0", "relu1"), ("norm0", "norm1")
RECORDED = (None, "embedding")  # outputs, and the layer of few numbers; maps are computed as fast as read
TEACHERS, ALONE = "networks that teach", "no teacher"
LOGITS, FEATURES, RELATIONS, SCHEMES = "logits", "features", "relations", "schemes"
PRIMARY = ("kd", "three_teachers", "similarity")
FACTORS = (0.1, 1.0, 10.0)  # of the published weight
# For losses published without labels or with labels of equal weight, and for students that see no labels.
BESIDE_LABELS = losses.SoftTargets.recipe
NO_LABELS = {"student_loss_weight": 0.0, "distillation_weight": 1.0}


def small(seed, dataset="mnist1d"):
    """The splits do not depend on the seed."""
    splits = data.load(dataset)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


study = studies.Study(
    "methods",
    data=small,
    seeds=16,
    title="Every method side by side",
    question="Is any published method better than a tuned student without a teacher?",
)


def method(group, *, needs="teacher", **tune):
    """Declares an arm that is compared with the student alone."""

    def declare(function):
        name = function.__name__
        study.arm(
            function, needs=needs, group=group, tune=tune, on_request=name not in ("smoothing", *PRIMARY)
        )
        study.compare(name, "alone", primary=name in PRIMARY)
        return function

    return declare


def cnn(run, network=STUDENT, name="student"):
    """A new network; all students of a seed start alike."""
    shape = run.train[0].shape[1:]
    return normalized_cnn(network, input_shape=shape, classes=10, name=name)


def epochs(run):
    """Number of passes over the training split, the same for every network."""
    return 1 if run.smoke else EPOCHS


def epoch_steps(run):
    """Number of steps in an epoch."""
    return math.ceil(len(run.train[0]) / BATCH)


def batches(run):
    """The shuffled batches of an epoch."""
    return data.batches(run.train, BATCH, seed=run.seed)


def numbered(run):
    """The same batches, in which each example has its number."""
    x, y = run.train
    return data.batches((distill.Identified(x, np.arange(len(x))), y), BATCH, seed=run.seed)


def fit(model, run, *, given=None, loss=None, decay=0.0):
    """Trains with AdamW, whose learning rate falls to 0, in the same way for all methods."""
    steps = epoch_steps(run)
    model.compile(
        keras.optimizers.AdamW(CosineDecay(RATE, steps * epochs(run)), weight_decay=decay),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps,
    )
    model.fit(
        batches(run) if given is None else given,
        epochs=epochs(run),
        validation_data=data.batches(run.dev, 500),
        callbacks=run.callbacks,
        verbose=0,
        shuffle=False,
    )
    return model


def taught(
    run, loss, factor=1.0, *, recipe=None, warmup=0, teachers=("teacher",), network=STUDENT, given=None
):
    """A student that learns from finished networks.

    Its loss has a multiple of the weight in the recipe, by default its own, which it may reach after a warm-up of some
    steps. The networks are not run where their cells recorded what the loss reads of the examples that it sees.
    """
    student = cnn(run, network)
    recipe = recipe or loss.recipe
    weight = factor * recipe["distillation_weight"]
    given = numbered(run) if given is None else given
    known = loss.teacher_layer_name in RECORDED and isinstance(given.element_spec[0], distill.Identified)
    distiller = distill.Distiller(
        [recorded_answers(run, name) if known else run.model(name) for name in teachers],
        student,
        loss,
        student_loss_weight=recipe["student_loss_weight"],
        distillation_weight=PolynomialDecay(0.0, warmup, weight) if warmup else weight,
    )
    return fit(distiller, run, given=given).student


# The networks that teach; each but the first has a start of its own.


def recorded(network, run):
    """A trained network, once what it answers to the training examples is recorded."""
    record_answers(network, run, [layer for layer in RECORDED if layer])
    return network


@study.arm(group=TEACHERS)
def teacher(run, start=0):
    """The large network, trained on the labels."""
    keras.utils.set_random_seed(run.seed + 10_000 * start)
    return recorded(fit(cnn(run, TEACHER, "teacher"), run), run)


study.arm(teacher, name="teacher_2", settings={"start": 1}, group=TEACHERS)
study.arm(teacher, name="teacher_3", settings={"start": 2}, group=TEACHERS)


@study.arm(group=TEACHERS, needs="teacher", on_request=True)
def assistant(run):
    """A network between teacher and student in size, trained on soft targets."""
    return recorded(taught(run, losses.SoftTargets(4.0), network=ASSISTANT), run)


@study.arm(group=TEACHERS, on_request=True)
def generation_1(run):
    """A network like the student, trained on the labels from another start."""
    keras.utils.set_random_seed(run.seed + 20_000)
    return recorded(fit(cnn(run), run), run)


@study.arm(group=TEACHERS, needs="generation_1", on_request=True)
def generation_2(run):
    """A network like the student, trained on labels and the first generation's answers from a third start."""
    keras.utils.set_random_seed(run.seed + 10_000)
    return recorded(taught(run, losses.SoftTargets(1.0), teachers=["generation_1"]), run)


@study.arm(group=ALONE, tune={"decay": (0.0, 1e-3, 1e-2)})
def alone(run, decay=0.0):
    """The student, trained on the labels."""
    return fit(cnn(run), run, decay=decay)


@method(ALONE, needs=(), smoothing=(0.05, 0.1, 0.2))
def smoothing(run, smoothing=0.1):
    """Label smoothing."""
    smoothed = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    return fit(cnn(run), run, loss=lambda y, logits: smoothed(one_hot(y), logits))


def one_hot(y):
    """Labels as shares of ten classes."""
    return keras.ops.one_hot(keras.ops.cast(y, "int32"), 10)


@method(ALONE, needs=(), weight=(0.1, 0.5, 0.9))
def virtual_teacher(run, weight=0.5):
    """A hand-made teacher that is right (Yuan et al. 2020)."""
    return fit(cnn(run), run, loss=losses.VirtualTeacher(weight=weight, from_logits=True))


@method(LOGITS, factor=FACTORS)
def kd(run, factor=1.0):
    """Soft targets at a temperature of 4 (Hinton et al. 2015)."""
    return taught(run, losses.SoftTargets(4.0), factor)


@method(LOGITS, factor=FACTORS)
def logit_mse(run, factor=1.0):
    """The squared difference of logits."""
    return taught(run, losses.LogitMSE(), factor, recipe=BESIDE_LABELS)


@method(LOGITS, factor=FACTORS)
def hard_labels(run, factor=1.0):
    """The class that the teacher predicts."""
    return taught(run, losses.HardTargets(), factor, recipe=BESIDE_LABELS)


@method(LOGITS, factor=FACTORS)
def standardized_kd(run, factor=1.0):
    """Soft targets of standardized logits."""
    return taught(run, losses.Standardized(losses.SoftTargets(2.0)), factor)


@method(LOGITS, factor=FACTORS)
def dkd(run, factor=1.0):
    """Decoupled distillation, whose weight grows for the first twelfth of the training, as published."""
    steps = epoch_steps(run) * epochs(run)
    return taught(run, losses.DecoupledKD(), factor, warmup=steps / 12)


@method(LOGITS, factor=FACTORS)
def dist(run, factor=1.0):
    """Correlations between and within classes."""
    return taught(run, losses.DIST(), factor)


@method(LOGITS, factor=FACTORS)
def jsd(run, factor=1.0):
    """The generalized Jensen-Shannon divergence."""
    return taught(run, losses.GeneralizedJSD(), factor, recipe=BESIDE_LABELS)


@method(LOGITS, factor=FACTORS)
def reverse_kl(run, factor=1.0):
    """The divergence from the student to the teacher."""
    return taught(run, losses.GeneralizedJSD(beta=1.0), factor, recipe=BESIDE_LABELS)


@method(LOGITS, factor=FACTORS)
def mlkd(run, factor=1.0):
    """Logits at the levels of examples, batches and classes."""
    return taught(run, losses.MultiLevelKD(), factor)


@method(LOGITS, factor=FACTORS)
def ctkd(run, factor=1.0):
    """Soft targets at a temperature that is learned."""
    return taught(run, losses.CurriculumTemperature(10 * epoch_steps(run)), factor)


@method(FEATURES, factor=FACTORS)
def hint(run, factor=1.0):
    """The last map of features, through a projector."""
    return taught(run, losses.Hint("relu1", "relu1"), factor)


@method(FEATURES, factor=FACTORS)
def attention(run, factor=1.0):
    """Where maps are active."""
    return taught(run, losses.AttentionTransfer(MAPS, MAPS), factor)


@method(FEATURES, factor=FACTORS)
def vid(run, factor=1.0):
    """The information that maps share."""
    return taught(run, losses.VariationalInformation(MAPS, MAPS), factor)


@method(FEATURES, factor=FACTORS)
def nst(run, factor=1.0):
    """The distributions of activations."""
    return taught(run, losses.NeuronSelectivity(MAPS, MAPS), factor)


@method(FEATURES, factor=FACTORS)
def ofd(run, factor=1.0):
    """Features before their activation, above a margin."""
    margins = [losses.batch_norm_margins(run.model("teacher").get_layer(name)) for name in NORMS]
    return taught(run, losses.OverhaulDistillation(margins, NORMS, NORMS), factor)


@method(RELATIONS, factor=FACTORS)
def similarity(run, factor=1.0):
    """The similarities of a batch's examples."""
    return taught(run, losses.SimilarityPreserving("relu1", "relu1"), factor)


@method(RELATIONS, factor=FACTORS)
def rkd(run, factor=1.0):
    """Distances and angles between examples."""
    return taught(run, losses.Relational("embedding", "embedding"), factor)


@method(RELATIONS, factor=FACTORS)
def pkt(run, factor=1.0):
    """The probabilities of being neighbours."""
    return taught(run, losses.ProbabilisticTransfer("embedding", "embedding"), factor)


@method(RELATIONS, factor=FACTORS)
def crd(run, factor=1.0):
    """Contrasts between examples, of which the loss remembers all."""
    return taught(run, losses.ContrastiveRepresentation(run.train[1], "embedding", "embedding"), factor)


@method(SCHEMES, needs=("teacher", "teacher_2", "teacher_3"), factor=FACTORS)
def three_teachers(run, factor=1.0):
    """Soft targets of three teachers."""
    return taught(run, losses.SoftTargets(4.0), factor, teachers=("teacher", "teacher_2", "teacher_3"))


@method(SCHEMES, needs=(), factor=FACTORS)
def mutual(run, factor=1.0):
    """Two students that learn from each other; the first is scored."""
    first, second = cnn(run, name="first"), cnn(run, name="second")
    fit(distill.MutualLearning([first, second], distillation_weight=factor), run)
    return first


@method(SCHEMES, needs="generation_2", factor=FACTORS)
def born_again(run, factor=1.0):
    """The third generation of the same network, each taught by the one before (Furlanello et al. 2018)."""
    return taught(run, losses.SoftTargets(1.0), factor, teachers=["generation_2"])


@method(SCHEMES, needs=("teacher", "generation_1", "generation_2", "born_again"))
def ensemble(run):
    """The mean of the probabilities of three generations, which costs three times as much."""
    return training.ensemble([run.model(name) for name in ("generation_1", "generation_2", "born_again")])


@method(SCHEMES, needs="assistant", factor=FACTORS)
def assisted(run, factor=1.0):
    """Soft targets of a network between teacher and student in size (Mirzadeh et al. 2020)."""
    return taught(run, losses.SoftTargets(4.0), factor, teachers=["assistant"])


@method(SCHEMES, alpha=(0.3, 1.0, 3.0))
def function_matching(run, alpha=1.0):
    """The teacher's answers to mixed examples, without labels (Beyer et al. 2022)."""
    given = data.mixup(batches(run), seed=run.seed, alpha=alpha)
    return taught(run, losses.SoftTargets(1.0), recipe=NO_LABELS, given=given)


@method(SCHEMES, temperature=(1.0, 4.0, 8.0))
def unlabelled(run, temperature=4.0):
    """The teacher's answers alone."""
    given = numbered(run).map(lambda x, _: (x,))
    return taught(run, losses.SoftTargets(temperature), recipe=NO_LABELS, given=given)


if __name__ == "__main__":
    study.main()
