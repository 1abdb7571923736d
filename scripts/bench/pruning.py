"""What pruning costs: a mask update against tfmot's, a training step with masks against one without; and what it gains.

Two things are timed in turn, in random order, in one process; every round gives one ratio of their times.

- Mask updates of one kernel by `distill.pruning` and by tfmot's engine, compiled as its wrapper compiles it. Both must
  first choose the same weights. Goal: tfmot takes 10 times as long or more; for 2:4 and blocks, at least as long.
- Training steps in Keras 3 of the same model with masks and without. Goal: 1.03 or less. Steps of tf_keras with tfmot's
  wrapper and without are timed too, in a process of their own.
- Inference by LiteRT with one thread, for a dense network as it is and with 90 % zeros: zeros alone speed up nothing.

Command: scripts/bench/pruning. About 10 minutes; --quick takes half a minute at small sizes, whose ratios say nothing.
Choices: --only PART for one of updates, steps, inference; --rounds for how often both are timed.
Expected, on two cores: tfmot / distill 11 for 80 % of a dense kernel, 4 to 6 for 80 % where 70 % are pruned already,
5 for 2:4, 2 for blocks; masks / none 1.10 for the dense network, 1.02 with XLA, and 1.01 for the convolutional one;
90 % zeros / dense 1. Exit status 1 if a goal is surely missed: the whole 95 % interval lies beyond it. Two are missed.
One is the dense network without XLA: a mask is one more pass over a million weights that are used for 128 examples;
tfmot's masks cost 1.08 there. The other is masks that move on: tfmot sorts many zeros in half its time, and we read the
weights twice.
"""

import dataclasses
import itertools
import multiprocessing
import os
import random
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
from keras import layers
from rich.console import Console
from rich.table import Table

from distill import pruning
from distill.pruning.weights._choosing import choose, kept_at
from distill.pruning.weights._masks import attach_masks
from distill.pruning.weights._schedules import tfmot_schedule
from distill.pruning.weights.importance import magnitude

AGAIN = "70 to 80 %"  # of a kernel that is pruned already, as in gradual pruning
UPDATE_GOALS = {"80 %": 10.0, AGAIN: 10.0, "2:4": 1.0, "80 %, blocks 4 × 4": 1.0}
STEP_GOAL = 1.03
STEPS = 10  # in one call of a training function
SPARSITY = 0.8
# Blocks are compared by means that are rounded in other ways, so two that are nearly equal may change places.
BLOCKS_APART = 1e-4


@dataclasses.dataclass(frozen=True)
class Line:
    """One ratio.

    Attributes:
        part: updates, steps or inference.
        name: what was timed.
        over: the two things, as "a / b".
        milliseconds: of both, medians.
        ratio: median over the rounds.
        low: of its 95 % interval.
        high: of its 95 % interval.
        goal: of mask updates the least, of training steps the most; `None` where there is none.
        missed: whether it is surely missed.
    """

    part: str
    name: str
    over: str
    milliseconds: tuple[float, float]
    ratio: float
    low: float
    high: float
    goal: float | None = None
    missed: bool = False


# --- measuring ---------------------------------------------------------------------------------------------------


def in_turn(functions, rounds, prepare=lambda: None):
    """Milliseconds (rounds, 2) of two functions in turn, in random order; `prepare` is called before each, untimed."""
    measured = []
    for _ in range(rounds):
        taken = {}
        for i in random.sample((0, 1), 2):
            prepare()
            start = time.perf_counter()
            functions[i]()
            tf.test.experimental.sync_devices()
            taken[i] = 1000 * (time.perf_counter() - start)
        measured.append((taken[0], taken[1]))
    return np.array(measured)


