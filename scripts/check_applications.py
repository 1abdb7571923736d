"""Cuts channels out of every network of keras.applications, and compares what is left with the original.

Of each network (10 classes, images of 96 × 96, random weights) about 40 % of the channels go, at random. Every tensor
of the smaller network is compared, in float64, with that of the original in which these channels are zero; it is saved
and loaded, and the weights are compared again. What normalizations average over stays.

Command: scripts/check_applications. 40 networks, about half an hour on two cores; names choose some of them.
Expected: no difference above 1e-9 anywhere. Exit status 1 if there is one.
"""

import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import rich.box
import tyro
from keras import applications
from rich.console import Console
from rich.table import Table

from distill.pruning import importance
from distill.pruning.structured.groups import find_groups
from distill.pruning.structured.importance import score_atoms
from distill.pruning.structured.rebuild import rebuild
from distill.pruning.structured.rules import rules_with
from distill.pruning.structured.selection import Choice
from distill.pruning.structured.structure import read
from distill.pruning.structured.verification import largest_error

TOLERANCE = 1e-9
EVERY = tuple(name for name in dir(applications) if name[0].isupper())


@dataclasses.dataclass(frozen=True)
class Check:
    """Cuts channels out of keras.applications and compares.

    Attributes:
        names: such as ResNet50; all by default.
        size: of the images, in pixels.
        ratio: share of the channels that goes.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = EVERY
    size: int = 96
    ratio: float = 0.4


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was found of one network.

    Attributes:
        name: of the network.
        groups: of channels that can be cut.
        locked: groups that cannot.
        unknown: types of layers that no rule is known for.
        parameters: share of them that is left.
        seconds: to read, choose and build.
        error: the largest difference.
        where: the tensor that differs most.
    """

    name: str
    groups: int
    locked: int
    unknown: tuple[str, ...]
    parameters: float
    seconds: float
    error: float
    where: str


def check(name, options):
    """Cuts, compares, saves, loads and compares one network."""
    keras.utils.set_random_seed(0)
    shape = (options.size, options.size, 3)
    model = getattr(applications, name)(weights=None, input_shape=shape, classes=10)
    start = time.perf_counter()
    rules = rules_with()
    structure = read(model, rules)
    groups = find_groups(structure)
    free = [group for group in groups if group.atoms.size > 1]
    scores = score_atoms(structure, free, importance.random(0))
    choice = Choice(structure, free, scores, "local", 1, {})
    keep = choice.keep(choice.counts(options.ratio))
    small = rebuild(structure, keep)
    seconds = time.perf_counter() - start
    error, where = largest_error(structure, keep, small, rules)
    with tempfile.TemporaryDirectory() as folder:
        small.save(Path(folder) / "small.keras")
        again = keras.saving.load_model(Path(folder) / "small.keras")
        for one, other in zip(small.weights, again.weights, strict=True):
            if not np.array_equal(one, other):
                error, where = np.inf, f"{one.path} after loading"
    return Checked(
        name,
        len(free),
        len(groups) - len(free),
        tuple(sorted(set(structure.unknown.values()))),
        small.count_params() / model.count_params(),
        seconds,
        error,
        where,
    )


def main(options):
    """Prints the table as it grows; returns the exit status."""
    if unknown := sorted(set(options.names) - set(EVERY)):
        raise SystemExit(
            f"Networks are those of keras.applications. Received: {unknown}. Known: {', '.join(EVERY)}."
        )
    table = Table(
        "network", "groups", "locked", "unknown", "parameters", "s", "largest error", box=rich.box.SIMPLE
    )
    failed = 0
    # A process each: TensorFlow keeps the memory of what it has compiled.
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1)
    for found in pool.map(check, options.names, itertools.repeat(options)):
        name = found.name
        wrong = not found.error <= TOLERANCE
        failed += wrong
        table.add_row(
            name,
            str(found.groups),
            str(found.locked),
            ", ".join(found.unknown),
            f"{found.parameters:.0%}",
            f"{found.seconds:.1f}",
            f"{found.error:.1e}" + (f" at {found.where}" if wrong else ""),
            style="red" if wrong else None,
        )
        print(f"{name}: {found.error:.1e}", file=sys.stderr, flush=True)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Check)))
