"""What distiller.py measures: each part is a function of the options that yields lines."""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import distiller_pairs as pairs
import distiller_ways as ways
import keras
import numpy as np
import tensorflow as tf

from distill import cache, training


@dataclasses.dataclass(frozen=True)
class Line:
    """One ratio.

    Attributes:
        subject: what was measured, such as a pair.
        over: what is divided by what.
        ratios: ratio of each round.
        goal: sign and bound, such as "<= 1.05"; empty if there is none.
        note: details.
    """

    subject: str
    over: str
    ratios: np.ndarray
    goal: str = ""
    note: str = ""

    @property
    def quartiles(self):
        """Lower quartile, median and upper quartile."""
        return tuple(float(q) for q in np.percentile(self.ratios, [25, 50, 75]))

    @property
    def verdict(self):
        """Whether the goal is met, missed or neither for sure."""
        if not self.goal:
            return ""
        sign, bound = self.goal.split()
        low, middle, high = (q - float(bound) if sign == "<=" else float(bound) - q for q in self.quartiles)
        nearest = min(low, high)
        return "met" if middle <= 0 else "missed" if nearest > 0 else "not shown"


def in_turns(functions, options):
    """Seconds (rounds,) of each function of the clock that returns them, after a run to warm up."""
    for function in functions.values():
        function(options.clock)
    orders, times = random.Random(0), {name: [] for name in functions}
    for _ in range(options.rounds):
        for name in orders.sample(list(functions), len(functions)):
            times[name].append(functions[name](options.clock))
    return {name: np.array(values) for name, values in times.items()}


def epochs(options):
    """Lines of all pairs."""
    for name, pair in options.chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            functions, faster = ways.ways(pair, Path(folder))
            times = in_turns(functions, options)
        yield from compared(name, pair, times, faster)
        keras.backend.clear_session()


def compared(name, pair, times, faster):
    """Lines of one pair from the seconds of each way."""

    def line(over, ratios, goal=""):
        return Line(name, over, ratios, goal)

    step = {way: f"{1000 * np.median(values) / pair.steps:.3g}" for way, values in times.items()}
    note = ", ".join(f"{way} {step[way]}" for way in ("live", "student", "teacher"))
    least = times["teacher"] + times["student"]
    yield Line(name, "live / (teacher + student)", times["live"] / least, "<= 1.05", f"ms per step: {note}")
    for other in ("keras.distillation", "recipe"):
        yield line(f"{other} / live", times[other] / times["live"], ">= 1.0")
    goal = ">= 1.25" if pair.convolutional else ""
    gain = times["keras.distillation"] / times["live, faster teacher"]
    note = f"{faster.chosen.name}, differs by {faster.chosen.difference:.1g}"
    yield Line(name, "keras.distillation / live, faster teacher", gain, goal, note)
    if pair.features:
        gain = times["features, keras.distillation"] / times["features"]
        yield line("logits and features: keras.distillation / live", gain, ">= 1.4")
    for kind in ("dense", "top-k"):
        yield line(f"cached {kind} / student", times[f"cached {kind}"] / times["student"], "<= 1.05")
    goal = ">= 1.6" if name == "ResNet" else ""
    yield line("live / cached dense", times["live"] / times["cached dense"], goal)
    yield line("evaluate / student's", times["evaluate"] / times["evaluate student"], "<= 1.05")


def teachers(options):
    """Lines of the ways in which a teacher can answer."""
    for name, pair in options.chosen.items():
        teacher, (x, _) = pair.teacher(), pair.data
        faster = training.faster_teacher(teacher, x[: pair.batch], runs=5)
        functions = {
            "as it is": ways.bare(teacher, x, pair.batch),
            "faster": ways.bare(faster.teacher, x, pair.batch),
            "constants": ways.bare(teacher, x, pair.batch, constants=True),
            "XLA": ways.bare(teacher, x, pair.batch, xla=True),
        }
        times = in_turns(functions, options)
        forms = [f"{row.name} {row.batch_ms:.3g}" for row in faster.rows if row.batch_ms is not None]
        for way in list(functions)[1:]:
            note = f"ms per batch: {', '.join(forms)}" if way == "faster" else ""
            yield Line(name, f"teacher: as it is / {way}", times["as it is"] / times[way], note=note)
        keras.backend.clear_session()


