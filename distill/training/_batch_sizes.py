"""Measures which batch sizes fit in memory, and which is fastest, with a model's own training steps."""

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from distill._types import Data
from distill.training._own_steps import as_examples, as_they_were, own_batches, require_own_steps, seconds_of

SIZES = tuple(2**power for power in range(3, 13))


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """The time and memory that training steps take at one batch size.

    Attributes:
        batch_size: examples per step.
        examples_per_second: speed at the median time of a step.
        step_ms: median time of a step, in milliseconds.
        peak_bytes: most memory in use during these steps (see `largest_batch`); `None` if it cannot be read.

    Example:
    ```python
    from distill import training

    model.compile("adam", loss="sparse_categorical_crossentropy")
    for row in training.largest_batch(model, (x, y), sizes=(8, 16), runs=2).rows:
        print(row.batch_size, row.examples_per_second)
    ```
    """

    batch_size: int
    examples_per_second: float
    step_ms: float
    peak_bytes: int | None


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """What `largest_batch` measured; `print` shows it as a table.

    Attributes:
        rows: a row for each size that fits, ascending; at least one.
        refused: first size that did not fit, or `None` if all did.
    """

    rows: tuple[BatchSize, ...]
    refused: int | None

    @property
    def largest(self) -> int:
        """Largest size that was tried and fits."""
        return self.rows[-1].batch_size

    @property
    def fastest(self) -> int:
        """Size with the most examples per second; others may be slower by less than the noise."""
        return max(self.rows, key=lambda row: row.examples_per_second).batch_size

    def __str__(self) -> str:
        lines = [f"{'batch size':>10}  {'examples/s':>10}  {'ms per step':>11}  {'peak MB':>10}"]
        for row in self.rows:
            peak = "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}"
            times = f"{row.examples_per_second:>10,.0f}  {row.step_ms:>11.2f}"
            lines.append(f"{row.batch_size:>10}  {times}  {peak:>10}")
        end = "all sizes tried fit" if self.refused is None else f"{self.refused} does not fit"
        return "\n".join([*lines, f"largest {self.largest} ({end}), fastest {self.fastest}"])


