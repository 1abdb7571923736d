"""What does it cost to keep little of a teacher's answers: in accuracy, in bytes, and in minutes?

A student learns from a teacher's soft targets alone, at a temperature of 2. It learns from the live teacher, or from a
cache that holds all numbers, the k largest with the exact sum of the rest, the k largest as if there were no others
(renormalised, as in published caches), or classes that were drawn, as many as take the bytes of the k largest. All
students of a seed start alike and see the same batches in the same order, so they differ only in what they are told.
On request, the same is done at a temperature of 1, where a sure teacher leaves little to the rest.

There are two problems. In mnist5k, a small CNN learns what a CNN 16 times as large answers to mixed digits, in eight
views of each; of ten classes it is told two. In the files below /usr (--data task=filetypes), a small network learns
from Magika (PyPI `magika`, an ONNX file that maps 2,048 bytes of a file to 214 types) what a file is; it is told eight
types. There, the right type is the one that Magika names; files in the directories of test were not seen in training.

Command: scripts/study cached, and with --data task=filetypes once magika and onnxruntime are installed, about 10 and 20
minutes of one core. For files, leave the live teacher out (--arms alone dense top renormalised sampled): it takes 8 ms
a file and would turn a training of 15 s into one of 4 minutes.

Found in mnist5k, with 5 seeds: all numbers of a cache teach as the live teacher does, in every digit. With float16, no
change is shown. Two of ten classes with the sum of the rest are not shown to cost accuracy (−.08 points, −.50 to +.34)
or NLL; without that sum accuracy stays, but probabilities get worse, by .029 nats on top of .131 (.014 to .043). Six
draws, which take as many bytes, are not shown to cost anything either (−.28 points, −1.23 to +.67). The 24,000 answers
take 1.06 MB, .58 in float16 and .49 in part. On an AMD EPYC with AVX2, recording them takes 6 s of a core; training
takes 15 s with a cache, 20 s with the teacher, which is small, and 11 s on labels. Labels reach as much accuracy here,
but .169 nats instead of the .125 of soft targets. For files, with 5 seeds, 1,250 of them to learn from and 358 for
test: no difference in accuracy is shown (34 % for all numbers), since five seeds would not show less than 5 points.
Soft targets halve the NLL of labels (3.65 against 7.53). Eight of 214 classes with the sum of the rest cost .44 nats
(.18 to .70), because the other 206 hold a quarter of the probability at a temperature of 2; draws of as many bytes are
not shown to cost any (+.17, −.01 to +.35), and are better than the eight largest by .27 (.12 to .41). The cache takes
71 kB in place of 1.08 MB.
"""

import dataclasses
import time

import keras
import numpy as np
import tensorflow as tf

import distill
from distill import cache, data, exports, studies
from distill.studies import tables
from experiments._filetypes import PADDING, TYPES, files, magika
from experiments._networks import Network, plain_cnn
from experiments._training import BATCH, fit, one_hot

TEACHER = Network(filters=(16, 32), units=64, dropout=0.4)
STUDENT = Network(filters=(4, 8), units=16)
TEACHER_EPOCHS, PLACES, TEACHER_RATE = 20, 2, 3e-3
HOT, COLD = 2.0, 1.0  # temperatures


@dataclasses.dataclass(frozen=True)
class Task:
    """How a problem is trained, and what is kept of its teacher.

    Attributes:
        epochs: passes over all views.
        views: views of each example.
        rate: learning rate at the start.
        kept: k of the largest logits, 6 bytes each and 4 for the rest.
        drawn: classes that are drawn, which take as many bytes: 2 each and 4 for the entropy.
    """

    epochs: int
    views: int
    rate: float
    kept: int
    drawn: int


DIGITS = Task(epochs=3, views=8, rate=6e-3, kept=2, drawn=6)
FILETYPES = Task(epochs=24, views=1, rate=4e-3, kept=8, drawn=24)


# Data.


def examples(seed, task="mnist5k", root="/usr"):
    """The splits do not depend on the seed."""
    if task == "filetypes":
        return files(root)
    splits = data.load(task)
    return data.arrays(splits.train), data.arrays(splits.dev), data.arrays(splits.test)


def mixed(x, seed):
    """Each image with another of its batch, in one share for all: both are drawn."""
    partner = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(x)[0]), seed)
    share = tf.random.stateless_uniform((), seed)
    return share * x + (1 - share) * tf.gather(x, partner)


