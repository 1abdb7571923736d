"""How long a model takes for a batch: through LiteRT, the runtime of phones and boards, or as a tf.function."""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from distill._keras import get_input_signature

# What `model.export` goes by; Keras exports it to nobody else.
from distill.cost._products import known
from distill.cost._storage import litert_file


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


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(
                f"A model is timed on one example and one thread, or more. Received: {name}={number}."
            )


@dataclasses.dataclass(frozen=True)
class LiteRT:
    """Runs a model's LiteRT form, of float32 weights.

    Attributes:
        threads: CPU threads that it may use; >= 1.
        batch_size: examples in a batch; >= 1.
    """

    threads: int = 1
    batch_size: int = 1

    def __post_init__(self) -> None:
        _at_least_one(threads=self.threads, batch_size=self.batch_size)

    def __str__(self) -> str:
        return f"LiteRT, {self.threads} thread{'s' * (self.threads > 1)}, batch of {self.batch_size}"

    def prepare(self, model: keras.Model) -> Callable[[], Any]:
        """A call that runs one batch."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "Latency is measured in LiteRT, the runtime of phones and boards. "
                "Received: no ai_edge_litert to import. Install it with `pip install ai-edge-litert`."
            ) from error
        _signature(model)
        interpreter = Interpreter(model_content=litert_file(model), num_threads=self.threads)
        for details in interpreter.get_input_details():
            interpreter.resize_tensor_input(details["index"], [self.batch_size, *details["shape"][1:]])
        interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for details in interpreter.get_input_details():
            values = _values(rng, details["shape"], np.issubdtype(details["dtype"], np.floating))
            interpreter.set_tensor(details["index"], values.astype(details["dtype"]))
        return interpreter.invoke


@dataclasses.dataclass(frozen=True)
class TFFunction:
    """Runs a model as a compiled tf.function, on the device that TensorFlow chooses and with its threads.

    Attributes:
        batch_size: examples in a batch; >= 1.
        jit_compile: whether XLA compiles it.
    """

    batch_size: int = 1
    jit_compile: bool = False

    def __post_init__(self) -> None:
        _at_least_one(batch_size=self.batch_size)

    def __str__(self) -> str:
        return f"tf.function{' with XLA' * self.jit_compile}, batch of {self.batch_size}"

    def prepare(self, model: keras.Model) -> Callable[[], Any]:
        """A call that runs one batch, up to its values."""
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "A tf.function runs models of the TensorFlow backend. "
                f"Received: {model.name}, on {keras.backend.backend()}. Time it with LiteRT()."
            )
        import tensorflow as tf

        rng = np.random.default_rng(0)

        def tensor(spec: Any) -> Any:
            shape = (self.batch_size, *spec.shape[1:])
            return tf.cast(_values(rng, shape, "float" in spec.dtype), spec.dtype)

        inputs = keras.tree.map_structure(tensor, _signature(model))

        @tf.function(jit_compile=self.jit_compile)
        def run(*batch: Any) -> Any:
            return model(*batch, training=False)

        def invoke() -> None:
            # A device runs on its own; only the values are proof that it is done.
            keras.tree.map_structure(lambda x: x.numpy(), run(*inputs))

        return invoke


Runtime = LiteRT | TFFunction


def latency(model: keras.Model, runtime: Runtime = LiteRT(), *, runs: int = 200) -> Latency:
    """Time of one batch of random inputs; see `latencies`."""
    return latencies({model.name: model}, runtime, runs=runs)[model.name]


def latencies(
    models: Mapping[str, keras.Model], runtime: Runtime = LiteRT(), *, runs: int = 200
) -> dict[str, Latency]:
    """Times of one batch of random inputs, models taking turns.

    The models run A B C A B C …, so that a slow spell of the machine meets all of them and their ratios
    hold where single times do not. Inputs are random normal, or zero where they are integers.

    Args:
        models: name to model, each with known input sizes.
        runtime: what runs them: `LiteRT(threads, batch_size)` or `TFFunction(batch_size)`; by default one example
            on one CPU thread.
        runs: timed runs of each model, after a tenth as many to warm up; >= 1.

    Returns:
        Name to latency, in the order given.

    Raises:
        ImportError: ai-edge-litert is not installed.
        ValueError: runs < 1, or a model's input size other than the batch's is unknown.
    """
    return in_turns({name: runtime.prepare(model) for name, model in models.items()}, runs=runs)


def in_turns(calls: Mapping[str, Callable[[], Any]], *, runs: int = 200) -> dict[str, Latency]:
    """Times of calls that take turns, in another order each time; see `latencies`.

    Args:
        calls: name to call.
        runs: timed runs of each, after a tenth as many to warm up; >= 1.

    Returns:
        Name to latency, in the order given.

    Raises:
        ValueError: runs < 1.
    """
    if runs < 1:
        raise ValueError(f"A latency needs at least one timed run. Received: runs={runs}. Pass 100 or more.")
    for _ in range(1 + runs // 10):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    # In one order, what always follows the largest model would pay for caches that it left cold.
    orders = random.Random(0)
    for _ in range(runs):
        for name in orders.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: _summary(values) for name, values in times.items()}


def _summary(times_ms: list[float]) -> Latency:
    """Median and quartiles of the times, in milliseconds."""
    low, median, high = (float(q) for q in np.percentile(times_ms, [25, 50, 75]))
    return Latency(median, low, high, runs=len(times_ms))


def _signature(model: keras.Model) -> Any:
    """The model's positional inputs, all of whose sizes but the batch's must be known."""
    signature = get_input_signature(model)
    for spec in keras.tree.flatten(signature):
        known(spec.shape[1:], model.name)
    return signature


def _values(rng: np.random.Generator, shape: Any, floating: bool) -> np.ndarray:
    return rng.normal(size=shape) if floating else np.zeros(shape)
