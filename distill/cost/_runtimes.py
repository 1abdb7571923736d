"""Runs a model on random inputs, to be timed: in LiteRT, the runtime of phones and boards, or as a tf.function."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from distill._extras import needed
from distill._keras import get_input_signature
from distill._quiet import quiet
from distill._untouched import untouched
from distill.cost._lengths import known
from distill.cost._storage import litert_file


class Runtime(Protocol):
    """A runtime in which `latency`, `latencies` and `profile` can time a model; its `str` names its row in tables.

    `LiteRT` and `TFFunction` are such runtimes, and so is any object with the method `prepare`.

    Example:
    ```python
    from distill import cost


    class Keras:
        def prepare(self, model):
            return lambda: model.predict_on_batch(np.zeros((1, *model.input_shape[1:])))


    print(cost.latency(model, Keras(), runs=20))
    ```
    """

    def prepare(self, model: keras.Model) -> Callable[[], object]:
        """Prepares a model for timing.

        Args:
            model: built model.

        Returns:
            A function without arguments that runs one batch and returns once its output values are there.

        Raises:
            ValueError: this runtime cannot run the model.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteRT:
    """Runs a model's LiteRT file in float32.

    Attributes:
        threads: number of CPU threads that LiteRT may use; >= 1.
        batch_size: number of examples in a batch; >= 1.
    """

    threads: int = 1
    batch_size: int = 1

    def __post_init__(self) -> None:
        _at_least_one(threads=self.threads, batch_size=self.batch_size)

    def __str__(self) -> str:
        return f"LiteRT, {self.threads} thread{'s' * (self.threads > 1)}, batch of {self.batch_size}"

    def prepare(self, model: keras.Model) -> Callable[[], object]:
        """Writes the file and opens it on random inputs; see `Runtime`."""
        with needed("Timing in LiteRT, the runtime of phones and boards,", "litert"):
            from ai_edge_litert.interpreter import Interpreter
        _signature(model)
        content = litert_file(model)
        with quiet():
            interpreter = Interpreter(model_content=content, num_threads=self.threads)
            for details in interpreter.get_input_details():
                if (own := int(details["shape_signature"][0])) not in (-1, self.batch_size):
                    raise ValueError(
                        f"A model with a batch size of its own is timed with it. Received: {model.name!r}, which takes "
                        f"{own} examples, and batch_size={self.batch_size}. Pass cost.LiteRT(batch_size={own})."
                    )
                interpreter.resize_tensor_input(details["index"], [self.batch_size, *details["shape"][1:]])
            interpreter.allocate_tensors()
        rng = np.random.default_rng(0)
        for details in interpreter.get_input_details():
            values = _values(rng, details["shape"], np.issubdtype(details["dtype"], np.floating))
            interpreter.set_tensor(details["index"], values.astype(details["dtype"]))
        invoke: Callable[[], object] = interpreter.invoke
        return invoke


@dataclasses.dataclass(frozen=True, kw_only=True)
class TFFunction:
    """Runs a model as a compiled tf.function, on the device and the threads that TensorFlow chooses.

    Attributes:
        batch_size: number of examples in a batch; >= 1.
        jit_compile: whether XLA compiles the function.
    """

    batch_size: int = 1
    jit_compile: bool = False

    def __post_init__(self) -> None:
        _at_least_one(batch_size=self.batch_size)

    def __str__(self) -> str:
        return f"tf.function{' with XLA' * self.jit_compile}, batch of {self.batch_size}"

    def prepare(self, model: keras.Model) -> Callable[[], object]:
        """Wraps the model on random inputs; see `Runtime`."""
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "TFFunction only runs models of the TensorFlow backend. "
                f"Received: {model.name}, on {keras.backend.backend()}. Time it with LiteRT()."
            )
        import tensorflow as tf

        rng = np.random.default_rng(0)

        def tensor(spec: Any) -> tf.Tensor:
            shape = (self.batch_size, *spec.shape[1:])
            if spec.dtype == "string":
                return tf.fill(shape, "")
            return tf.cast(_values(rng, shape, "float" in spec.dtype), spec.dtype)

        inputs = keras.tree.map_structure(tensor, _signature(model))

        @tf.function(jit_compile=self.jit_compile)
        def run(*batch: Any) -> Any:
            return model(*batch, training=False)

        def invoke() -> None:
            # A device computes on its own; only the values prove that it is done.
            keras.tree.map_structure(lambda x: x.numpy(), run(*inputs))

        with untouched(model):  # and so no later run changes what the model keeps
            invoke()
        return invoke


def require_runtimes(name: str, given: Sequence[Any]) -> None:
    """Raises TypeError unless all that is given can time a model.

    Args:
        name: name of the argument, for the error.
        given: what should be runtimes.
    """
    if wrong := [
        one for one in given if isinstance(one, type) or not callable(getattr(one, "prepare", None))
    ]:
        raise TypeError(
            f"{name} names runtimes to time models in, such as cost.LiteRT() or cost.TFFunction(batch_size=8). "
            f"Received: {wrong[0]!r}."
        )


def _at_least_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1. Received: {name}={number}.")


def _signature(model: keras.Model) -> Any:
    """The model's positional inputs, all of whose sizes except the batch's must be known."""
    signature = get_input_signature(model)
    for spec in keras.tree.flatten(signature):
        known(spec.shape[1:], model.name)
    return signature


def _values(rng: np.random.Generator, shape: Sequence[int], floating: bool) -> np.ndarray:
    return rng.normal(size=shape) if floating else np.zeros(shape)
