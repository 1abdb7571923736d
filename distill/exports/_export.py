"""Writes models for the runtimes that ship them: LiteRT, SavedModel, ONNX."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np

# Keras exports no name for it.
from distill._atomic import replacing, replacing_folder
from distill._graphs import functional_of
from distill._keras import flatten_layers, get_input_signature, standardize_inputs
from distill.quantization._aware import is_quantized, require_examples, without_rounded_kernels

Precision = Literal["float32", "float16", "dynamic_range", "int8", "int16x8"]
LARGEST_FLOAT16 = 65504.0
_INTEGERS = ("int8", "int16x8")


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    precision: Precision = "float32",
    examples: Any = None,
    sparse: bool = False,
) -> Path:
    """Writes a model for inference; the path says for which runtime.

    A path that ends in ".tflite" is a file for LiteRT, ".onnx" one for ONNX runtimes (extra `onnx`), and one without
    a suffix a TensorFlow SavedModel, a folder. What was there is replaced, once the new one is whole.

    Args:
        model: built; of a Distiller its `student`.
        path: where to.
        precision: for LiteRT, what weights and activations are.
            "float32": as trained. "float16": weights take half the room and are computed with in float32.
            "dynamic_range": weights are int8, activations are rounded to int8 as they come.
            "int8": weights, activations, inputs and outputs are int8, for hardware without floats too.
            "int16x8": weights are int8, activations, inputs and outputs int16.
        examples: for "int8" and "int16x8", inputs as the model takes them, arrays (examples, …): the ranges of
            activations are those seen on them; 100 to 500 of the training inputs are enough. A model from
            `quantization.quantize_aware` brings its ranges along.
        sparse: for LiteRT in "float32" or "float16", whether kernels with many zeros are stored without them.

    Returns:
        The path.

    Raises:
        ValueError: the format cannot hold the model, or not in this precision; examples are missing, or not needed.
        FileExistsError: a folder that is no SavedModel, or is where a file should be, is in the way; or the other way
            round.
        ImportError: a package that writes the format is not installed.

    Example:
        >>> export(student, "student.tflite", precision="int8", examples=x_train[:300])
    """
    path = Path(path)
    if path.suffix not in (".tflite", ".onnx", ""):
        raise ValueError(
            "The path says what is written: '.tflite' a LiteRT file, '.onnx' ONNX, no suffix a SavedModel folder. "
            f"Received: {str(path)!r}."
        )
    if not model.built:
        raise ValueError(
            f"What is exported is built. Received: {model.name!r}, which is not. Call it on a batch, or give it a "
            "keras.Input."
        )
    _check_precision(model, path, precision, examples, sparse)
    with _replacing(path) as draft:
        if path.suffix == ".tflite":
            _write_litert(model, draft, precision, examples, sparse)
        elif path.suffix == ".onnx":
            _write_onnx(model, draft)
        else:
            model.export(draft, verbose=False)
    return path


def _check_precision(model: keras.Model, path: Path, precision: Any, examples: Any, sparse: bool) -> None:
    if precision not in get_args(Precision):
        raise ValueError(f"precision is one of {', '.join(get_args(Precision))}. Received: {precision!r}.")
    if path.suffix != ".tflite" and (precision != "float32" or sparse):
        raise ValueError(
            "Other precisions and sparse kernels are LiteRT's. "
            f"Received: {precision=}, {sparse=} for {path.name!r}. Export to a path that ends in '.tflite'."
        )
    if sparse and precision not in ("float32", "float16"):
        raise ValueError(
            "LiteRT runs sparse kernels of float32 and float16; files with sparse integers cannot be loaded. "
            f"Received: sparse=True, {precision=}. Leave sparse out, and compress the file where it travels."
        )
    has_ranges = is_quantized(model)
    if has_ranges and precision != "int8":
        raise ValueError(
            f"A model from quantize_aware is trained for precision='int8'. Received: {model.name!r} with {precision=}. "
            "Export quantization.strip(model) in any other."
        )
    needs = precision in ("int8", "int16x8") and not has_ranges
    if needs and examples is None:
        raise ValueError(
            "Ranges of integer activations are measured on examples. "
            f"Received: {precision=}, examples=None. Pass examples=x_train[:300]."
        )
    if needs:
        require_examples(examples)
    if examples is not None and not needs:
        raise ValueError(
            "Examples serve to find the ranges of integer activations. Received: examples with "
            + (f"{model.name!r}, which has ranges from its training." if has_ranges else f"{precision=}.")
            + " Leave them out."
        )


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A draft of a file or folder that takes the place of `path` once it is whole."""
    if path.is_dir() if path.suffix else path.is_file():
        raise FileExistsError(
            f"A file takes the place of a file, a folder that of a folder. Received: {str(path)!r}, which is "
            f"{'a folder' if path.suffix else 'a file'}."
        )
    if path.is_dir() and any(path.iterdir()) and not (path / "saved_model.pb").exists():
        raise FileExistsError(
            f"A SavedModel takes the place of another one, or of nothing. Received: {str(path)!r}, a folder with other "
            "files, which would be lost."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with (replacing if path.suffix else replacing_folder)(path) as draft:
        yield draft


def inputs_by_name(model: keras.Model, x: Any) -> Any:
    """Inputs as exported files take them: an array, or several under the names of the model's inputs."""
    graph: Any = functional_of(model)
    if graph is None:
        if keras.tree.is_nested(x):
            raise ValueError(
                "Several inputs go by their names, which a Functional model knows. "
                f"Received: {type(x).__name__} for {model.name!r}, a {type(model).__name__}. Build it from keras.Input."
            )
        array = np.asarray(x)
        return array.astype("float32") if array.dtype.kind == "f" else array
    arrays = [keras.ops.convert_to_numpy(tensor) for tensor in standardize_inputs(graph, x)]
    return arrays[0] if len(arrays) == 1 else {t.name: a for t, a in zip(graph.inputs, arrays, strict=True)}


def _write_litert(model: keras.Model, path: Path, precision: str, examples: Any, sparse: bool) -> None:
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "LiteRT files are written on the TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Save the model, and export it with KERAS_BACKEND=tensorflow."
        )
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError  # TensorFlow exports no name for it

    _check_types(model, half=precision == "float16")
    # Without TensorFlow's own operations: LiteRT's runtime does not have them.
    target: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options: dict[str, Any] = {}
    optimizations = [] if precision == "float32" else [tf.lite.Optimize.DEFAULT]
    if sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if precision == "float16":
        target["supported_types"] = [tf.float16]
    if precision in _INTEGERS:
        whole, kernels = tf.int8, tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        if precision == "int16x8":
            whole = tf.int16
            kernels = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        options = {"inference_input_type": whole, "inference_output_type": whole}
        if examples is None:
            model = without_rounded_kernels(model)
        else:
            given = inputs_by_name(model, examples)
            options["representative_dataset"] = lambda: _one_by_one(given)
            target["supported_ops"] = [kernels]
    try:
        with warnings.catch_warnings():
            # The converter measures ranges in TensorFlow's own interpreter, which tells its users to leave it.
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            options |= {"target_spec": target, "optimizations": optimizations}
            model.export(path, format="litert", verbose=False, **options)
    except ConverterError as error:
        if "same scale constraint" in str(error):
            raise ValueError(
                "In integers, the parts of a concatenation share one scale with what they are pooled from. Received: "
                f"{model.name!r} in {precision}, where they cannot. Put a layer with a kernel before one of the parts, "
                "or use precision='dynamic_range'."
            ) from error
        operations = sorted(set(re.findall(r"'(tf\.\w+)' op", str(error))))
        raise ValueError(
            f"LiteRT has a kernel for every operation of the model. Received: {model.name!r} in {precision}, with "
            f"{', '.join(operations) or str(error)[:200]}. Recurrent layers need unroll=True; in place of others, use "
            "layers that LiteRT has, or export a SavedModel."
        ) from error
    except RuntimeError as error:
        if not (found := re.search(r"not yet supported for op: '(\w+)'", str(error))):
            raise
        raise ValueError(
            f"In {precision} LiteRT has a kernel for every operation. Received: {model.name!r} with {found[1]}. "
            "Replace the layer, or use precision='int8' or 'dynamic_range'."
        ) from error
    if precision in _INTEGERS and (floats := _float_operations(path.read_bytes())):
        raise ValueError(
            f"In precision={precision!r} everything is computed with integers. Received: {model.name!r}, of which "
            f"LiteRT computes {', '.join(floats)} in float32. Replace these layers, or use precision='dynamic_range'."
        )


