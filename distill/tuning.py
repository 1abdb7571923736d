"""Which batch sizes fit in memory, and which is fastest: measured with a model's own training steps."""

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

SIZES = tuple(2**power for power in range(3, 13))


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """Training steps of one batch size.

    Attributes:
        batch_size: examples a step.
        examples_per_second: at the median time.
        step_ms: median time of a step, in milliseconds.
        peak_bytes: most memory in use while such steps ran, see `largest_batch`; `None` where it cannot be read.
    """

    batch_size: int
    examples_per_second: float
    step_ms: float
    peak_bytes: int | None


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """What `largest_batch` found; `print` shows it as a table.

    Attributes:
        rows: the sizes that fit, ascending.
        refused: the first size that did not fit, or `None` if all did.
        start_bytes: memory in use before, the model and TensorFlow included; `None` where it cannot be read.
    """

    rows: tuple[BatchSize, ...]
    refused: int | None
    start_bytes: int | None

    @property
    def largest(self) -> int:
        """The largest size that was tried and fits."""
        return self.rows[-1].batch_size

    @property
    def fastest(self) -> int:
        """The size with the most examples a second; its neighbours may differ by less than the noise."""
        return max(self.rows, key=lambda row: row.examples_per_second).batch_size

    def __str__(self) -> str:
        lines = [f"{'batch size':>10}  {'examples/s':>10}  {'ms a step':>10}  {'peak MB':>10}"]
        for row in self.rows:
            peak = "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}"
            speed = f"{row.examples_per_second:>10,.0f}"
            lines.append(f"{row.batch_size:>10}  {speed}  {row.step_ms:>10.2f}  {peak:>10}")
        end = "all sizes tried fit" if self.refused is None else f"{self.refused} does not fit"
        return "\n".join([*lines, f"largest {self.largest} ({end}), fastest {self.fastest}"])


def largest_batch(
    model: keras.Model,
    data: Any,
    *,
    sizes: Sequence[int] = SIZES,
    memory_limit: int | None = None,
    rounds: int = 10,
) -> BatchSizes:
    """Trains with ever larger batches until one does not fit, then times those that do.

    The steps are those of `fit`, with the model's optimizer, `jit_compile` and `steps_per_execution`; each size has
    one batch, taken before the clock starts, so the reading of data is not timed. Timed sizes take turns
    (8 16 32 … 8 16 32 …), so that a slow spell of the machine meets all of them. Afterwards the weights, the
    optimizer, the metrics and the states of the model's random generators are as they were, bit for bit, also
    after an error; an optimizer that was not built is built.

    A size does not fit if TensorFlow or Python runs out of memory, or if its peak is above the limit. On a GPU the peak
    is of what TensorFlow holds on the first one. On a CPU nothing is raised before the system kills the process, so
    the peak is of the resident memory of this whole process, as Linux counts it: the rest of the program
    counts, and memory that was freed but kept by the allocator does too, which can hide small differences.
    Elsewhere it cannot be read. The first size above the limit is run as well: leave it room.

    Args:
        model: built and compiled, on one device; a `distill.Distiller` is one.
        data: arrays with the examples along the first axis, (x, y) or as `fit` takes them in one nest, or an unbatched
            `tf.data.Dataset` of such examples; one example will do, they are repeated to fill a batch.
        sizes: batch sizes to try, ascending; doubled from 8 to 4096 by default.
        memory_limit: in bytes. By default there is none on a GPU; on a CPU it is what the process holds plus
            half of what the machine has left, so that the doubled size still finds room. A container's
            own limit is not known here: give it.
        rounds: timed runs of each size, of `steps_per_execution` steps, >= 1.

    Returns:
        A row for each size that fits, with `largest` and `fastest`.

    Raises:
        ValueError: the backend is not TensorFlow; the model is not compiled, not built, or on several
            devices; the sizes are not ascending integers >= 1; there are no examples; a limit is given where
            memory cannot be read.
        MemoryError: not even the smallest size fits.

    Example:
    ```python
    model.compile("adam", loss="mse")
    found = tuning.largest_batch(model, (x, y))
    print(found)
    model.fit(x, y, batch_size=found.fastest)
    ```
    """
    _check_model(model)
    sizes = list(sizes)
    if not sizes or min(sizes) < 1 or any(a >= b for a, b in itertools.pairwise(sizes)) or rounds < 1:
        raise ValueError(
            "Batch sizes are ascending integers >= 1, timed in one round or more. "
            f"Received: sizes={sizes}, rounds={rounds}. Leave them out to try {SIZES[0]} to {SIZES[-1]}."
        )
    start_bytes = _peak_memory(reset=True)
    if memory_limit is None:
        memory_limit = _default_limit(start_bytes)
    elif start_bytes is None:
        raise ValueError(
            "A memory limit needs memory that can be read: that of a GPU, or on Linux that of the process. "
            f"Received: memory_limit={memory_limit} elsewhere. Leave it out, and bound the sizes instead."
        )
    examples = data if isinstance(data, tf.data.Dataset) else tf.data.Dataset.from_tensor_slices(data)
    if not list(examples.take(1)):
        raise ValueError("A batch is filled by repeating examples. Received: none. Give one or more.")

    batches: dict[int, Iterator[Any]] = {}
    peaks: list[int | None] = []
    with _kept(model):
        model.make_train_function()
        for size in sizes:
            try:
                # TensorFlow does not know the batch's size, as in `fit`: one trace serves all.
                batch = iter(examples.repeat().batch(size).take(1).cache().repeat())
                _run(model, batch)  # traces and warms up, which takes memory of its own
                _peak_memory(reset=True)
                _run(model, batch)
            except (tf.errors.ResourceExhaustedError, MemoryError):
                break
            peak = _peak_memory()
            if peak is not None and memory_limit is not None and peak > memory_limit:
                break
            batches[size] = batch
            peaks.append(peak)
        seconds: dict[int, list[float]] = {size: [] for size in batches}
        for _ in range(rounds):
            for size, batch in batches.items():
                seconds[size].append(_run(model, batch) / model.steps_per_execution)
    if not batches:
        limit = "memory" if memory_limit is None else f"{memory_limit / 1e6:,.0f} MB"
        raise MemoryError(
            f"The smallest batch size must fit into {limit}. Received: sizes from {sizes[0]} on, of which none fits. "
            "Start with a smaller size, give a higher memory_limit, or make the model smaller."
        )
    rows = []
    for size, peak in zip(batches, peaks, strict=True):
        step = statistics.median(seconds[size])
        rows.append(BatchSize(size, size / step, 1000 * step, peak))
    refused = sizes[len(batches)] if len(batches) < len(sizes) else None
    return BatchSizes(tuple(rows), refused, start_bytes)