def median_interval(values):
    """The median and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, size=(2000, len(values))), axis=1)
    return float(np.median(values)), *(float(q) for q in np.percentile(medians, [2.5, 97.5]))


def line(part, name, over, measured):
    """The line of both times: the first's over the second's."""
    first, second = np.median(measured, axis=0)
    return Line(
        part, name, over, (float(first), float(second)), *median_interval(measured[:, 0] / measured[:, 1])
    )


# --- mask updates ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Update:
    """One mask update, in both libraries.

    Attributes:
        ours: updates our mask.
        theirs: updates tfmot's.
        prepare: makes the kernel and both masks what they were before.
        masks: both, as arrays of bool.
    """

    ours: Callable[[], None]
    theirs: Callable[[], Any]
    prepare: Callable[[], None]
    masks: Callable[[], tuple[np.ndarray, np.ndarray]]


PATTERNS = {
    "80 %": (pruning.Elements(), {}),
    AGAIN: (pruning.Elements(), {}),
    "2:4": (pruning.NofM(2, 4), {"sparsity_m_by_n": (2, 4)}),
    "80 %, blocks 4 × 4": (pruning.Blocks((4, 4)), {"block_size": (4, 4)}),
}


def update(name, size):
    """Mask updates of a kernel (size, size) of values that all differ in magnitude: tfmot keeps ties."""
    tfmot_schedule("ConstantSparsity")  # imports tfmot and leaves no trace
    from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning

    pattern, params = PATTERNS[name]
    rng = np.random.default_rng(0)
    magnitudes = rng.permutation(np.arange(1, size**2 + 1)) / size**2
    values = (magnitudes * rng.choice([-1, 1], size**2)).astype("float32").reshape(size, size)
    model = keras.Sequential([keras.Input((size,)), layers.Dense(size, use_bias=False)])
    kernels = pruning.find_kernels(model).found
    (mask,) = attach_masks(model, kernels)
    variable = kernels[0].variable

    def ours():
        (kept,) = choose(model, kernels, pattern, magnitude, kept_at(SPARSITY), "layer")
        mask.set(variable, kept)

    other, threshold = tf.Variable(tf.ones((size, size))), tf.Variable(0.0)
    engine = Pruning(
        training_step_fn=lambda: tf.constant(1),
        pruning_vars=[(variable.value, other, threshold)],
        pruning_schedule=tfmot_schedule("ConstantSparsity")(SPARSITY, 1, frequency=1),
        **{"block_size": (1, 1), "block_pooling_type": "AVG", **params},
    )

    @tf.function(autograph=False)
    def theirs():
        engine.conditional_mask_update()

    before = magnitudes.reshape(size, size) > 0.7 if name == AGAIN else np.ones_like(values, bool)

    def prepare():
        variable.assign(values * before)
        mask.kept.assign(before)
        other.assign(before.astype("float32"))

    return Update(ours, theirs, prepare, lambda: (mask.kept.numpy(), other.numpy() != 0))


def require_same_masks(name, both):
    """Raises ValueError unless both choose the same weights."""
    both.prepare()
    both.theirs()  # first: ours zeroes the kernel
    both.ours()
    ours, theirs = both.masks()
    apart = float(np.mean(ours != theirs))
    if apart > (BLOCKS_APART if "blocks" in name else 0):
        raise ValueError(
            f"Only updates that agree are timed. Received: {name}, {apart:.2g} of whose masks differ."
        )
    if ours.all():
        raise ValueError(f"An update that cuts is timed. Received: {name}, which cut nothing.")


def updates(size, rounds):
    """The lines of the mask updates."""
    for name in PATTERNS:
        both = update(name, size)
        require_same_masks(name, both)
        found = line(
            "updates",
            f"mask update, {size} × {size}, {name}",
            "tfmot / distill",
            in_turn((both.theirs, both.ours), rounds, both.prepare),
        )
        yield dataclasses.replace(found, goal=UPDATE_GOALS[name], missed=found.high < UPDATE_GOALS[name])


# --- training steps ----------------------------------------------------------------------------------------------


def dense(keras, quick):
    """A dense network of Keras 3 or 2, with the shape of its inputs."""
    width = 32 if quick else 1024
    inputs = keras.Input((width,))
    x = keras.layers.Dense(width, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(x)), (width,)


def convolutional(keras, quick):
    """A convolutional network of Keras 3 or 2, with the shape of its inputs."""
    width = 4 if quick else 32
    inputs = keras.Input((8, 8, 3) if quick else (32, 32, 3))
    x = inputs
    for i in range(2):
        x = keras.layers.Conv2D(width * 2**i, 3, strides=2 if i else 1, activation="relu", padding="same")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x)), inputs.shape[1:]


NETWORKS = {"dense": dense, "convolutional": convolutional}


def trainer(keras, model, shape, batch, jit_compile=False):
    """A function that makes STEPS training steps on one batch."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *shape)).astype("float32")
    y = rng.integers(10, size=batch)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, steps_per_execution=STEPS, jit_compile=jit_compile)
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    train = model.make_train_function()
    train = model.train_function if train is None else train

    def run():
        train(batches)

    return run


def our_steps(name, quick, rounds, jit_compile):
    """Milliseconds (rounds, 2) of Keras 3 with masks and without."""
    functions = []
    for masked in (True, False):
        keras.utils.set_random_seed(0)
        model, shape = NETWORKS[name](keras, quick)
        if masked:
            pruning.prune(model, SPARSITY)
        functions.append(trainer(keras, model, shape, 8 if quick else 128, jit_compile))
        functions[-1]()
        if masked and abs(pruning.measure_sparsity(model).sparsity - SPARSITY) > 0.01:
            raise ValueError(f"Masks hold in training. Received: {name}, whose did not.")
    return in_turn(functions, rounds) / STEPS