def same(x, seed):
    """Files are not mixed."""
    return x


def task_of(run):
    """Images have four axes, ends of files two."""
    task = DIGITS if run.train[0].ndim == 4 else FILETYPES
    return dataclasses.replace(task, epochs=1, views=1) if run.smoke else task


def views(run):
    """What all students see in an epoch but that on labels, (x,); each batch is a view of the same examples."""
    plain = data.batches(run.train[0], BATCH)
    augment = mixed if run.train[0].ndim == 4 else same
    return cache.views(plain, augment, count=task_of(run).views, seed=run.seed)


# Networks.


def student(run):
    """A new student; all of a seed start alike."""
    x = run.train[0]
    if x.ndim == 4:
        return plain_cnn(STUDENT, input_shape=x.shape[1:], classes=10)
    layers = keras.layers
    inputs = keras.Input(x.shape[1:], dtype="int32")
    maps = layers.Conv1D(32, 8, strides=4, activation="relu")(layers.Embedding(PADDING + 1, 8)(inputs))
    maps = layers.Conv1D(48, 5, strides=4, activation="relu")(maps)
    # Features found anywhere in the file, and those of its beginning.
    found = [layers.GlobalMaxPooling1D()(maps), layers.Flatten()(maps[:, :4])]
    hidden = layers.Dense(64, activation="relu")(layers.Concatenate()(found))
    return keras.Model(inputs, layers.Dense(TYPES)(hidden))


def asked(run):
    """The teacher as a function of a numpy batch, or as a model; it returns logits."""
    if run.train[0].ndim == 4:
        return run.model("teacher")
    network = exports.Exported(run.file("teacher"))

    def logits(x):
        return np.log(np.maximum(network.predict(x), 1e-30))

    return logits


class Costs(keras.callbacks.Callback):
    """Adds to the logs of an epoch what was spent until its end: bytes, and seconds of all cores that were at work."""

    def __init__(self, recording=0.0, size=0):
        super().__init__()
        self._recording, self._size, self._began = recording, size, time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        """Adds them."""
        logs["cache_bytes"], logs["recording_seconds"] = self._size, self._recording
        logs["training_seconds"] = time.process_time() - self._began


def train(model, given, run, costs, *, epochs=None, loss=None):
    """Trains in the same way for all students, from batches in an order of the seed."""
    task = task_of(run)
    epochs, steps = task.epochs if epochs is None else epochs, int(given.cardinality())
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(task.rate, epochs * steps)),
        loss,
        steps_per_execution=steps,
    )
    given = given.shuffle(steps, seed=run.seed)
    model.fit(given, epochs=epochs, callbacks=[costs, *run.callbacks], verbose=0, shuffle=False)


def recorded(run, target):
    """The teacher's answers to what students see, in the cell's folder, and what they cost."""
    began = time.process_time()
    answers = cache.record(asked(run), views(run), run.directory / "answers", targets=target, verbose=0)
    spent = time.process_time() - began
    return answers, Costs(spent, cache.inspect(answers.path).bytes)


def taught(run, target, temperature):
    """A student that learns from a cache."""
    answers, costs = recorded(run, target)
    distiller = distill.Distiller(
        answers,
        student(run),
        distill.SoftTargets(temperature),
        student_loss_weight=0.0,
        from_logits=(True, None),
    )
    train(distiller, answers.with_ids(views(run)), run, costs)
    return distiller.student


def renormalised_loss(kept, temperature):
    """T² KL(p ‖ q) with p = softmax over the k classes of a cache alone: what the teacher gives to others is dropped.

    Labels of this loss are the classes and their logits, (batch, 2k).
    """

    def loss(told, logits):
        ids, largest = keras.ops.cast(told[:, :kept], "int32"), told[:, kept:]
        log_p = keras.ops.log_softmax(largest / temperature, axis=-1)
        log_q = keras.ops.log_softmax(logits / temperature, axis=-1)
        apart = log_p - keras.ops.take_along_axis(log_q, ids, axis=-1)
        return temperature**2 * keras.ops.sum(keras.ops.exp(log_p) * apart, axis=-1)

    return loss


study = studies.Study(
    "cached",
    data=examples,
    seeds=5,
    metrics=(studies.ACCURACY, studies.NLL, studies.AGREEMENT),
    title="What is lost when little of a teacher's answers is kept",
    question="Does a student learn as much from a part of the teacher's answers as from all of them?",
)
NONE, ALL, PART = "no cache", "all numbers", "a part of them"


