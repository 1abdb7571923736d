"""Measures what structured pruning takes and what it gains, compared with Torch-Pruning.

The networks are those of keras.applications and their twins in torchvision, with random weights, at 224 × 224. Half of
every group of channels is removed, by L2 norms. The two sides are timed in turn, and every round gives one ratio.

- "cut": reading the graph, scoring and choosing, against everything that Torch-Pruning does, which cuts in place. Goal:
  Torch-Pruning takes as long or longer.
- "build": building the smaller network, against `keras.models.clone_model` and copying weights. Goal: at most 1.5.
- "memory": peak memory of both steps, over the bytes of the model's weights, which are not counted. Goal: at most 2.
- "run": one example through LiteRT on one thread before and after, against the same in torch. Each gain is that of one
  runtime, and only gains are compared. Goal: a larger gain. ConvNeXt is cut with exact=False, so that it loses as much
  as its twin.
- "function": the same as a tf.function, with the threads that TensorFlow takes, where torch takes one. No goal.
- "latency": channels are chosen by what they cost, prune_channels(latency_ms=…, scope="global"), for a gain in LiteRT
  5 % above the twin's. The ratio compares what a saved multiply-add brings: times as fast per times fewer MACs, over
  the twin's. Goal: at least as much. The note has both gains.

The seconds beside the ratios give the order of magnitude: they are medians on this machine while it was also busy with
other things.

Command: scripts/bench/structured. It takes a quarter of an hour. "latency" only runs with --only latency: it builds,
exports and times a network for each group and a dozen more, 6 minutes for MobileNetV2 and 21 for ConvNeXtTiny. --names
chooses networks, --rounds the number of rounds.
It needs pip's index once, for torch, torchvision and torch-pruning, which it installs into a separate venv.
Expected, on two quiet cores: cut 1.8 to 2.7, VGG16 1.3, DenseNet121 20; build 0.3 to 1.5; memory 0.4 to 1.8,
    MobileNetV2 2.02 [2.01, 2.02], missed; times as fast, ours and torch's: ResNet50 3.7 and 2.9, MobileNetV2 2.6 and
    1.9, EfficientNetB0 2.6 and 1.9, DenseNet121 3.0 and 2.4, VGG16 4.0 and 3.3, ConvNeXtTiny 2.7 and 2.8, missed:
    ratio 0.97 [0.96, 0.99]. Chosen by latency, ConvNeXtTiny is 3.0 times as fast by 3.6 times fewer multiply-adds, its
    twin 2.9 by 3.9: 1.11 [1.09, 1.12] as much for each; MobileNetV2 2.0 by 2.7, its twin 1.9 by 3.4: 1.30 [1.27, 1.38].
Exit status 1 if a goal is surely missed: the whole 95 % interval lies beyond it.
"""

import concurrent.futures
import dataclasses
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import rich.box
import tyro
from keras import applications
from rich.console import Console
from rich.table import Table

from distill import cost
from distill.pruning import prune_channels
from distill.pruning.structured._groups import find_groups
from distill.pruning.structured._rebuild import rebuild
from distill.pruning.structured._rules import rules_with
from distill.pruning.structured._scoring import score_atoms
from distill.pruning.structured._selection import Choice
from distill.pruning.structured._tracing import read
from distill.pruning.structured.importance import l2

