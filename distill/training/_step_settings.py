"""Measures how a model's own training steps run fastest: several in a call, compiled by XLA; and sets that."""

import dataclasses
import itertools
import math
import random
import statistics
import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from distill._keras import note_compile_settings
from distill._tables import aligned
from distill._types import Data
from distill.training._own_steps import (
    as_examples,
    as_they_were,
    own_batches,
    put_back,
    require_own_steps,
    seconds_of,
    values_of,
)

STEPS = (1, 4, 16)
_NOISE = 0.03  # of two settings that are as close as this, the first is taken


@dataclasses.dataclass(frozen=True)
class StepSetting:
    """How training steps ran with one setting.

    Attributes:
        steps_per_execution: training steps in one call (see `keras.Model.compile`).
        jit_compile: whether XLA compiled the step.
        step_ms: median time of a step, in milliseconds; `None` if it failed.
        difference: relative difference between the loss that was reported with this setting and with the
            model's own, after the same steps; 0 only if everything that the steps changed has the same bits.
        failed: why it did not run, or `None`.

    Example:
    ```python
    from distill import training

    model.compile("adam", loss="sparse_categorical_crossentropy")
    for row in training.fastest(model, (x, y), batch_size=8, steps=(1, 2), runs=1).rows:
        print(row.steps_per_execution, row.step_ms)  # of a `StepSetting`
    ```
    """

    steps_per_execution: int
    jit_compile: bool
    step_ms: float | None
    difference: float
    failed: str | None = None


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What `fastest` measured; `print` shows it as a table.

    Attributes:
        rows: a row for each setting that was tried; the first is the one that the model had before.
        chosen: the row of the setting that the model has now.
        tolerance: largest difference that was allowed.
    """

    rows: tuple[StepSetting, ...]
    chosen: StepSetting
    tolerance: float

    def __str__(self) -> str:
        cells = [["steps per call", "XLA", "ms per step", "speed", "results"]]
        base = self.rows[0].step_ms
        for row in self.rows:
            cell = [str(row.steps_per_execution), "yes" if row.jit_compile else "no"]
            if row.step_ms is None or base is None:
                cells.append([*cell, "–", "–", f"failed: {row.failed}"])
                continue
            result = f"loss differs by {row.difference:.1g}" if row.difference else "same bits"
            if row.difference > self.tolerance and row != self.rows[0]:
                result += f", more than {self.tolerance:g}"
            cells.append([*cell, f"{row.step_ms:.3f}", f"{base / row.step_ms:.2f}", result])
        lines = aligned(cells, ">>>><")
        chosen = self.chosen
        lines.append(
            f"set: steps_per_execution={chosen.steps_per_execution}, jit_compile={chosen.jit_compile}"
        )
        if self.tolerance == 0 and len({row.jit_compile for row in self.rows}) == 1:
            other = not self.rows[0].jit_compile
            lines.append(f"jit_compile={other}, which changes last bits, is tried with tolerance=1e-3")
        return "\n".join(lines)


def fastest(
    model: keras.Model,
    data: Data,
    *,
    batch_size: int,
    steps: Sequence[int] = STEPS,
    tolerance: float = 0.0,
    runs: int = 10,
    seconds: float = 30.0,
) -> StepSettings:
    """Times training with several steps in a call, and with and without XLA, and sets what is fastest.

    Small networks on small batches spend more time waiting for Python than computing. Then several steps in a
    call (`steps_per_execution`) and XLA (`jit_compile`) help. The steps are those of `fit`, on batches that
    are already in memory. Settings take turns, in random order, so that a slow moment of the machine affects
    all of them. The model then gets the fastest setting, or the first in the table that is within 3 % of the
    fastest. `evaluate` and `predict` use this setting too. Weights, optimizer, metrics and the states of the
    model's random generators are restored bit for bit. After an error, the settings are restored too. If the
    optimizer was not built before, it is now.

    **Results.** Each setting first trains for the same steps from the same state. Several steps in a call
    change nothing: all weights have the same bits, also with `tf.config.experimental.enable_op_determinism`,
    and `fastest` checks this. XLA rounds in another order, which changes the last bits, and from there
    training can take another course, as it does on another machine. In addition, a model that draws random
    numbers, as Dropout does, draws different ones. So the other setting of XLA is tried only if a
    `tolerance`, such as 1e-3, allows it. Some machines do not repeat their own bits, such as a GPU without op
    determinism; then the difference between two of their own runs is allowed too.

    **Callbacks** are called once every `steps_per_execution` steps, with the number of the last step. A
    callback that counts its calls, or acts on each batch, then works differently: let it use that number, or
    the model's own counter. With `fit(steps_per_epoch=n)` on endless data, choose a setting that divides n,
    because Keras trains in whole calls.

    Args:
        model: built and compiled model on one device, such as a `distill.Distiller`.
        data: the training data: arrays with examples along the first axis, such as (x, y), or an unbatched
            `tf.data.Dataset` of such examples. A call never gets more steps than the data has batches.
        batch_size: examples per batch, >= 1.
        steps: values of `steps_per_execution` to try besides the model's own, ascending.
        tolerance: largest relative difference of the loss after the same steps, >= 0. Above 0, `jit_compile` is tried
            both ways.
        runs: timed repetitions of each setting, >= 1.
        seconds: no repetition begins later than this many seconds after the first one.

    Returns:
        What was tried, and what is set now. If a setting cannot run, for example because XLA does not compile
        a layer, its row says why.

    Raises:
        ValueError: the backend is not TensorFlow; the model is not compiled, not built, or on several devices; a number
            is out of range; there is no example.

    Example:
        ```python
        from distill import training

        model.compile("adam", loss="sparse_categorical_crossentropy")
        found = training.fastest(model, (x, y), batch_size=8, steps=(1, 2), runs=2)
        print(found)
        model.fit(x, y, batch_size=8)  # with found.chosen
        ```
    """
    require_own_steps(model, "fastest")
    steps = tuple(steps) if isinstance(steps, Iterable) else (steps,)
    _require_numbers(batch_size, steps, tolerance, runs, seconds)
    examples = as_examples(data)
    count = len(examples) if examples.cardinality() > 0 else 2**31  # endless, or not known
    settings = _settings(model, [n for n in steps if n <= math.ceil(count / batch_size)], tolerance)
    before = settings[0], model.train_function
    try:
        rows, functions = _measure(model, examples, batch_size, settings, count, runs, seconds)
    except BaseException:
        _set(model, *before[0])
        model.train_function = before[1]
        raise
    allowed = max(tolerance, rows[0].difference)
    usable = [(row, row.step_ms) for row in rows if row.step_ms is not None and row.difference <= allowed]
    best = min(ms for _, ms in usable)
    chosen = next(row for row, ms in usable if ms * (1 - _NOISE) <= best)
    setting = (chosen.steps_per_execution, chosen.jit_compile)
    _set(model, *setting)
    note_compile_settings(model, steps_per_execution=setting[0], jit_compile=setting[1])
    model.train_function = functions[setting]
    model.test_function = model.predict_function = None
    return StepSettings(tuple(rows), chosen, allowed)


def _settings(model: keras.Model, steps: Sequence[int], tolerance: float) -> list[tuple[int, bool]]:
    """The settings to try: that of the model comes first, and then those that change least."""
    own = model.steps_per_execution, bool(model.jit_compile)
    ways = [own[1]] if tolerance == 0 or model.run_eagerly else [own[1], not own[1]]
    return list(dict.fromkeys([own, *itertools.product(sorted({own[0], *steps}), ways)]))


def _measure(
    model: keras.Model,
    examples: Any,
    batch_size: int,
    settings: Sequence[tuple[int, bool]],
    count: int,
    runs: int,
    seconds: float,
) -> tuple[list[StepSetting], dict[tuple[int, bool], Any]]:
    """Compares and times the settings; returns a row and the compiled step of each."""
    total = math.lcm(*(n for n, _ in settings))
    batches = own_batches(model, examples, batch_size, min(total, math.ceil(count / batch_size)))
    iterators, functions, differences, failed = {}, {}, {}, {}
    with as_they_were(model) as start:
        expected = None
        for setting in settings:
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("error", "Model doesn't support `jit_compile=True`")
                    _set(model, *setting)
                model.make_train_function(force=True)
                found = _trained(model, start, batches, total)
                if expected is None:
                    expected, found = found, _trained(model, start, batches, total)
            except Exception as error:  # XLA, and what it does not know, may raise anything
                if setting == settings[0]:
                    raise
                failed[setting] = _first_line(error)
                continue
            differences[setting] = _difference(expected, found)
            functions[setting], iterators[setting] = model.train_function, iter(batches)
        times: dict[tuple[int, bool], list[float]] = {setting: [] for setting in functions}
        orders, end = random.Random(0), math.inf
        for _ in range(runs):
            if time.perf_counter() > end:
                break
            end = min(end, time.perf_counter() + seconds)
            for setting in orders.sample(list(functions), len(functions)):
                _set(model, *setting)
                model.train_function = functions[setting]
                taken = sum(seconds_of(model, iterators[setting]) for _ in range(total // setting[0]))
                times[setting].append(1000 * taken / total)
    rows = [
        StepSetting(*setting, None, math.inf, failed[setting])
        if setting in failed
        else StepSetting(*setting, statistics.median(times[setting]), differences[setting])
        for setting in settings
    ]
    return rows, functions


def _trained(model: keras.Model, start: Any, batches: Any, total: int) -> tuple[list[bytes], np.ndarray]:
    """Trains for so many steps from the start; returns the bits of all that this changes, and the reported loss."""
    put_back(model, start)
    iterator, logs = iter(batches), None
    for _ in range(total // model.steps_per_execution):
        logs = model.train_function(iterator)
    loss = logs["loss"] if isinstance(logs, dict) and "loss" in logs else logs
    values = [np.ravel(keras.ops.convert_to_numpy(one)) for one in keras.tree.flatten(loss)]
    return [value.tobytes() for _, value in values_of(model)], np.concatenate(values).astype("float64")


def _difference(expected: tuple[list[bytes], np.ndarray], found: tuple[list[bytes], np.ndarray]) -> float:
    """The relative difference of two losses; 0 only if all bits are the same."""
    if expected[0] == found[0]:
        return 0.0
    apart = np.abs(found[1] - expected[1]) / np.maximum(np.abs(expected[1]), np.finfo("float32").tiny)
    largest = float(np.max(apart))
    return max(largest, float(np.finfo("float32").eps)) if math.isfinite(largest) else math.inf


def _set(model: keras.Model, steps_per_execution: int, jit_compile: bool) -> None:
    model.steps_per_execution, model.jit_compile = steps_per_execution, jit_compile


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:100]


def _require_numbers(
    batch_size: int, steps: Sequence[int], tolerance: float, runs: int, seconds: float
) -> None:
    whole = all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1
        for n in (batch_size, *steps, runs)
    )
    ascending = all(a < b for a, b in itertools.pairwise(steps))
    if not (whole and steps and ascending and 0 <= tolerance < math.inf and seconds >= 0):
        raise ValueError(
            "batch_size and runs must be integers >= 1, steps ascending integers >= 1, and tolerance and seconds "
            f"numbers >= 0. Received: batch_size={batch_size!r}, steps={steps!r}, tolerance={tolerance!r}, "
            f"runs={runs!r}, seconds={seconds!r}. Leave out all but batch_size to try {', '.join(map(str, STEPS))} "
            "steps in a call."
        )