@study.arm(group=NONE)
def teacher(run):
    """The teacher: a CNN trained on the labels of moved digits, or Magika's file."""
    x, y = run.train
    if x.ndim == 2:
        return magika()
    network = plain_cnn(TEACHER, input_shape=x.shape[1:], classes=10)
    fit(network, (x, one_hot(y)), run, epochs=TEACHER_EPOCHS, rate=TEACHER_RATE, places=PLACES)
    return network


@study.arm(group=NONE)
def alone(run):
    """The student, trained on labels for as many steps; of files, these are the types that Magika names."""
    task, network = task_of(run), student(run)
    given = data.batches(run.train, BATCH, seed=run.seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    train(network, given, run, Costs(), epochs=task.epochs * task.views, loss=loss)
    return network


@study.arm(group=NONE, needs="teacher")
def live(run, temperature=HOT):
    """The student, taught by the teacher itself."""
    ask = asked(run)
    classes = 10 if isinstance(ask, keras.Model) else TYPES

    def within(x):
        return tf.ensure_shape(tf.numpy_function(ask, [x], tf.float32), (None, classes))

    distiller = distill.Distiller(
        ask if isinstance(ask, keras.Model) else within,
        student(run),
        distill.SoftTargets(temperature),
        student_loss_weight=0.0,
        from_logits=(True, None),
    )
    train(distiller, views(run), run, Costs())
    return distiller.student


def dense(run, temperature=HOT, dtype="float32"):
    """The student, taught by a cache of all numbers."""
    return taught(run, cache.Dense(dtype), temperature)


def top(run, temperature=HOT):
    """The student, taught by the largest logits and the exact sum of the rest."""
    target = cache.TopK(task_of(run).kept, temperatures=(temperature,), from_logits=True)
    return taught(run, target, temperature)


def renormalised(run, temperature=HOT):
    """The student, taught by the largest logits as if there were no other classes."""
    kept = task_of(run).kept
    answers, costs = recorded(run, cache.TopK(kept, temperatures=(temperature,), from_logits=True))
    found = answers.look_up(np.arange(answers.examples))
    told = tf.constant(np.concatenate([found["output.ids"], found["output.logits"]], axis=1))
    network = student(run)
    given = answers.with_ids(views(run)).map(lambda x: (x.inputs, tf.gather(told, x.ids)))
    train(network, given, run, costs, loss=renormalised_loss(kept, temperature))
    return network


def sampled(run, temperature=HOT):
    """The student, taught by classes that were drawn from the softened answers."""
    target = cache.Sampled(task_of(run).drawn, temperature=temperature, seed=run.seed, from_logits=True)
    return taught(run, target, temperature)


for function, group in ((dense, ALL), (top, PART), (renormalised, PART), (sampled, PART)):
    study.arm(function, group=group, needs="teacher")
    study.arm(
        function,
        name=f"{function.__name__}-cold",
        settings={"temperature": COLD},
        group=f"{group}, at a temperature of 1",
        needs="teacher",
        on_request=True,
    )
study.arm(dense, name="dense-float16", settings={"dtype": "float16"}, group=ALL, needs="teacher")

study.compare("top", "dense")
study.compare("renormalised", "top")
study.compare("sampled", "dense")
study.compare("dense", "live", primary=False)
study.compare("dense-float16", "dense", primary=False)
study.compare("dense", "alone", primary=False)
study.compare("sampled", "top", primary=False)
for name in ("top", "renormalised", "sampled"):
    study.compare(f"{name}-cold", "dense-cold", primary=False)


@study.section
def bytes_and_seconds(found):
    """What a cache takes, and what training does."""
    rows = []
    for arm in found.arms:
        last = [cell.history[-1] for cell in arm.cells if cell.history and "cache_bytes" in cell.history[-1]]
        if last:
            size, recording, training = (
                float(np.median([logs[key] for logs in last]))
                for key in ("cache_bytes", "recording_seconds", "training_seconds")
            )
            rows.append(
                (arm.name, f"{size:,.0f}" if size else tables.NOTHING, f"{recording:.1f}", f"{training:.1f}")
            )
    headings = ("arm", "bytes of\nthe cache", "seconds to\nrecord", "seconds to\ntrain")
    yield tables.Grid("Bytes and seconds", headings, tuple(rows))
    yield "Medians over seeds. Seconds are of all cores together, and depend on the machine."


if __name__ == "__main__":
    study.main()
