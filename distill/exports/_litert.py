"""Writes LiteRT files, and refuses those that LiteRT could not run as asked."""

import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from distill._keras import flatten_layers
from distill._types import Arrays
from distill.exports._inputs import inputs_by_name
from distill.exports._tracing import write_saved_model
from distill.quantization._aware import without_rounded_kernels

Precision = Literal["float32", "float16", "dynamic_range", "int8", "int16x8"]
INTEGERS = ("int8", "int16x8")
_LARGEST_FLOAT16 = float(np.finfo("float16").max)


def write_litert(
    model: keras.Model, path: Path, *, precision: Precision, examples: Arrays | None, sparse: bool
) -> None:
    """Writes a LiteRT file; `export` explains the arguments.

    Raises:
        ValueError: LiteRT cannot hold the model, or not in this precision.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "LiteRT files can only be written on the TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Save the model, and export it with KERAS_BACKEND=tensorflow."
        )
    from tensorflow.lite.python.convert_phase import ConverterError  # TensorFlow exports no name for it

    _check_types(model, half=precision == "float16")
    if precision in INTEGERS and examples is None:
        model = without_rounded_kernels(model)  # the converter rounds them
    try:
        path.write_bytes(_converted(model, precision, examples, sparse))
    except (ConverterError, RuntimeError) as error:
        if found := re.search(r"not yet supported for op: '(\w+)'", str(error)):
            raise ValueError(
                f"In {precision}, LiteRT needs an integer kernel for every operation. "
                f"Received: {model.name!r} with {found[1]}. "
                "Replace the layer, or use precision='int8' or 'dynamic_range'."
            ) from error
        if not isinstance(error, ConverterError):
            raise
        if "same scale constraint" in str(error):
            raise ValueError(
                "In integers, the inputs of a concatenation share one scale, and so do the input and output of a "
                f"pooling layer. Received: {model.name!r} in {precision}, where both are not possible. Put a layer "
                "with a kernel before one of the inputs, or use precision='dynamic_range'."
            ) from error
        operations = sorted(set(re.findall(r"'(tf\.\w+)' op", str(error))))
        raise ValueError(
            "LiteRT needs a kernel for every operation of the model. "
            f"Received: {model.name!r} in {precision}, with {', '.join(operations) or str(error)[:200]}. "
            "Build recurrent layers with unroll=True, replace other layers, or export a SavedModel."
        ) from error
    if precision in INTEGERS and (floats := _float_operations(path.read_bytes())):
        raise ValueError(
            f"With {precision=}, LiteRT must compute everything in integers. "
            f"Received: {model.name!r}, for which it computes {', '.join(floats)} in float32. "
            "Replace these layers, or use precision='dynamic_range'."
        )


def _converted(model: keras.Model, precision: Precision, examples: Arrays | None, sparse: bool) -> bytes:
    """The content of the file, as TensorFlow's converter writes it."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The converter measures ranges in TensorFlow's own interpreter, which is deprecated.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        write_saved_model(model, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.experimental_enable_resource_variables = True  # Keras has no others
        # TensorFlow's own operations stay out: LiteRT's runtime does not have them.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.optimizations = [] if precision == "float32" else [tf.lite.Optimize.DEFAULT]
        if sparse:
            converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if precision in INTEGERS:
            integer, kernels = tf.int8, tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            if precision == "int16x8":
                integer = tf.int16
                kernels = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            converter.inference_input_type = converter.inference_output_type = integer
            if examples is not None:
                inputs = inputs_by_name(model, examples)
                converter.representative_dataset = lambda: _one_by_one(inputs)
                converter.target_spec.supported_ops = [kernels]
        content: bytes = converter.convert()
    return content


def _one_by_one(inputs: np.ndarray | dict[str, np.ndarray]) -> Iterator[Any]:
    for i in range(len(keras.tree.flatten(inputs)[0])):
        example = keras.tree.map_structure(lambda array: array[i : i + 1], inputs)  # noqa: B023
        yield example if isinstance(example, dict) else [example]


def _check_types(model: keras.Model, *, half: bool) -> None:
    for layer in flatten_layers(model):
        if layer.compute_dtype in ("float16", "bfloat16", "float64"):
            raise ValueError(
                f"LiteRT computes in float32. Received: {model.name!r}, whose layer {layer.name!r} computes in "
                f"{layer.compute_dtype}. Build the model with the 'float32' policy, and copy the weights with "
                "set_weights."
            )
    for weight in model.weights if half else ():
        if (largest := float(keras.ops.max(keras.ops.abs(weight)))) > _LARGEST_FLOAT16:
            raise ValueError(
                f"float16 holds numbers up to {_LARGEST_FLOAT16:g}. Received: {weight.path!r} with {largest:g}. "
                "Export in another precision."
            )


def _float_operations(content: bytes) -> list[str]:
    """LiteRT's names of the operations in a file whose results are float32."""
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