def tfmot_steps(name, quick, rounds):
    """Milliseconds (rounds, 2) of tf_keras with tfmot's wrapper and without; run in a process of its own."""
    import tf_keras

    tfmot_schedule("ConstantSparsity")
    from tensorflow_model_optimization.sparsity import keras as tfmot

    functions = []
    for masked in (True, False):
        tf_keras.utils.set_random_seed(0)
        model, shape = NETWORKS[name](tf_keras, quick)
        if masked:  # one update of the masks, in the call that is not timed
            model = tfmot.prune_low_magnitude(model, tfmot.ConstantSparsity(SPARSITY, 1, 1))
        functions.append(trainer(tf_keras, model, shape, 8 if quick else 128))
        if masked:
            callback = tfmot.UpdatePruningStep()
            callback.set_model(model)
            callback.on_train_begin()
        functions[-1]()
    return in_turn(functions, rounds) / STEPS


def steps(quick, rounds):
    """The lines of the training steps."""
    # On a CPU `fit` uses XLA only where it is told to, and tfmot's wrapper cannot.
    for name, jit_compile in itertools.product(NETWORKS, (False, True)):
        found = line(
            "steps",
            f"training step, {name}, Keras 3{', XLA' if jit_compile else ''}",
            "masks / none",
            our_steps(name, quick, rounds, jit_compile),
        )
        yield dataclasses.replace(found, goal=STEP_GOAL, missed=found.low > STEP_GOAL)
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # for the process, which inherits it
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            theirs = [pool.apply(tfmot_steps, (name, quick, rounds)) for name in NETWORKS]
    finally:
        if before is None:
            del os.environ["TF_USE_LEGACY_KERAS"]
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    for name, measured in zip(NETWORKS, theirs, strict=True):
        yield line("steps", f"training step, {name}, tfmot on tf_keras", "wrapped / plain", measured)


# --- inference ---------------------------------------------------------------------------------------------------


def interpreter(model):
    """A function that runs the model in LiteRT on one example, with one thread."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        model.export(str(path), format="litert", verbose=False)  # Keras 3.13 takes no path
        runs = Interpreter(model_content=path.read_bytes(), num_threads=1)
    runs.allocate_tensors()
    (inputs,) = runs.get_input_details()
    runs.set_tensor(inputs["index"], np.ones(inputs["shape"], inputs["dtype"]))
    return runs.invoke


def inference(quick, rounds):
    """The line of the inference."""
    width = 32 if quick else 1024
    model = keras.Sequential([keras.Input((width,), batch_size=1)])
    for _ in range(3):
        model.add(layers.Dense(width, activation="relu"))
    plain = interpreter(model)
    pruning.prune(model, 0.9)
    sparse = interpreter(model)
    for run in (plain, sparse):
        run()
    several = [lambda run=run: [run() for _ in range(10)] for run in (sparse, plain)]
    measured = in_turn(several, 10 * rounds) / 10
    yield line(
        "inference", f"LiteRT, {width}-{width}-{width}-{width}, 1 thread", "90 % zeros / dense", measured
    )


# --- the command -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bench:
    """Times what pruning costs, against tfmot and against no pruning, and inference with zeros.

    Exit status 1 if a goal is surely missed: mask updates 10 times as fast as tfmot's (2:4 and blocks as fast),
    training steps with masks at most 1.03 times as long as without; or if masks do not agree.

    Attributes:
        only: one of the parts; all by default.
        rounds: how often both are timed; a mask update takes tfmot seconds, and is timed a quarter as often.
        quick: use small sizes and few rounds, which shows that everything runs; its times are not worth knowing.
    """

    only: Literal["all", "updates", "steps", "inference"] = "all"
    rounds: int = 40
    quick: bool = False


def lines(options):
    """All lines that are asked for."""
    rounds = 4 if options.quick else options.rounds
    if rounds < 1:
        raise SystemExit(f"No round to time. Received: {options}.")
    if options.only in ("all", "updates"):
        yield from updates(64 if options.quick else 4096, max(1, rounds // 4))
    if options.only in ("all", "steps"):
        yield from steps(options.quick, rounds)
    if options.only in ("all", "inference"):
        yield from inference(options.quick, rounds)


def goal_of(one):
    """A line's goal, for readers."""
    if one.goal is None:
        return ""
    return f"{'>=' if one.part == 'updates' else '<='} {one.goal:g}"


def main(options):
    """Prints the table; returns the exit status."""
    found = list(lines(options))
    table = Table("what", "ratio of", "ms", "ratio", "95 %", "goal", box=rich.box.SIMPLE)
    for one in found:
        table.add_row(
            one.name,
            one.over,
            " / ".join(f"{ms:.3g}" for ms in one.milliseconds),
            f"{one.ratio:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            goal_of(one) + (" missed" if one.missed and not options.quick else ""),
            style="red" if one.missed and not options.quick else None,
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print("Times are medians; a ratio is the median of those of the rounds.")
    if any(one.part == "inference" for one in found):
        console.print("Zeros take as long as other numbers: what runs a model gains nothing from them alone.")
    if options.quick:
        console.print("These sizes are too small for the ratios to mean anything.")
        return 0
    missed = sum(one.missed for one in found)
    console.print(f"{missed} of {sum(one.goal is not None for one in found)} goals surely missed.")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Bench)))
