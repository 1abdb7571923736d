"""How many bytes does a cache of a teacher's answers take, and how many seconds to record and to look up?

Each kind of target records rows of logits of a teacher that costs nothing, and looks them up in batches of 64, in
random order. The answers are those for ImageNet, with 1,000 classes and two views of each of 1.28 million images, and
for a billion tokens with a vocabulary of 128,256 words. Only a few rows are measured, and the results are multiplied by
the number of rows. Times are for one core and come on top of the teacher's. The disk's time is for each byte once at
1 GB/s.

Command: scripts/bench/cache. About 20 seconds of one core. Option: --seconds-each for how long answers are looked up.
Expected: the bytes that the formulas in docs/guides/cache.md give. A token takes 524 bytes instead of 513,028, but the
    largest of 128,256 numbers must be found and the others added up. That takes 5 ms of a core, three times as long as
    writing all of them.
"""

import dataclasses
import tempfile
import time

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from distill import cache

CHECKSUM = 4  # bytes of an example beside its answers
BATCH = 64
DISK = 1e9  # bytes a second


@dataclasses.dataclass(frozen=True)
class Problem:
    """A set of examples.

    Attributes:
        name: what it is.
        classes: number of classes.
        examples: number of answers that are recorded.
        rows: number of answers that are measured.
    """

    name: str
    classes: int
    examples: int
    rows: int


PROBLEMS = (
    Problem("ImageNet, two views", 1000, 2 * 1_281_167, 8192),
    Problem("a billion tokens of 128,256 words", 128_256, 10**9, 256),
)
TARGETS = {
    "Dense()": cache.Dense(),
    'Dense("float16")': cache.Dense("float16"),
    "TopK(64), one temperature": cache.TopK(64, from_logits=True),
    "Sampled(64)": cache.Sampled(64, from_logits=True),
}


def needed(problem: Problem, target: cache.Dense | cache.TopK | cache.Sampled) -> int:
    """Bytes of all answers."""
    return problem.examples * (CHECKSUM + target.bytes_of((problem.classes,)))


def seconds(
    problem: Problem, target: cache.Dense | cache.TopK | cache.Sampled, limit: float
) -> tuple[float, float]:
    """Seconds of one core to record an answer, and to look one up."""
    logits = np.random.default_rng(0).normal(size=(problem.rows, problem.classes)).astype("float32")
    numbers = np.arange(problem.rows)[:, None]
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        answers = cache.record(
            lambda x: logits[x[0, 0] : x[-1, 0] + 1], numbers, f"{folder}/cache", targets=target, verbose=0
        )
        recording = (time.process_time() - began) / problem.rows
        random = np.random.default_rng(1)
        answers.look_up(numbers[:, 0])  # compares the checksums
        began, found = time.process_time(), 0
        while time.process_time() - began < limit:
            answers.look_up(random.integers(0, problem.rows, BATCH))
            found += BATCH
        return recording, (time.process_time() - began) / found


def duration(spent: float) -> str:
    """Seconds in the unit that suits them."""
    return (
        f"{spent:.0f} s"
        if spent < 90
        else f"{spent / 60:.0f} min"
        if spent < 5400
        else f"{spent / 3600:,.0f} h"
    )


def main(seconds_each: float = 1.0) -> None:
    """Prints a table for each problem.

    Args:
        seconds_each: how many seconds to spend on looking up the answers of each target.
    """
    console = Console(width=110)
    for problem in PROBLEMS:
        table = Table(title=f"{problem.name}: {problem.examples:,} answers, {problem.classes:,} classes")
        for heading in ("target", "bytes", "in all", "disk", "to record", "to look up"):
            table.add_column(heading, justify="left" if heading == "target" else "right")
        for name, target in TARGETS.items():
            size = needed(problem, target)
            spent = [one * problem.examples for one in seconds(problem, target, seconds_each)]
            shown = (duration(one) for one in (size / DISK, *spent))
            table.add_row(name, f"{size // problem.examples:,}", f"{size / 1e9:,.1f} GB", *shown)
        console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
