"""Does a loss of `distill.losses` cost more than the plainest correct way to write it?

Each loss is timed forward and backward, with the gradients of the student's tensor and of the loss's own weights,
against a few lines of TensorFlow that follow the paper in float32 and in logarithms. Both must first agree in value
and gradient. They run in turn, in random order, and each round gives one ratio of their times.

Command: scripts/bench/losses. About 4 minutes of CPU time, twice as long on shared cores.
Options: --only NAME for some of the losses, --rounds and --seconds for how long, --jit for how they are compiled.
Expected: ratios about 1 or below. The largest of 86, at 256×100 without XLA, are SimilarityPreserving's 1.20 [1.18,
    1.22] and MultiLevelKD's 1.19 [1.17, 1.21]. The exit status is 1 if a ratio is certainly above 1.2: if the lower
    end of its 95 % interval is.
"""

# ruff: noqa: D103 - a plain formulation is named after its loss, whose docstring explains it

import dataclasses
import functools
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import rich.box
import tensorflow as tf
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from distill import losses

LIMIT = 1.2
AGREEMENT = 1e-4
Shape = tuple[int, ...]
Pair = tuple[Shape, Shape]  # teacher's and student's


# --- the plainest correct formulations: (loss, teacher, student, labels) to a scalar ------------------------------
# Both share the projectors, trained numbers, margins and memory of the loss. Everything else is written out.


def kl(log_p, log_q):
    return tf.reduce_sum(tf.exp(log_p) * (log_p - log_q), axis=-1)


def soft_targets(loss, teacher, student, labels, temperature=4.0):
    log_p, log_q = (tf.nn.log_softmax(side / temperature) for side in (teacher, student))
    return temperature**2 * tf.reduce_mean(kl(log_p, log_q))


def bernoulli_soft_targets(loss, teacher, student, labels, temperature=4.0):
    t, s = teacher / temperature, student / temperature
    log_p, log_q = tf.math.log_sigmoid(t), tf.math.log_sigmoid(s)
    log_not_p, log_not_q = tf.math.log_sigmoid(-t), tf.math.log_sigmoid(-s)
    divergence = tf.exp(log_p) * (log_p - log_q) + tf.exp(log_not_p) * (log_not_p - log_not_q)
    return temperature**2 * tf.reduce_mean(tf.reduce_sum(divergence, axis=-1))


def mean_squared(loss, teacher, student, labels):
    return tf.reduce_mean(tf.square(student - teacher))


def hard_targets(loss, teacher, student, labels):
    target = tf.argmax(teacher, axis=-1)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=student))