def _check_model(model: keras.Model) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Batch sizes are measured with TensorFlow's training steps. "
            f"Received: the backend {keras.backend.backend()}. Set KERAS_BACKEND=tensorflow."
        )
    if not model.compiled or not model.built:
        raise ValueError(
            "Training steps need a model that is compiled and built. Received: "
            f"{model.name}, compiled={model.compiled}, built={model.built}. Compile it; give it a keras.Input or "
            "call it on a batch."
        )
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise ValueError(
            "What fits is a property of one device. "
            f"Received: {model.name} on {replicas} replicas. Measure a model made outside the strategy's scope."
        )


def _run(model: keras.Model, batch: Iterator[Any]) -> float:
    """Runs `steps_per_execution` training steps; returns the seconds they took."""
    start = time.perf_counter()
    for value in keras.tree.flatten(model.train_function(batch)):
        keras.ops.convert_to_numpy(value)  # a GPU is still at work until a value is asked for
    return time.perf_counter() - start


@contextlib.contextmanager
def _kept(model: keras.Model) -> Iterator[None]:
    """Puts back all that training steps change."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    changed = (*model.variables, *model.metrics_variables, *model.optimizer.variables)
    before = {id(v): (v, np.array(keras.ops.convert_to_numpy(v))) for v in changed}
    try:
        yield
    finally:
        model.reset_metrics()  # the first step makes the variables of compiled metrics
        for variable, value in before.values():
            variable.assign(value)


def _on_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _peak_memory(*, reset: bool = False) -> int | None:
    """Most bytes in use since the last reset, or from now on with `reset`; `None` where it cannot be read."""
    if _on_gpu():
        if reset:
            tf.config.experimental.reset_memory_stats("GPU:0")
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        return _kilobytes(Path("/proc/self/status"), "VmHWM")
    except OSError:
        return None


def _default_limit(start_bytes: int | None) -> int | None:
    if start_bytes is None or _on_gpu():
        return None
    return start_bytes + _kilobytes(Path("/proc/meminfo"), "MemAvailable") // 2


def _kilobytes(file: Path, key: str) -> int:
    """Bytes from a line such as "VmHWM:  1024 kB"."""
    lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
    return 1024 * int(lines[key].split()[0])
