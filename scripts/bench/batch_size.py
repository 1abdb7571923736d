"""How fast does a student train, and how much memory does it take, with each batch size?

The student of experiments/batch_size.py takes training steps on mnist5k, alone and distilled; the sizes take turns.
Nothing is learned, so the teacher needs no training. Each of the two runs in its own process, since a process keeps
freed memory; peaks are those of the whole process, TensorFlow included.

Command: scripts/bench/batch_size, on a machine that does nothing else. About a minute on two cores.
Expected: from size 8 to 1,024 speed grows by a factor of about 12 alone and 8 distilled, most of it up to 128.
"""

import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import keras
import rich
import rich.table
import tyro

import distill
from distill import data, training
from experiments import batch_size
from experiments._networks import plain_cnn

STEPS = 8  # between two looks at the clock; as in training, only few steps wait for Python


@dataclasses.dataclass(frozen=True)
class Bench:
    """Speed and memory of training by batch size.

    Attributes:
        sizes: batch sizes, ascending.
        runs: number of timed runs of each size, of 8 steps each.
        dataset: mnist5k, digits, or another image data set that is on this machine.
    """

    sizes: tuple[int, ...] = batch_size.SIZES
    runs: int = 20
    dataset: str = "mnist5k"


def measure(bench: Bench, *, distilled: bool) -> training.BatchSizes:
    """Times training steps of all sizes."""
    splits = data.load(bench.dataset)
    teacher, student = (
        plain_cnn(network, input_shape=splits.input_shape, classes=splits.num_classes)
        for network in (batch_size.TEACHER, batch_size.STUDENT)
    )
    model = distill.Distiller(teacher, student, distill.SoftTargets(4.0)) if distilled else student
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], steps_per_execution=STEPS)
    return training.largest_batch(model, splits.train, sizes=bench.sizes, runs=bench.runs)


def alone(bench: Bench) -> training.BatchSizes:
    """The student, on labels."""
    return measure(bench, distilled=False)


def distilled(bench: Bench) -> training.BatchSizes:
    """The student, on labels and a teacher's answers."""
    return measure(bench, distilled=True)


def main(bench: Bench) -> None:
    """Measures and prints a table."""
    table = rich.table.Table("size", "alone, examples/s", "MB", "distilled, examples/s", "MB")
    found = []
    for kind in (alone, distilled):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found.append({row.batch_size: row for row in pool.submit(kind, bench).result().rows})
    for size in bench.sizes:
        rows = [own.get(size) for own in found]
        cells = [
            ["–", "–"] if row is None else [f"{row.examples_per_second:,.0f}", megabytes(row.peak_bytes)]
            for row in rows
        ]
        table.add_row(str(size), *cells[0], *cells[1])
    rich.print(table)


def megabytes(count: int | None) -> str:
    """Bytes in MB, if they are known."""
    return "–" if count is None else f"{count / 1e6:,.0f}"


if __name__ == "__main__":
    main(tyro.cli(Bench, description=__doc__))
