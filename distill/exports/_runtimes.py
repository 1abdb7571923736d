"""Runs exported files, each in the runtime that ships it, on numpy arrays."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Inputs = np.ndarray | Mapping[str, np.ndarray]
Outputs = np.ndarray | dict[str, np.ndarray]


class Runtime(Protocol):
    """What runs one kind of file.

    Attributes:
        inputs: names of the inputs.
    """

    inputs: list[str]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of one batch by name."""

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        """A call that runs this batch, with nothing around it that could be done before."""


class Exported:
    """A file or folder that `export` wrote, in its runtime: ai-edge-litert, onnxruntime or TensorFlow.

    Integer inputs and outputs of an int8 or int16 file are scaled here, so that it takes and returns float32 as the
    model did.

    Args:
        path: ends in ".tflite" for LiteRT, in ".onnx" for ONNX; a folder is a SavedModel.

    Attributes:
        path: the file or folder.

    Raises:
        ImportError: the runtime is not installed.
        FileNotFoundError: there is nothing.
        ValueError: the path ends in something else.

    Example:
        >>> file = Exported(export(student, "student.tflite", precision="int8", examples=x[:300]))
        >>> accuracy = np.mean(file.predict(x_dev).argmax(-1) == y_dev)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        kinds: dict[str, Callable[[Path], Runtime]] = {".tflite": _LiteRT, ".onnx": _Onnx, "": _SavedModel}
        if self.path.suffix not in kinds:
            raise ValueError(
                f"The path says what runs it: '.tflite', '.onnx', or a folder without suffix. Received: {str(path)!r}."
            )
        if not self.path.exists():
            raise FileNotFoundError(f"There is a file to run. Received: {str(path)!r}, where there is none.")
        self._runtime = kinds[self.path.suffix](self.path)

    @property
    def bytes(self) -> int:
        """Size of the file, or of all files in the folder."""
        files = [self.path] if self.path.is_file() else self.path.rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def predict(self, x: Inputs, *, batch_size: int = 256) -> Outputs:
        """Runs all examples.

        Args:
            x: an array (examples, …), or several by the names of the inputs.
            batch_size: how many run at once.

        Returns:
            The output (examples, …), float32 where the model's was; of several, each by its name.

        Raises:
            ValueError: the inputs have other names, or there are none, or not as many of each.
        """
        inputs = self._named(x)
        counts = {len(array) for array in inputs.values()}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"There are examples to run, as many of each input. Received: {sorted(counts)}.")
        batches = [
            self._runtime.run({name: array[i : i + batch_size] for name, array in inputs.items()})
            for i in range(0, max(counts), batch_size)
        ]
        outputs = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def prepare(self, x: Inputs) -> Callable[[], Any]:
        """A call that runs these examples as one batch and returns nothing of use: for timing."""
        return self._runtime.prepare(self._named(x))

    def _named(self, x: Inputs) -> dict[str, np.ndarray]:
        names = self._runtime.inputs
        inputs = dict(x) if isinstance(x, Mapping) else {names[0]: x}
        if set(inputs) != set(names):
            raise ValueError(
                f"The file's inputs are {', '.join(names)}. Received: {', '.join(inputs)}. Pass a dict of all of them."
            )
        return inputs


class _LiteRT:
    """One thread, as phones' benchmarks count."""

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "LiteRT files are run by ai-edge-litert. Received: no ai_edge_litert to import. "
                "Install it with `pip install ai-edge-litert`."
            ) from error
        self._open = lambda: Interpreter(model_path=str(path), num_threads=1)
        try:
            self._runner = self._open().get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"LiteRT runs files of its own format. Received: {str(path)!r}: {error}"
            ) from error
        self._details = self._runner.get_input_details()
        self.inputs = list(self._details)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._runner(**{name: _to(self._details[name], array) for name, array in inputs.items()})
        details = self._runner.get_output_details()
        return {name: _from(details[name], array) for name, array in outputs.items()}

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        interpreter = self._open()  # one that has a runner refuses to be invoked
        for name, array in inputs.items():
            interpreter.resize_tensor_input(self._details[name]["index"], array.shape)
        interpreter.allocate_tensors()
        for name, array in inputs.items():
            interpreter.set_tensor(self._details[name]["index"], _to(self._details[name], array))
        invoke: Callable[[], Any] = interpreter.invoke
        return invoke


def _to(details: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """Values as a tensor of the file holds them."""
    scale, zero = details["quantization"]
    if not scale:
        return array.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _from(details: dict[str, Any], array: np.ndarray) -> np.ndarray:
    scale, zero = details["quantization"]
    return (array.astype("float32") - np.float32(zero)) * np.float32(scale) if scale else array


class _Onnx:
    """One thread."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "ONNX files are run by onnxruntime. Received: no onnxruntime to import. "
                "Install it with `pip install distill[onnx]`."
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [tensor.name for tensor in self._session.get_inputs()]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [tensor.name for tensor in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, inputs), strict=True))

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        return lambda: self._session.run(None, inputs)


class _SavedModel:
    """TensorFlow, with as many threads as this process gives it."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self._model = tf.saved_model.load(str(path))
        self._function = self._model.signatures["serving_default"]
        self._types = {
            name: spec.dtype for name, spec in self._function.structured_input_signature[1].items()
        }
        self.inputs = list(self._types)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: output.numpy() for name, output in self.prepare(inputs)().items()}

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
        import tensorflow as tf

        tensors = {name: tf.constant(array, self._types[name]) for name, array in inputs.items()}
        return lambda: self._function(**tensors)