def in_torch(options):
    """Lines of the same pairs in plain PyTorch, or one that says that it is not there."""
    python = os.environ.get("TWINS", "")
    if not python:
        yield Line("PyTorch", "not installed: scripts/test-backends installs it", np.full(1, np.nan))
        return
    script = str(Path(__file__).with_name("distiller_torch.py"))
    for name, pair in options.chosen.items():
        keys = {"pair": name, "batch": pair.batch, "steps": pair.steps}
        order = keys | {key: getattr(options, key) for key in ("quick", "rounds", "clock")}
        done = subprocess.run(
            [python, script, json.dumps(order)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            yield Line(name, "PyTorch: failed", np.full(1, np.nan), note=why[:80])
            continue
        times = {way: np.array(values) for way, values in json.loads(done.stdout).items()}
        step = ", ".join(
            f"{way} {1000 * np.median(values) / pair.steps:.3g}" for way, values in times.items()
        )
        ratios = times["live"] / (times["teacher"] + times["student"])
        yield Line(name, "PyTorch: live / (teacher + student)", ratios, note=f"ms per step: {step}")


def scaling(options):
    """Lines of dense networks that differ in one number."""
    widths, batches, classes = (
        ((256, 1024), (16, 128), (10, 1000))
        if options.quick
        else (
            (256, 1024, 4096),
            (16, 128, 1024),
            (10, 1000, 32_000),
        )
    )
    cases = [("teacher's width", n, {"width": n}) for n in widths]
    cases += [("batch", n, {"batch": n}) for n in batches]
    cases += [("classes", n, {"classes": n}) for n in classes]
    for what, number, changes in cases:
        width, batch, count = (
            changes.get(key, own) for key, own in (("width", 1024), ("batch", 128), ("classes", 10))
        )
        pair = dataclasses.replace(
            pairs.MLP,
            teacher=functools.partial(pairs.dense, (width, width), classes=count),
            student=functools.partial(pairs.dense, (256,), classes=count),
            classes=count,
            batch=batch,
            steps=4 if options.quick else 8,
        )
        with tempfile.TemporaryDirectory() as folder:
            functions, _ = ways.ways(pair, Path(folder), ("live", "student", "teacher", "cached top-k"))
            times = in_turns(functions, options)
        step = ", ".join(
            f"{way} {1000 * np.median(values) / pair.steps:.3g}" for way, values in times.items()
        )
        ratios = times["live"] / (times["teacher"] + times["student"])
        yield Line(f"{what} {number}", "live / (teacher + student)", ratios, note=f"ms per step: {step}")


def networks(options):
    """The pairs whose memory and startup are measured: each takes a new process or a new trace every time."""
    return ("MLP",) if options.quick else ("MLP", "ResNet")


def memory(options):
    """Lines of how much a process grows in training, each way in a process of its own."""
    for name in [one for one in options.chosen if one in networks(options)]:
        grown = {}
        for way in ("student", "live", "keras.distillation"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                grown[way] = pool.apply(peak, (name, way, options.quick))
        note = ", ".join(f"{way} {count / 1e6:.0f} MB" for way, count in grown.items())
        yield Line(
            name,
            "peak: live / keras.distillation",
            np.array([grown["live"] / grown["keras.distillation"]]),
            note=note,
        )


def peak(name, way, quick):
    """The bytes by which a fresh process grows at most in an epoch."""
    pair = (pairs.QUICK if quick else pairs.PAIRS)[name]
    with tempfile.TemporaryDirectory() as folder:
        function = ways.ways(pair, Path(folder), (way,))[0][way]
        Path("/proc/self/clear_refs").write_text("5")
        before = resident()
        function("wall")
        return resident() - before


def resident():
    """The largest number of bytes in memory since the last reset, as Linux counts them."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def first_steps(pair):
    """The seconds of the first step of a Distiller, a student and a teacher, with what it takes to trace them."""
    x, y = (part[: pair.batch] for part in pair.data)
    teacher = pair.teacher()
    models = ways.compiled(ways.soft(teacher, pair.student())), ways.compiled(pair.student())
    steps = (ways.timed(lambda one=one: one.train_on_batch(x, y)) for one in models)
    return *steps, ways.bare(teacher, x, pair.batch)("wall")


def startup(options):
    """Lines of imports and of first steps."""

    def imports(name):
        return ways.timed(lambda: subprocess.run([sys.executable, "-c", f"import {name}"], check=True))

    imports("distill")
    turns = 1 if options.quick else max(2, options.rounds // 2)
    times = np.array([(imports("distill"), imports("keras")) for _ in range(turns)])
    note = f"{np.median(times[:, 0]):.2g} s and {np.median(times[:, 1]):.2g} s"
    yield Line("import", "distill / keras", times[:, 0] / times[:, 1], "<= 1.1", note)
    for name, pair in options.chosen.items():
        if name not in networks(options):
            continue
        live, student, bare = np.array([first_steps(pair) for _ in range(1 if options.quick else 3)]).T
        note = f"{np.median(live):.2g} s, {np.median(student):.2g} s and {np.median(bare):.2g} s"
        yield Line(name, "first step: live / (student + teacher)", live / (student + bare), note=note)


def kernels(options):
    """Line of TensorFlow's own kernels against oneDNN's for a small CNN, each in a process of its own."""
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(process(TF_ENABLE_ONEDNN_OPTS=choice)) for choice in "01"]
        own, onednn = (functools.partial(pool.apply, digits_epoch) for pool in pools)
        times = in_turns(
            {name: lambda clock, run=run: run((clock,)) for name, run in (("own", own), ("onednn", onednn))},
            options,
        )
    note = f"{np.median(times['own']):.2g} s and {np.median(times['onednn']):.2g} s for 47 steps of 64"
    yield Line("small CNN", "TensorFlow's kernels / oneDNN's", times["own"] / times["onednn"], note=note)


def process(**environment):
    """A pool of one new process, with some environment variables set."""
    before = os.environ.copy()
    os.environ.update(environment)
    try:
        return multiprocessing.get_context("spawn").Pool(1)
    finally:
        os.environ.clear()
        os.environ.update(before)


@functools.cache
def digits_student():
    """The function that trains the student of `compare` for an epoch, in one call as there."""
    student, (batch, steps) = pairs.digits_student(), (64, 47)
    student.compile("adam", ways.CROSS_ENTROPY, steps_per_execution=steps)
    x, y = pairs.noise(batch * steps, (28, 28, 1)), np.random.default_rng(1).integers(10, size=batch * steps)
    return ways.epoch(student, x, y, batch)


def digits_epoch(clock):
    """The seconds of an epoch of it in this process."""
    return digits_student()(clock)


def recorders(pair):
    """Two functions that ask a teacher for all answers, a bare compiled loop and `cache.record`; both trace it."""
    teacher, (x, _) = pair.teacher(), pair.data

    def loop():
        step = tf.function(lambda part: teacher(part, training=False), autograph=False, reduce_retracing=True)
        parts = range(0, len(x), pair.batch)
        return np.concatenate([step(x[i : i + pair.batch]).numpy() for i in parts])

    def record():
        with tempfile.TemporaryDirectory() as folder:
            cache.record(teacher, x, folder, batch_size=pair.batch, verbose=0)

    return [functools.partial(ways.timed, function) for function in (loop, record)]


def recording(options):
    """Lines of recording against a bare loop, and of bytes."""
    for name, pair in options.chosen.items():
        if name not in ("MLP", "ResNet"):
            continue
        loop, record = recorders(pair)
        times = in_turns({"loop": loop, "record": record}, options)
        note = f"{1000 * np.median(times['record']):.3g} ms for {pair.batch * pair.steps} examples"
        yield Line(name, "bare loop / recording", times["loop"] / times["record"], ">= 0.95", note)
    yield Line("49,152 classes", "bytes: 64 largest / dense", np.array([share_of_bytes()]), "<= 0.003")


def share_of_bytes(classes=49_152, count=256):
    """The bytes of the 64 largest logits of a row, and of what holds them, over those of all in float32."""
    x = np.arange(count)[:, None]

    def teacher(batch):
        return np.random.default_rng(int(batch[0, 0])).normal(size=(len(batch), classes)).astype("float32")

    with tempfile.TemporaryDirectory() as folder:
        cache.record(teacher, x, folder, targets=cache.TopK(64, from_logits=True), verbose=0)
        kept = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return kept / (4 * classes * count)


PARTS = {
    "epochs": epochs,
    "teachers": teachers,
    "torch": in_torch,
    "scaling": scaling,
    "memory": memory,
    "startup": startup,
    "kernels": kernels,
    "recording": recording,
}