def standardize(logits):
    centered = logits - tf.reduce_mean(logits, axis=-1, keepdims=True)
    variance = tf.reduce_sum(tf.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    return centered / (1e-7 + tf.sqrt(variance))


def standardized(loss, teacher, student, labels):
    return soft_targets(loss, standardize(teacher), standardize(student), labels, temperature=2.0)


def decoupled(loss, teacher, student, labels, alpha=1.0, beta=8.0, temperature=4.0):
    target = tf.one_hot(labels, student.shape[-1], True, False, dtype=tf.bool)

    def decouple(logits):
        log_p = tf.nn.log_softmax(logits)
        label = tf.reduce_sum(tf.where(target, log_p, 0.0), axis=-1)
        rest = tf.reduce_logsumexp(tf.where(target, -1e30, log_p), axis=-1)
        return tf.stack([label, rest], axis=-1), tf.nn.log_softmax(tf.where(target, -1e30, logits))

    (b_t, o_t), (b_s, o_s) = decouple(teacher / temperature), decouple(student / temperature)
    return temperature**2 * tf.reduce_mean(alpha * kl(b_t, b_s) + beta * kl(o_t, o_s))


def pearson(a, b, axis):
    a, b = (side - tf.reduce_mean(side, axis=axis, keepdims=True) for side in (a, b))
    return tf.reduce_sum(a * b, axis=axis) / (tf.norm(a, axis=axis) * tf.norm(b, axis=axis) + 1e-8)


def dist(loss, teacher, student, labels):
    p, q = tf.nn.softmax(teacher), tf.nn.softmax(student)
    return 2.0 - tf.reduce_mean(pearson(p, q, axis=1)) - tf.reduce_mean(pearson(p, q, axis=0))


def generalized_jsd(loss, teacher, student, labels):
    log_p, log_q = tf.nn.log_softmax(teacher), tf.nn.log_softmax(student)
    log_m = tf.reduce_logsumexp(tf.stack([log_p, log_q]) + np.log(0.5, dtype="float32"), axis=0)
    return tf.reduce_mean(0.5 * kl(log_p, log_m) + 0.5 * kl(log_q, log_m))


def multi_level(loss, teacher, student, labels):
    total = 0.0
    for temperature in (2.0, 3.0, 4.0, 5.0, 6.0):
        log_p, log_q = (tf.nn.log_softmax(side / temperature) for side in (teacher, student))
        p, q = tf.exp(log_p), tf.exp(log_q)
        examples = tf.matmul(p, p, transpose_b=True) - tf.matmul(q, q, transpose_b=True)
        classes = tf.matmul(p, p, transpose_a=True) - tf.matmul(q, q, transpose_a=True)
        total += temperature**2 * tf.reduce_mean(kl(log_p, log_q))
        total += tf.reduce_sum(tf.square(examples)) / p.shape[0]
        total += tf.reduce_sum(tf.square(classes)) / p.shape[1]
    return total


def curriculum(loss, teacher, student, labels):
    (theta,) = trained(loss)

    @tf.custom_gradient
    def reverse(theta):
        return tf.identity(theta), lambda gradient: -0.5 * gradient

    temperature = 1.0 + 20.0 * tf.sigmoid(reverse(theta))
    return soft_targets(loss, teacher, student, labels, temperature)


def hint(loss, teacher, student, labels):
    return tf.reduce_mean(tf.square(loss.projectors[0](student, training=True) - teacher))


def attention_transfer(loss, teacher, student, labels):
    def attention(features):
        energy = tf.reduce_mean(tf.square(features), axis=-1)
        return tf.math.l2_normalize(tf.reshape(energy, (energy.shape[0], -1)), axis=-1, epsilon=1e-24)

    return tf.reduce_mean(tf.square(attention(student) - attention(teacher)))


def variational_information(loss, teacher, student, labels):
    mean = loss.projectors[0](student, training=True)
    variance = tf.nn.softplus(loss.variances[0].a.value) + 1e-5
    return tf.reduce_mean(0.5 * (tf.square(mean - teacher) / variance + tf.math.log(variance)))


def neuron_selectivity(loss, teacher, student, labels):
    def channels(features):
        flat = tf.reshape(features, (features.shape[0], -1, features.shape[-1]))
        return tf.math.l2_normalize(flat, axis=1, epsilon=1e-24)

    def kernel(a, b):
        return tf.reduce_mean(tf.square(tf.matmul(a, b, transpose_a=True)))

    t, s = channels(teacher), channels(student)
    return kernel(t, t) + kernel(s, s) - 2.0 * kernel(s, t)


def overhaul(loss, teacher, student, labels):
    connected = loss.projectors[0](student, training=True)
    target = tf.maximum(teacher, loss.margins[0])
    counted = tf.cast((connected > target) | (target > 0), tf.float32)
    return tf.reduce_sum(counted * tf.square(connected - target)) / teacher.shape[0] / 1000.0


def flat(features):
    return tf.reshape(features, (features.shape[0], -1))


def similarity_preserving(loss, teacher, student, labels):
    def similarities(features):
        products = tf.matmul(flat(features), flat(features), transpose_b=True)
        return tf.math.l2_normalize(products, axis=-1, epsilon=1e-24)

    return tf.reduce_mean(tf.square(similarities(student) - similarities(teacher)))


def smooth_l1(x):
    return tf.where(tf.abs(x) < 1.0, 0.5 * tf.square(x), tf.abs(x) - 0.5)


def differences(features):
    # ‖a‖² + ‖b‖² − 2⟨a, b⟩ would be faster, but loses all digits of rows that lie close to each other.
    return flat(features)[None, :, :] - flat(features)[:, None, :]


def relational_distance(loss, teacher, student, labels):
    def distances(features):
        d = tf.sqrt(tf.maximum(tf.reduce_sum(tf.square(differences(features)), axis=-1), 1e-12))
        d *= 1.0 - tf.eye(d.shape[0])
        return d / (tf.reduce_sum(d) / tf.cast(tf.math.count_nonzero(d), tf.float32))

    return tf.reduce_mean(smooth_l1(distances(student) - distances(teacher)))


def relational_angle(loss, teacher, student, labels):
    def angles(features):
        e = tf.math.l2_normalize(differences(features), axis=-1, epsilon=1e-24)
        return tf.matmul(e, e, transpose_b=True)

    # The mean is per example first: one sum of 16 million terms loses the fourth digit in XLA.
    of_examples = tf.reduce_mean(smooth_l1(angles(student) - angles(teacher)), axis=(1, 2))
    return tf.reduce_mean(of_examples)


def relational(loss, teacher, student, labels):
    distance = relational_distance(loss, teacher, student, labels)
    return 25.0 * distance + 50.0 * relational_angle(loss, teacher, student, labels)


def probabilistic_transfer(loss, teacher, student, labels):
    def neighbours(features):
        x = flat(features)
        x /= tf.norm(x, axis=-1, keepdims=True) + 1e-7
        k = (tf.matmul(x, x, transpose_b=True) + 1.0) / 2.0
        return k / tf.reduce_sum(k, axis=-1, keepdims=True)

    k_t, k_s = neighbours(teacher), neighbours(student)
    # k_t − k_s adds up to 0. Without it large terms would cancel and lose digits.
    return tf.reduce_mean(k_t * tf.math.log((k_t + 1e-7) / (k_s + 1e-7)) - (k_t - k_s))


def contrastive(loss, teacher, student, ids, temperature=0.07, momentum=0.5):
    memory, examples = loss._memory, len(loss._labels)
    own, drawn = tf.gather(loss._row_of, ids), loss._draw(ids)
    rows = tf.concat([tf.cast(own[:, None], drawn.dtype), drawn], axis=1)
    of_teacher = tf.math.l2_normalize(loss._embed_teacher(flat(teacher)), axis=-1)
    of_student = tf.math.l2_normalize(loss._embed_student(flat(student)), axis=-1)
    noise = drawn.shape[1] / examples

    def contrast(anchors, bank, scale):
        scores = tf.exp(tf.einsum("bd,bkd->bk", anchors, tf.gather(bank, rows)) / temperature)
        scale.assign(tf.where(scale > 0, scale, examples * tf.reduce_mean(scores)))
        x = scores / tf.stop_gradient(scale)
        shares = x + noise + 1e-7
        told = tf.math.log(x[:, 0] / shares[:, 0])
        return -tf.reduce_mean(told + tf.reduce_sum(tf.math.log(noise / shares[:, 1:]), axis=-1))

    value = contrast(of_student, memory.teacher.value, memory.student_scale.value)
    value += contrast(of_teacher, memory.student.value, memory.teacher_scale.value)
    for bank, new in ((memory.teacher.value, of_teacher), (memory.student.value, of_student)):
        mixed = momentum * tf.gather(bank, own) + (1.0 - momentum) * new
        bank.scatter_nd_update(own[:, None], tf.math.l2_normalize(mixed, axis=-1))
    return value


# --- what is timed -----------------------------------------------------------------------------------------------


def half_reversed(channels):
    """Returns the loss halfway through its curriculum and at a low temperature, so that θ has a clear gradient."""
    loss = losses.CurriculumTemperature(10)
    loss.settings[0].update(5.0)
    loss.layers[0].value.assign(-3.0)
    return loss


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss, made for the teacher's number of channels, and its plain formulation."""

    make: Callable[[int], losses.DistillationLoss]
    plain: Callable[..., Any]
    pairs: tuple[Pair, ...]
    memory: bool = False  # whether to report the memory of a step


MAP = (64, 8, 8, 256)
VECTORS = (((256, 100), (256, 100)), ((256, 1000), (256, 1000)))
SAME = ((MAP, MAP),)
PROJECTED = (*SAME, (MAP, (64, 8, 8, 128)))

# Add an entry here for each new loss.
CASES = {
    "SoftTargets": Case(lambda c: losses.SoftTargets(), soft_targets, VECTORS),
    "BernoulliSoftTargets": Case(lambda c: losses.BernoulliSoftTargets(), bernoulli_soft_targets, VECTORS),
    "LogitMSE": Case(lambda c: losses.LogitMSE(), mean_squared, VECTORS),
    "OutputMSE": Case(lambda c: losses.OutputMSE(), mean_squared, VECTORS),
    "HardTargets": Case(lambda c: losses.HardTargets(), hard_targets, VECTORS),
    "Standardized": Case(lambda c: losses.Standardized(losses.SoftTargets(2.0)), standardized, VECTORS),
    "DecoupledKD": Case(lambda c: losses.DecoupledKD(), decoupled, VECTORS),
    "DIST": Case(lambda c: losses.DIST(), dist, VECTORS),
    "GeneralizedJSD": Case(lambda c: losses.GeneralizedJSD(), generalized_jsd, VECTORS),
    "MultiLevelKD": Case(lambda c: losses.MultiLevelKD(), multi_level, VECTORS),
    "CurriculumTemperature": Case(half_reversed, curriculum, VECTORS),
    "Hint": Case(lambda c: losses.Hint(), hint, PROJECTED),
    "AttentionTransfer": Case(lambda c: losses.AttentionTransfer(), attention_transfer, SAME),
    "VariationalInformation": Case(
        lambda c: losses.VariationalInformation(), variational_information, PROJECTED
    ),
    "NeuronSelectivity": Case(lambda c: losses.NeuronSelectivity(), neuron_selectivity, SAME),
    "OverhaulDistillation": Case(
        lambda c: losses.OverhaulDistillation(np.linspace(-1.0, 0.0, c)), overhaul, PROJECTED
    ),
    "SimilarityPreserving": Case(
        lambda c: losses.SimilarityPreserving(), similarity_preserving, VECTORS + SAME
    ),
    "Relational": Case(lambda c: losses.Relational(), relational, VECTORS[:1]),
    "Relational (distance)": Case(
        lambda c: losses.Relational(distance=1.0, angle=0.0), relational_distance, VECTORS
    ),
    "Relational (angle)": Case(
        lambda c: losses.Relational(distance=0.0, angle=1.0), relational_angle, VECTORS + SAME, memory=True
    ),
    "ProbabilisticTransfer": Case(
        lambda c: losses.ProbabilisticTransfer(), probabilistic_transfer, VECTORS + SAME
    ),
    # The plain one gathers batch · K · width floats per side: 0.5 GB for 4096 examples, 2.1 GB for the published K.
    "ContrastiveRepresentation": Case(
        lambda c: losses.ContrastiveRepresentation(np.arange(4096) % 100),
        contrastive,
        VECTORS[:1],
        memory=True,
    ),
}


def trained(loss):
    """Returns the variables that the loss trains."""
    return [variable.value for layer in loss.layers for variable in layer.trainable_variables]


@dataclasses.dataclass(frozen=True)
class Formulations:
    """Both formulations as functions of (teacher, student) to (value, gradients), with sides and variables."""

    ours: Callable[..., Any]
    plain: Callable[..., Any]
    sides: tuple[tf.Tensor, tf.Tensor]
    variables: list[keras.Variable]


def formulations(case, pair):
    """Returns both formulations of a case at the shapes of a pair."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    batch, *_, channels = pair[0]
    # With a standard deviation of 3, logits are as confident as those of trained networks.
    teacher, student = (tf.constant(3.0 * rng.normal(size=shape), tf.float32) for shape in pair)
    numbers = tf.constant(rng.integers(channels, size=batch))
    loss = case.make(channels)
    loss.ensure_built(teacher, student)
    if loss.needs_ids:
        numbers = tf.range(batch)
    asked = {"labels": numbers} if loss.needs_labels else {"ids": numbers} if loss.needs_ids else {}

    def with_gradients(function):
        def measured(teacher, student):
            with tf.GradientTape() as tape:
                tape.watch(student)
                value = function(teacher, student)
            return value, *tape.gradient(value, [student, *trained(loss)], unconnected_gradients="zero")

        return measured

    ours = with_gradients(functools.partial(loss, **asked))
    plain = with_gradients(lambda teacher, student: case.plain(loss, teacher, student, numbers))
    return Formulations(ours, plain, (teacher, student), loss.variables)


def compiled(function, sides, jit):
    """Returns the function compiled for tensors such as these, without Keras' or Python's share of each call."""
    return tf.function(function, jit_compile=jit, autograph=False).get_concrete_function(*sides)


def both_results(both, ours, plain):
    """Returns the results of both when they start from the same variables, such as a memory."""
    before = [variable.numpy() for variable in both.variables]
    results = []
    for function in (ours, plain):
        for variable, value in zip(both.variables, before, strict=True):
            variable.assign(value)
        results.append([part.numpy() for part in function(*both.sides)])
    return results


def require_agreement(name, ours, plain):
    """Raises ValueError unless value and gradients are those of the plain formulation, up to float32 rounding."""
    (value, *gradients), (expected, *wanted) = ours, plain
    # A bias before batch normalization only has rounding for a gradient, so it is compared with the others' size.
    floor = 1e-3 * max(np.abs(w).max() for w in wanted) + 1e-30
    apart = [abs(value - expected) / (abs(expected) + 1e-30)]
    apart += [np.abs(g - w).max() / (np.abs(w).max() + floor) for g, w in zip(gradients, wanted, strict=True)]
    if not np.max(apart) <= AGREEMENT:  # NaN does not agree either
        raise ValueError(
            f"Only formulations that agree can be timed. Received: {name}, whose value {value:g} (plain: {expected:g}) "
            f"and gradients differ from the plain formulation by {', '.join(f'{a:.1g}' for a in apart)}."
        )


# --- measuring ---------------------------------------------------------------------------------------------------


def times(ours, plain, sides, rounds, seconds):
    """Returns milliseconds (rounds, 2) of both, in random order. Stops early after `seconds` and three rounds."""
    functions = (ours, plain)

    def run(function, calls):
        start = time.perf_counter()
        for _ in range(calls):
            function(*sides)
        tf.test.experimental.sync_devices()
        return 1000 * (time.perf_counter() - start) / calls

    calls = max(1, round(5 / run(plain, 1)))  # so that a sample takes 5 ms or more
    measured = []
    end = time.perf_counter() + seconds
    while len(measured) < rounds and (len(measured) < 3 or time.perf_counter() < end):
        order = random.sample((0, 1), 2)
        taken = {i: run(functions[i], calls) for i in order}
        measured.append((taken[0], taken[1]))
    return np.array(measured)


def median_interval(values):
    """Returns the median and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, size=(2000, len(values))), axis=1)
    return float(np.median(values)), *(float(q) for q in np.percentile(medians, [2.5, 97.5]))