def largest_batch(
    model: keras.Model,
    data: Data,
    *,
    sizes: Sequence[int] = SIZES,
    memory_limit: int | None = None,
    runs: int = 10,
) -> BatchSizes:
    """Trains with larger and larger batches until one does not fit, then times those that fit.

    The steps are those of `fit`, including `jit_compile` and `steps_per_execution`. All steps of a size use
    one batch, which is prepared before the clock starts. The sizes are timed in turn (8, 16, … 8, 16, …), so
    that a slow moment of the machine affects all of them. Afterwards, weights, optimizer, metrics and the
    states of the model's random generators are restored bit for bit, even after an error. If the optimizer
    was not built before, it is now.

    A size does not fit if memory runs out, or if its peak exceeds the limit. On a GPU, the peak is what
    TensorFlow holds on the first GPU. On a CPU, there is no error before the system kills the process, so the
    peak is the resident memory of the whole process, as Linux reports it. That includes the rest of the
    program, and memory that was freed but not returned to the system, which can hide a few MB. The first size
    above the limit is run too, so leave room for it.

    Args:
        model: built and compiled model on one device, such as a `distill.Distiller`.
        data: arrays with examples along the first axis, such as (x, y), or an unbatched `tf.data.Dataset` of such
            examples. A few are enough: they are repeated to fill a batch.
        sizes: batch sizes to try, ascending; by default doubled from 8 to 4096.
        memory_limit: limit in bytes. By default there is none on a GPU; on a CPU it is what the process uses
            plus half of what the machine has left, so that a size twice as large still finds room. If a
            container has a limit of its own, pass it.
        runs: timed repetitions of each size, >= 1; each has `steps_per_execution` steps.

    Returns:
        A row for each size that fits, with `largest` and `fastest`.

    Raises:
        ValueError: the backend is not TensorFlow; the model is not compiled, not built, or on several devices; the
            sizes are not ascending integers >= 1; there is no example; a limit is given but memory cannot be read.
        MemoryError: not even the smallest size fits.

    Example:
        ```python
        from distill import training

        model.compile("adam", loss="sparse_categorical_crossentropy")
        found = training.largest_batch(model, (x, y), sizes=(8, 16, 32), runs=2)
        print(found)
        model.fit(x, y, batch_size=found.fastest)
        ```
    """
    require_own_steps(model, "largest_batch")
    sizes = tuple(sizes) if isinstance(sizes, Iterable) else (sizes,)
    _require_numbers(sizes, runs, memory_limit)
    import tensorflow as tf

    in_use = _peak_memory(reset=True)
    if memory_limit is not None and in_use is None:
        raise ValueError(
            "memory_limit needs memory that can be read: of a GPU, or on Linux of the process. "
            f"Received: memory_limit={memory_limit}. Leave it out, and limit the sizes instead."
        )
    if memory_limit is None and in_use is not None and not tf.config.list_logical_devices("GPU"):
        memory_limit = in_use + _bytes("/proc/meminfo", "MemAvailable") // 2
    examples = as_examples(data)

    batches: dict[int, Iterator[Any]] = {}
    peaks: list[int | None] = []
    with as_they_were(model):
        model.make_train_function()
        for size in sizes:
            try:
                batch = iter(own_batches(model, examples, size))
                seconds_of(model, batch)  # traces and warms up, which itself takes memory
                _peak_memory(reset=True)
                seconds_of(model, batch)
            except (tf.errors.ResourceExhaustedError, MemoryError):
                break
            peak = (
                None if in_use is None else _peak_memory()
            )  # without a reset it would be that of all before
            if peak is not None and memory_limit is not None and peak > memory_limit:
                break
            batches[size] = batch
            peaks.append(peak)
        seconds: dict[int, list[float]] = {size: [] for size in batches}
        for _ in range(runs):
            for size, batch in batches.items():
                seconds[size].append(seconds_of(model, batch) / model.steps_per_execution)
    if not batches:
        raise MemoryError(
            f"Not even the smallest batch fits. Received: sizes from {sizes[0]} on and memory_limit={memory_limit}, "
            f"with {in_use} bytes in use before. Start with a smaller size, allow more memory, or use a smaller model."
        )
    steps = {size: statistics.median(times) for size, times in seconds.items()}
    rows = [BatchSize(n, n / s, 1000 * s, peak) for (n, s), peak in zip(steps.items(), peaks, strict=True)]
    return BatchSizes(tuple(rows), sizes[len(rows)] if len(rows) < len(sizes) else None)


def _require_numbers(sizes: Sequence[int], runs: int, memory_limit: int | None) -> None:
    numbers = (*sizes, runs, 1 if memory_limit is None else memory_limit)
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1 for n in numbers)
    if not sizes or not whole or any(a >= b for a, b in itertools.pairwise(sizes)):
        raise ValueError(
            "sizes must be ascending integers >= 1, and runs and memory_limit (in bytes) integers >= 1. Received: "
            f"sizes={sizes}, runs={runs!r}, memory_limit={memory_limit!r}. Leave them out to try {SIZES[0]} to "
            f"{SIZES[-1]} within the memory of the machine."
        )


def _peak_memory(*, reset: bool = False) -> int | None:
    """Returns the most bytes in use since the last reset, or with `reset` those in use now; `None` if unknown."""
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        if reset:
            tf.config.experimental.reset_memory_stats("GPU:0")
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        return _bytes("/proc/self/status", "VmHWM")
    except (OSError, KeyError):  # some sandboxes and kernels have neither
        return None


def _bytes(file: str, key: str) -> int:
    """Reads bytes from a line such as "VmHWM:  1024 kB" of a file."""
    lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines())
    return 1024 * int(lines[key].split()[0])
