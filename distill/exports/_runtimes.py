"""Runs exported files on numpy arrays, each in the runtime that ships it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distill._extras import needed
from distill._quiet import quiet
from distill._types import PathLike
from distill.files._stored import files_of

Inputs = np.ndarray | Mapping[str, np.ndarray]
Outputs = np.ndarray | dict[str, np.ndarray]


class _Runtime(Protocol):
    """Runs one kind of file.

    Attributes:
        inputs: names of the inputs.
        batch_size: the number of examples in a batch, or `None` if any is taken.
    """

    inputs: list[str]
    batch_size: int | None

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one batch; returns its outputs by name."""

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
        """Returns a call that runs this batch, with all preparation done beforehand."""


class Exported:
    """An exported file or folder, opened in its runtime: ai-edge-litert, onnxruntime or TensorFlow.

    Files in int8 or int16 take and return float32, as the model does: this class scales their inputs and outputs.

    Args:
        path: path to what `export` wrote: a LiteRT file (".tflite"), an ONNX file (".onnx") or a SavedModel folder.

    Attributes:
        path: path to the file or folder.

    Raises:
        ImportError: the runtime is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the path has another suffix, or the file is damaged.

    Example:
        >>> import numpy as np
        >>> from distill import exports
        >>> file = exports.Exported(exports.export(student, "student.tflite"))
        >>> accuracy = np.mean(file.predict(x).argmax(-1) == y)
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        kinds: dict[str, Callable[[Path], _Runtime]] = {".tflite": _LiteRT, ".onnx": _Onnx, "": _SavedModel}
        if self.path.suffix not in kinds:
            raise ValueError(
                "path must end in '.tflite' or '.onnx', or have no suffix (a SavedModel folder). "
                f"Received: {str(path)!r}."
            )
        if not self.path.exists():
            raise FileNotFoundError(f"No such file or folder: {str(path)!r}.")
        self._runtime = kinds[self.path.suffix](self.path)

    @property
    def batch_size(self) -> int | None:
        """The number of examples in a batch if the file fixes it, else `None`."""
        return self._runtime.batch_size

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return list(self._runtime.inputs)

    def run(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one batch as it is.

        Args:
            batch: the name of each input and its array (examples, …).

        Returns:
            The name of each output and its array.
        """
        return self._runtime.run(self._named(batch))

    @property
    def files(self) -> list[Path]:
        """The file and, of an ONNX file, those beside it that hold its weights; of a folder, all files in it.

        Raises:
            ImportError: the path is that of an ONNX file, and onnx is not installed.
        """
        return files_of(self.path)

    @property
    def bytes(self) -> int:
        """Size of all `files`."""
        return sum(file.stat().st_size for file in self.files)

    def predict(self, x: Inputs, *, batch_size: int = 256) -> Outputs:
        """Runs all examples.

        Args:
            x: array (examples, …), or for several inputs a dict of their names and arrays; `inputs_by_name` makes
                one from a model's inputs.
            batch_size: number of examples to run at once, unless the file fixes it.

        Returns:
            The output (examples, …), float32 where the model's is; a dict by name if there are several outputs.

        Raises:
            ValueError: the names are not those of the file's inputs; there are no examples, or the inputs have
                different numbers of them.
        """
        inputs = self._named(x)
        counts = {len(array) for array in inputs.values()}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                f"predict needs examples, as many of each input. Received: {sorted(counts)} of them. "
                "Pass arrays of the same length."
            )
        count, fixed = max(counts), self._runtime.batch_size
        batches = []
        for start in range(0, count, fixed or batch_size):
            # A file with a size of its own takes full batches: the last is filled up, and what is too much left out.
            chosen = np.arange(start, start + fixed if fixed else min(start + batch_size, count)) % count
            batches.append(self._runtime.run({name: array[chosen] for name, array in inputs.items()}))
        outputs = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        if fixed:
            outputs = {name: output[:count] for name, output in outputs.items()}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def prepare(self, x: Inputs) -> Callable[[], object]:
        """Prepares these examples as one batch, for timing.

        Args:
            x: inputs as `predict` takes them.

        Returns:
            A function without arguments that runs the batch.
        """
        return self._runtime.prepare(self._named(x))

    def _named(self, x: Inputs) -> dict[str, np.ndarray]:
        names = self._runtime.inputs
        inputs = dict(x) if isinstance(x, Mapping) else {names[0]: x}
        if set(inputs) != set(names):
            received = ", ".join(inputs) if isinstance(x, Mapping) else "one array without a name"
            raise ValueError(
                f"The file's inputs are {', '.join(names)}. Received: {received}. "
                "Pass a dict with exactly these names."
            )
        return inputs