def process_peak(name, which):
    """Returns the bytes by which a fresh process grows at most in a step without XLA. Run it in one, on Linux."""
    both = formulations(CASES[name], CASES[name].pairs[0])
    step = compiled(getattr(both, which), both.sides, jit=False)

    def peak():  # getrusage would start at the parent's peak
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak()
    for _ in range(3):
        step(*both.sides)
    return peak() - before


def compiled_peaks(name):
    """Returns the bytes of temporaries that XLA reports for the compiled steps. Run it in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_module_re=.*measured.*"
        both = formulations(CASES[name], CASES[name].pairs[0])
        for function in (both.ours, both.plain):
            compiled(function, both.sides, jit=True)(*both.sides)
        reports = sorted(
            Path(folder).glob("*memory-usage-report.txt")
        )  # numbered in the order of compilation
        sizes = [
            re.search(r"size ([\d.]+)(\w+), preallocated-temp", report.read_text()) for report in reports
        ]
    units = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    return [float(size[1]) * units[size[2]] for size in sizes]


def memory(name, jit):
    """Returns the megabytes that a step of ours and a plain one take, at the first shapes of the case."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        if jit:
            peaks = pool.apply(compiled_peaks, (name,))
        else:
            peaks = [pool.apply(process_peak, (name, which)) for which in ("ours", "plain")]
    return [peak / 1e6 for peak in peaks]


