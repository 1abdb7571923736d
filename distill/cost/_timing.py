"""Times models in turn."""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np

from distill._untouched import same_attributes
from distill.cost._lengths import Lengths, with_lengths
from distill.cost._runtimes import LiteRT, Runtime, require_runtimes


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of one batch.

    Attributes:
        median_ms: median over the runs, in milliseconds.
        low_ms: lower quartile, in milliseconds.
        high_ms: upper quartile, in milliseconds.
        runs: number of timed runs.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    runs: int


def latency(
    model: keras.Model,
    runtime: Runtime = LiteRT(),  # noqa: B008 (it is frozen)
    *,
    runs: int = 200,
    lengths: Lengths = None,
) -> Latency:
    """Times one batch of random inputs; to compare models, use `latencies` instead.

    Args:
        model: built model with known input sizes.
        runtime: runtime that runs it; by default LiteRT with one example on one CPU thread.
        runs: number of timed runs, after a tenth as many to warm up; >= 1.
        lengths: the sizes that the model leaves open, as for `macs`.

    Returns:
        The latency.

    Raises:
        ImportError: ai-edge-litert is not installed.
        TypeError: `runtime` is not a runtime.
        ValueError: runs < 1, or the runtime cannot run the model.

    Example:
        >>> from distill import cost
        >>> cost.latency(student, cost.TFFunction(batch_size=8), runs=20).median_ms > 0
        True
    """
    return latencies({model.name: model}, runtime, runs=runs, lengths=lengths)[model.name]


def latencies(
    models: Mapping[str, keras.Model],
    runtime: Runtime = LiteRT(),  # noqa: B008 (it is frozen)
    *,
    runs: int = 200,
    lengths: Lengths = None,
) -> dict[str, Latency]:
    """Times one batch of random inputs for each model, in turn.

    Every round runs each model once, in random order. So a slow spell of the machine hits all models, and the ratios of
    their times hold where single times do not. Inputs are random normal numbers, or zeros where they are integers.

    Args:
        models: name -> built model with known input sizes.
        runtime: runtime that runs them, such as `LiteRT(threads=2)` or `TFFunction(batch_size=8)`; by default LiteRT
            with one example on one CPU thread.
        runs: number of timed runs of each model, after a tenth as many to warm up; >= 1.
        lengths: the sizes that the models leave open, as for `macs`.

    Returns:
        Name -> latency, in the order given.

    Raises:
        ImportError: ai-edge-litert is not installed.
        TypeError: `runtime` is not a runtime.
        ValueError: runs < 1, or the runtime cannot run a model, for instance because an input size other than the
            batch's is unknown.

    Example:
        >>> from distill import cost
        >>> found = cost.latencies({"teacher": teacher, "student": student}, runs=20)
        >>> faster = found["teacher"].median_ms / found["student"].median_ms
    """
    require_runtimes("runtime", [runtime])
    prepared = {name: prepare(runtime, model, lengths) for name, model in models.items()}
    return in_turns(prepared, runs=runs)


def prepare(runtime: Runtime, model: keras.Model, lengths: Lengths) -> Callable[[], object]:
    """A call that runs one batch of a model, whose open sizes are these, in a runtime.

    Raises:
        ValueError: the runtime cannot run it.
    """
    if lengths is None:
        return runtime.prepare(model)
    with same_attributes(model):
        return runtime.prepare(with_lengths(model, lengths))


def in_turns(calls: Mapping[str, Callable[[], object]], *, runs: int = 200) -> dict[str, Latency]:
    """Times calls in turn, as `latencies` does for models.

    Args:
        calls: name -> function without arguments.
        runs: number of timed runs of each, after a tenth as many to warm up; >= 1.

    Returns:
        Name -> latency, in the order given.

    Raises:
        ValueError: runs < 1.

    Example:
        >>> from distill import cost
        >>> found = cost.in_turns({"sum": lambda: x.sum(), "sort": lambda: np.sort(x)}, runs=20)
        >>> list(found)
        ['sum', 'sort']
    """
    if runs < 1:
        raise ValueError(f"runs must be at least 1, and 100 or more to be precise. Received: runs={runs}.")
    for _ in range(1 + runs // 10):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    # In a fixed order, the model after the largest one would always pay for the caches that it emptied.
    orders = random.Random(0)
    for _ in range(runs):
        for name in orders.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: _summary(values) for name, values in times.items()}


def _summary(times_ms: list[float]) -> Latency:
    """Median and quartiles of times in milliseconds."""
    low, median, high = (float(q) for q in np.percentile(times_ms, [25, 50, 75]))
    return Latency(median, low, high, runs=len(times_ms))