RATIO = 0.5
FASTER = 1.05  # times the twin's gain, the target of "latency"; a target is met within 2 %
AT_MOST = ("build", "memory")
TWINS = {
    "ResNet50": "resnet50",
    "MobileNetV2": "mobilenet_v2",
    "EfficientNetB0": "efficientnet_b0",
    "DenseNet121": "densenet121",
    "ConvNeXtTiny": "convnext_tiny",
    "VGG16": "vgg16",
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """Times structured pruning.

    Attributes:
        names: networks, from ResNet50, MobileNetV2, EfficientNetB0, DenseNet121, ConvNeXtTiny and VGG16.
        only: one of the parts; by default all except "latency". "memory" needs Linux, and "latency" takes a long time.
        rounds: number of timed rounds.
    """

    names: tuple[str, ...] = tuple(TWINS)
    only: Literal["all", "cut", "build", "memory", "run", "function", "latency"] = "all"
    rounds: int = 9


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        name: name of the network.
        part: cut, build, memory, run, function or latency.
        over: what is divided by what.
        ratios: ratio of each round.
        goal: least ratio, for "build" and "memory" the largest; `None` if there is no goal.
        note: details.
    """

    name: str
    part: str
    over: str
    ratios: np.ndarray
    goal: float | None
    note: str = ""

    @property
    def interval(self):
        """The 95 % bootstrap interval of the median."""
        rng = np.random.default_rng(0)
        medians = np.median(rng.choice(self.ratios, size=(2000, len(self.ratios))), axis=1)
        return tuple(float(q) for q in np.percentile(medians, [2.5, 97.5]))

    @property
    def missed(self):
        """Whether the goal is surely missed."""
        low, high = self.interval
        if self.goal is None:
            return False
        return low > self.goal if self.part in AT_MOST else high < self.goal


class Twins:
    """The process that runs the torchvision networks."""

    def __init__(self):
        script = Path(__file__).with_name("structured_twins.py")
        self._process = subprocess.Popen(
            [os.environ["TWINS"], str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, do, name):
        """Sends an order; returns the answer."""
        self._process.stdin.write(json.dumps({"do": do, "name": TWINS[name], "ratio": RATIO}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait()


def timed(function):
    """What a function returns, and the seconds that it takes."""
    start = time.perf_counter()
    found = function()
    return found, time.perf_counter() - start


def exact(model):
    """Whether the channels that LayerNormalization averages over stay; in ConvNeXt's twin they do not."""
    return not model.name.startswith("convnext")


def chosen(model):
    """The structure and what stays of it: everything but building the smaller network."""
    structure = read(model, rules_with(), exact=exact(model))
    groups = [group for group in find_groups(structure) if group.atoms.size > 1]
    choice = Choice(structure, groups, score_atoms(structure, groups, l2), "local", 8, {})
    return structure, choice.keep(choice.counts(RATIO))


def cloned(model):
    """A copy made with Keras' own means."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def seconds(times):
    """Medians of (rounds, 2) times, of the dividend and of the divisor."""
    first, second = np.median(times, axis=0)
    return f"{first:.2g} s / {second:.2g} s"


def lines(options, twins):
    """Yields all lines, network by network."""
    for name in options.names:
        keras.utils.set_random_seed(0)
        model = getattr(applications, name)(weights=None)
        structure, keep = chosen(model)
        few = max(3, options.rounds // 3)
        if options.only in ("all", "cut"):
            twins.ask("prune", name)
            times = np.array(
                [
                    (twins.ask("prune", name)["seconds"], timed(lambda m=model: chosen(m))[1])
                    for _ in range(options.rounds)
                ]
            )
            yield Line(name, "cut", "Torch-Pruning / distill", times[:, 0] / times[:, 1], 1.0, seconds(times))
        if options.only in ("all", "build"):
            times = np.array(
                [
                    (
                        timed(lambda s=structure, k=keep: rebuild(s, k))[1],
                        timed(lambda m=model: cloned(m))[1],
                    )
                    for _ in range(few)
                ]
            )
            yield Line(name, "build", "distill / clone_model", times[:, 0] / times[:, 1], 1.5, seconds(times))
        if options.only in ("all", "memory"):
            # In processes of their own: memory that was freed before would be reused unseen.
            spawn = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
                ratios = [pool.submit(peak, name).result() for _ in range(few)]
            yield Line(name, "memory", "peak / model", np.array(ratios), 2.0)
        for part, runtime in {"run": cost.LiteRT(), "function": cost.TFFunction()}.items():
            if options.only in ("all", part):
                gains = Gains(name, model, rebuild(structure, keep), runtime, options.rounds, twins)
                goal = 1.0 if part == "run" else None
                yield Line(name, part, "gain / torch's", gains.ours / gains.theirs, goal, str(gains))
        if options.only == "latency":
            yield by_latency(name, model, options.rounds, twins)
        keras.backend.clear_session()


def by_latency(name, model, rounds, twins):
    """What a saved multiply-add brings when channels are chosen by what they cost, over the twin's."""
    over = "gain per MACs / torch's"
    twin = Gains(name, model, model, cost.LiteRT(), rounds, twins)
    target = np.median(twin.milliseconds[:, 0]) / (FASTER * np.median(twin.theirs))
    start = time.perf_counter()
    try:
        small = prune_channels(model, latency_ms=target, scope="global", exact=exact(model))
    except ValueError as error:  # the machine is noisy, or the network cannot be as fast
        return Line(name, "latency", over, np.zeros(1), 1.0, str(error))
    took = time.perf_counter() - start
    gains = Gains(name, model, small, cost.LiteRT(), rounds, twins)
    ratios = (gains.ours / gains.our_macs) / (gains.theirs / gains.their_macs)
    return Line(name, "latency", over, ratios, 1.0, f"{gains}; chosen in {took:.0f} s")


def peak(name):
    """The peak memory of cutting and building, without the model, over the size of the model."""
    small = applications.MobileNet(weights=None, input_shape=(64, 64, 3))
    rebuild(*chosen(small))  # loads and compiles what is not the model's
    model = getattr(applications, name)(weights=None)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    rebuild(*chosen(model))
    return (resident("VmHWM") - before) / sum(weight.nbytes for weight in model.get_weights())


def resident(key):
    """Bytes of memory of this process, as Linux counts them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


class Gains:
    """How much faster a network and its twin became, timed in turn.

    Attributes:
        milliseconds: (rounds, 2) latency of the network before and after.
        ours: (rounds,) times as fast, of the network.
        theirs: (rounds,) times as fast, of the twin.
        our_macs: times fewer multiply-adds, of the network.
        their_macs: times fewer multiply-adds, of the twin.
    """

    def __init__(self, name, model, small, runtime, rounds, twins):
        calls = {"whole": runtime.prepare(model), "small": runtime.prepare(small)}
        twins.ask("run", name)
        times, twin = [], []
        for _ in range(rounds):
            found = cost.in_turns(calls, runs=10)
            times.append((found["whole"].median_ms, found["small"].median_ms))
            answers = [twins.ask("run", name) for _ in range(10)]
            twin.append(np.median([answer["seconds"] for answer in answers], axis=0))
        self.milliseconds, self._twin = np.array(times), 1000 * np.array(twin)
        self.ours = self.milliseconds[:, 0] / self.milliseconds[:, 1]
        self.theirs = self._twin[:, 0] / self._twin[:, 1]
        self.our_macs = cost.macs(model) / cost.macs(small)
        self.their_macs = answers[0]["macs"][0] / answers[0]["macs"][1]

    def __str__(self):
        ours, theirs = (
            f"{np.median(gains):.2f} times as fast ({whole:.3g} to {less:.3g} ms) by {macs:.2f} times fewer MACs"
            for gains, (whole, less), macs in (
                (self.ours, np.median(self.milliseconds, axis=0), self.our_macs),
                (self.theirs, np.median(self._twin, axis=0), self.their_macs),
            )
        )
        return f"{ours}; torch {theirs}"


def main(options):
    """Prints the table; returns the exit status."""
    if options.rounds < 1 or not set(options.names) <= set(TWINS):
        raise SystemExit(f"names must be from {', '.join(TWINS)}, and rounds >= 1. Received: {options}.")
    table = Table("network", "what", "ratio of", "ratio", "95 %", "goal", "", box=rich.box.SIMPLE)
    missed = 0
    with Twins() as twins:
        for one in lines(options, twins):
            low, high = one.interval
            sign = "<=" if one.part in AT_MOST else ">="
            goal = "–" if one.goal is None else f"{sign} {one.goal:g}" + (" missed" if one.missed else "")
            missed += one.missed
            table.add_row(
                one.name,
                one.part,
                one.over,
                f"{np.median(one.ratios):.2f}",
                f"{low:.2f} to {high:.2f}",
                goal,
                one.note,
                style="red" if one.missed else None,
            )
            print(
                f"{one.name}, {one.part}: {np.median(one.ratios):.2f} {one.note}", file=sys.stderr, flush=True
            )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Bench)))