# --- the command -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bench:
    """Times every loss, forward and backward, against the plainest correct formulation.

    The two run in turn, in random order; each round gives a ratio of their times. The exit status is 1 if the lower
    end of the 95 % interval of a median ratio is above 1.2, or if the two do not agree in value and gradient.

    Attributes:
        only: part of the names of the losses to time, such as KD; all by default.
        jit: how to compile a step: by XLA, as `fit` does on accelerators; as a graph without XLA, as `fit` does on
            a machine with only a CPU; or both.
        rounds: how many times both are timed, at most.
        seconds: time for each line, at most; 3 rounds are done in any case.
        memory: whether to report the memory of a step too, for losses whose memory grows faster than their input.
    """

    only: str = ""
    jit: Literal["both", "xla", "graph"] = "both"
    rounds: int = 100
    seconds: float = 0.5
    memory: bool = True


def main(options):
    """Prints the table; returns the exit status."""
    lines = [
        (name, pair, jit)
        for name, case in CASES.items()
        if options.only.lower() in name.lower()
        for pair in case.pairs
        for jit in {"both": (True, False), "xla": (True,), "graph": (False,)}[options.jit]
    ]
    if not lines or options.rounds < 1:
        names = ", ".join(CASES)
        raise SystemExit(
            f"Nothing to time: no loss matches, or rounds < 1. Received: {options}. Losses: {names}."
        )
    headings = ("loss", "teacher", "student", "by", "ours ms", "plain ms", "ratio", "95 %", "MB, ours/plain")
    table = Table(*headings, box=rich.box.SIMPLE)
    slow = 0
    console = Console(width=None if sys.stdout.isatty() else 140)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(lines))
        for name, pair, jit in lines:
            progress.update(task, description=name, advance=1)
            both = formulations(CASES[name], pair)
            ours, plain = (compiled(function, both.sides, jit) for function in (both.ours, both.plain))
            require_agreement(name, *both_results(both, ours, plain))
            measured = times(ours, plain, both.sides, options.rounds, options.seconds)
            ratio, low, high = median_interval(measured[:, 0] / measured[:, 1])
            slow += low > LIMIT
            told = options.memory and CASES[name].memory and pair == CASES[name].pairs[0]
            told = told and (jit or sys.platform == "linux")
            table.add_row(
                name,
                *("×".join(map(str, shape)) for shape in pair),
                "XLA" if jit else "graph",
                *(f"{ms:.2f}" for ms in np.median(measured, axis=0)),
                f"{ratio:.2f}",
                f"{low:.2f} to {high:.2f}{' slow' if low > LIMIT else ''}",
                " / ".join(f"{mb:.0f}" for mb in memory(name, jit)) if told else "",
                style="red" if low > LIMIT else None,
            )
    console.print(table)
    console.print(
        "Times are medians; each ratio is the median over the rounds. Memory is the temporaries that XLA reports, or "
        "without XLA the growth of a process."
    )
    console.print(f"{slow} of {len(lines)} certainly above {LIMIT}.")
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Bench)))
