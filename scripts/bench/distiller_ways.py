"""The ways in which distiller.py trains a pair for an epoch, each a function of the clock that returns seconds."""

import contextlib
import time

import keras
import tensorflow as tf

import distill
from distill import cache, training

TEMPERATURE, WEIGHT = 4.0, 0.1  # of the softmax, and of the student's own loss
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Recipe(keras.Model):
    """Distillation as the keras.io example had it: a model with a `train_step` of its own."""

    def __init__(self, teacher, student):
        super().__init__()
        self.teacher, self.student = teacher, student
        self.kl = keras.losses.KLDivergence()

    def call(self, x, training=False):
        """Runs the student."""
        return self.student(x, training=training)

    def train_step(self, data):
        """Trains the student on a batch."""
        x, y = data
        taught = self.teacher(x, training=False)
        with tf.GradientTape() as tape:
            learned = self.student(x, training=True)
            softened = [tf.nn.softmax(one / TEMPERATURE) for one in (taught, learned)]
            own = CROSS_ENTROPY(y, learned)
            loss = WEIGHT * own + (1 - WEIGHT) * self.kl(*softened) * TEMPERATURE**2
        variables = self.student.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self._loss_tracker.update_state(loss)
        return {"loss": self._loss_tracker.result()}


def compiled(model):
    """The model, compiled as all of them are."""
    model.compile("adam", CROSS_ENTROPY)
    return model


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(function, clock="wall"):
    """The seconds that a function takes."""
    start = CLOCKS[clock]()
    function()
    return CLOCKS[clock]() - start


class LastEpoch(keras.callbacks.Callback):
    """Notes the seconds of the last epoch: the first one of a `fit` traces the data's pipeline, once for all epochs."""

    def __init__(self, clock):
        super().__init__()
        self.now, self.seconds = CLOCKS[clock], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.start = self.now()

    def on_epoch_end(self, epoch, logs=None):
        """Reads it."""
        self.seconds = self.now() - self.start


def epoch(model, x, y, batch):
    """The second epoch of a `fit`."""

    def run(clock):
        watch = LastEpoch(clock)
        model.fit(x, y, batch_size=batch, epochs=2, shuffle=False, verbose=0, callbacks=[watch])
        return watch.seconds

    return run


def evaluation(model, x, y, batch):
    """An `evaluate`."""
    return lambda clock: timed(lambda: model.evaluate(x, y, batch_size=batch, verbose=0), clock)


def bare(teacher, x, batch, *, constants=False, xla=False):
    """A compiled teacher over the same batches, and nothing else.

    Args:
        teacher: the teacher.
        x: inputs of an epoch.
        batch: examples per batch.
        constants: whether the graph holds its weights as constants.
        xla: whether XLA compiles it.
    """
    state = [(variable, tf.constant(variable.numpy())) for variable in teacher.variables] if constants else []

    def answer(part):
        with keras.StatelessScope(state_mapping=state) if constants else contextlib.nullcontext():
            return teacher(part, training=False)

    step = tf.function(answer, autograph=False, reduce_retracing=True, jit_compile=xla)
    batches = [tf.constant(x[i : i + batch]) for i in range(0, len(x), batch)]

    def run():
        for answered in [step(part) for part in batches]:
            answered.numpy()

    return lambda clock: timed(run, clock)


def soft(teacher, student, *features):
    """Our Distiller, with a squared difference of layers too if there are any."""
    own = [distill.SoftTargets(TEMPERATURE)]
    if features:
        own.append(distill.losses.Hint(*features, projector=keras.layers.Identity()))
    return distill.Distiller(teacher, student, own, student_loss_weight=WEIGHT)


def repaired(teacher, student, *features):
    """keras.distillation with a loss that applies softmax and T², which its default does not."""
    its = keras.distillation
    own = [its.LogitsDistillation(TEMPERATURE, loss=keras.losses.KLDivergence())]
    if features:
        own.append(its.FeatureDistillation("mse", *features))
    weights = [1.0] * len(own)
    return its.Distiller(teacher, student, own, distillation_loss_weights=weights, student_loss_weight=WEIGHT)


def ways(pair, folder, only=None):
    """Makes the ways that a pair can be trained in.

    Args:
        pair: the pair.
        folder: folder for caches.
        only: names of the ways to make; all by default.

    Returns:
        Name -> function of the clock that trains, answers or evaluates, and returns the seconds of an epoch; and what
        `faster_teacher` found, if asked for.
    """
    keras.utils.set_random_seed(0)
    (x, y), batch, teacher, faster = pair.data, pair.batch, pair.teacher(), None

    def train(model, inputs=x):
        return epoch(compiled(model), inputs, y, batch)

    def cached(name, target):
        answers = cache.record(teacher, x, folder / name, targets=target, batch_size=batch, verbose=0)
        return train(soft(answers, pair.student()), answers.with_ids(x))

    def with_faster():
        nonlocal faster
        faster = training.faster_teacher(teacher, x[:batch], runs=5)
        return train(soft(faster.teacher, pair.student()))

    top = cache.TopK(min(64, pair.classes // 2), temperatures=(TEMPERATURE,))
    makers = {
        "live": lambda: train(soft(teacher, pair.student())),
        "live, faster teacher": with_faster,
        "keras.distillation": lambda: train(repaired(teacher, pair.student())),
        "recipe": lambda: train(Recipe(teacher, pair.student())),
        "student": lambda: train(pair.student()),
        "teacher": lambda: bare(teacher, x, batch),
        "cached dense": lambda: cached("dense", cache.Dense()),
        "cached top-k": lambda: cached("top-k", top),
        "evaluate": lambda: evaluation(compiled(soft(teacher, pair.student())), x, y, batch),
        "evaluate student": lambda: evaluation(compiled(pair.student()), x, y, batch),
    }
    if pair.features:
        makers["features"] = lambda: train(soft(teacher, pair.student(), *pair.features))
        makers["features, keras.distillation"] = lambda: train(
            repaired(teacher, pair.student(), *pair.features)
        )
    return {name: make() for name, make in makers.items() if only is None or name in only}, faster