def _one_by_one(inputs: Any) -> Iterator[Any]:
    for i in range(len(keras.tree.flatten(inputs)[0])):
        example = keras.tree.map_structure(lambda array: array[i : i + 1], inputs)  # noqa: B023
        yield example if isinstance(example, dict) else [example]


def _check_types(model: keras.Model, *, half: bool) -> None:
    for layer in flatten_layers(model):
        if layer.compute_dtype in ("float16", "bfloat16", "float64"):
            raise ValueError(
                f"LiteRT computes in float32. Received: {model.name!r}, whose layer {layer.name!r} computes in "
                f"{layer.compute_dtype}. Build the model with the policy 'float32', and set_weights(…) of this one."
            )
    for weight in model.weights if half else ():
        if (largest := float(keras.ops.max(keras.ops.abs(weight)))) > LARGEST_FLOAT16:
            raise ValueError(
                f"float16 holds numbers up to {LARGEST_FLOAT16:g}. Received: {weight.path!r} with {largest:g}. "
                "Export in another precision."
            )


def _float_operations(content: bytes) -> list[str]:
    """LiteRT's names of the operations of a file whose results are float32."""
    from tensorflow.lite.python import schema_py_generated as schema

    names = {
        number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")
    }
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    operations = (graph.Operators(i) for i in range(graph.OperatorsLength()))
    return sorted(
        {
            names[model.OperatorCodes(operation.OpcodeIndex()).BuiltinCode()]
            for operation in operations
            for output in operation.OutputsAsNumpy()
            if graph.Tensors(output).Type() == schema.TensorType.FLOAT32
        }
    )


def _write_onnx(model: keras.Model, path: Path) -> None:
    try:
        import onnx
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX files are written with tf2onnx and onnx. Received: no {error.name} to import. "
            "Install them with `pip install distill[onnx]`."
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="In the future `np.object`", category=FutureWarning)
        # Without a signature Keras wants a model that was called.
        model.export(path, format="onnx", verbose=False, input_signature=get_input_signature(model))
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(
            "ONNX has an operator for every operation of the model, in its type of number. Received: "
            f"{model.name!r}; {error}. Use other layers, activations or dtypes, or export for LiteRT or a SavedModel."
        ) from error