class _LiteRT:
    """Runs LiteRT files on one thread, as benchmarks of phones do."""

    def __init__(self, path: Path) -> None:
        with needed("Running a LiteRT file", "litert"):
            from ai_edge_litert.interpreter import Interpreter
        self._open = lambda: Interpreter(model_path=str(path), num_threads=1)
        try:
            with quiet():
                self._runner = self._open().get_signature_runner()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"Not a LiteRT file, or a damaged one: {str(path)!r}: {error}") from error
        self._details = self._runner.get_input_details()
        self.inputs = list(self._details)
        self.batch_size = _fixed(details["shape_signature"] for details in self._details.values())

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._runner(**{name: _to(self._details[name], array) for name, array in inputs.items()})
        details = self._runner.get_output_details()
        return {name: _from(details[name], array) for name, array in outputs.items()}

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
        with quiet():
            interpreter = self._open()  # an interpreter that has a runner refuses to be invoked
            for name, array in inputs.items():
                interpreter.resize_tensor_input(self._details[name]["index"], array.shape)
            interpreter.allocate_tensors()
        for name, array in inputs.items():
            interpreter.set_tensor(self._details[name]["index"], _to(self._details[name], array))
        invoke: Callable[[], object] = interpreter.invoke
        return invoke


def _fixed(shapes: Iterable[Iterable[Any]]) -> int | None:
    """The first size of the inputs, if they all have the same and it is a number."""
    sizes = {next(iter(shape), None) for shape in shapes}
    size = sizes.pop() if len(sizes) == 1 else None
    return int(size) if isinstance(size, int | np.integer) and size > 0 else None


def _to(details: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """Values as a tensor of the file stores them."""
    scale, zero = details["quantization"]
    if not scale:
        return array.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(array / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _from(details: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """Values that a tensor of the file stands for."""
    scale, zero = details["quantization"]
    return (array.astype("float32") - np.float32(zero)) * np.float32(scale) if scale else array


# The types of numpy for the names of onnxruntime.
_ONNX_TYPES: dict[str, Any] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(string)": object,
} | {f"tensor({sign}int{size})": f"{sign}int{size}" for sign in ("", "u") for size in (8, 16, 32, 64)}
_ONNX_TYPES["tensor(float16)"] = "float16"


class _Onnx:
    """Runs ONNX files on one thread."""

    def __init__(self, path: Path) -> None:
        with needed("Running an ONNX file", "onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # from which alone its own are derived
            raise ValueError(
                f"ONNX Runtime must be able to run the file. Received: {str(path)!r}, on which it fails "
                f"({str(error).splitlines()[0]}). Export it again, or update onnxruntime."
            ) from error
        for tensor in self._session.get_inputs():
            if tensor.type not in _ONNX_TYPES:
                raise ValueError(
                    f"Inputs of an ONNX file must be numbers, booleans or strings. Received: {str(path)!r}, whose "
                    f"input {tensor.name!r} is {tensor.type}."
                )
        self._types = {tensor.name: _ONNX_TYPES[tensor.type] for tensor in self._session.get_inputs()}
        self.inputs = list(self._types)
        self.batch_size = _fixed(tensor.shape for tensor in self._session.get_inputs())

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [tensor.name for tensor in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, self._cast(inputs)), strict=True))

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
        cast = self._cast(inputs)
        return lambda: self._session.run(None, cast)

    def _cast(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array.astype(self._types[name]) for name, array in inputs.items()}


class _SavedModel:
    """Runs SavedModels, on as many threads as this process gives TensorFlow."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self._model = tf.saved_model.load(str(path))
        if "serving_default" not in self._model.signatures:
            raise ValueError(
                f"A SavedModel is run by its signature 'serving_default'. Received: {str(path)!r}, with "
                f"{sorted(self._model.signatures) or 'none'}."
            )
        self._function = self._model.signatures["serving_default"]
        self._types = {
            name: spec.dtype for name, spec in self._function.structured_input_signature[1].items()
        }
        self.inputs = list(self._types)
        specs = self._function.structured_input_signature[1].values()
        self.batch_size = _fixed(spec.shape for spec in specs)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: output.numpy() for name, output in self._call(inputs)().items()}

    def prepare(self, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
        return self._call(inputs)

    def _call(self, inputs: dict[str, np.ndarray]) -> Callable[[], dict[str, Any]]:
        import tensorflow as tf

        tensors = {name: tf.constant(array, self._types[name]) for name, array in inputs.items()}
        return lambda: self._function(**tensors)
