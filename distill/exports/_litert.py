"""Writes LiteRT files, and refuses those that LiteRT could not run as asked."""

import dataclasses
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from distill._extras import needed
from distill._keras import flatten_layers
from distill.exports._checking import ADVICE, Fault
from distill.exports._inputs import Inputs, batches, brief
from distill.exports._routes import LITERT, routed
from distill.exports._tracing import operations_of, signature_of, write_saved_model
from distill.quantization._aware import is_quantized, without_rounded_kernels

Precision = Literal["float32", "float16", "dynamic_range", "int8", "int16x8"]
INTEGERS = ("int8", "int16x8")
_LARGEST_FLOAT16 = float(np.finfo("float16").max)
_KERNEL = "LiteRT needs a kernel for every operation of the model."
_FLOAT = "Replace the layer, or export a SavedModel or for ONNX."
_UNROLLED = (
    "Unroll it. A trained model is built again with its weights: new = keras.models.clone_model(model, "
    "clone_function=lambda layer: type(layer).from_config({**layer.get_config(), **({'unroll': True} if "
    "hasattr(layer, 'unroll') else {})})); new.set_weights(model.get_weights()). In a Bidirectional or another "
    "wrapper, make the layer itself with unroll=True."
)
_RECURRENT = (
    "Fix the batch size, in float32, float16 or dynamic_range: new = keras.models.clone_model(model, "
    "input_tensors=keras.Input(shape, batch_size=1)); new.set_weights(model.get_weights()). Or unroll it, in any "
    f"precision. {_UNROLLED}"
)


@dataclasses.dataclass(frozen=True)
class LiteRTFormat:
    """What a LiteRT file holds.

    Attributes:
        precision: as `export` takes it.
        sparse: whether kernels are stored without their zeros.
    """

    precision: Precision = "float32"
    sparse: bool = False


def write_litert(model: keras.Model, path: Path, form: LiteRTFormat, inputs: Inputs) -> None:
    """Writes a LiteRT file; `export` explains the arguments.

    Raises:
        ValueError: Keras does not run on TensorFlow, or LiteRT cannot hold the model's types.
        Fault: LiteRT cannot hold the model, or not in this precision.
    """
    with needed("Writing a LiteRT file", "litert"):
        import ai_edge_litert.interpreter  # noqa: F401  # runs the file, which is checked before it takes its place
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "LiteRT files can only be written on the TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Save the model, and export it with KERAS_BACKEND=tensorflow."
        )
    from tensorflow.lite.python.convert_phase import ConverterError  # TensorFlow exports no name for it

    _check_types(model, half=form.precision == "float16")
    has_ranges = form.precision in INTEGERS and is_quantized(model)
    if has_ranges:
        model = without_rounded_kernels(model)  # the converter rounds them
    with tempfile.TemporaryDirectory() as folder:
        with routed(model, LITERT):
            endpoint = write_saved_model(model, Path(folder))
        if form.precision in INTEGERS:
            _refuse_what_ends_the_process(model, operations_of(endpoint))
        try:
            content = _converted(model, folder, form, None if has_ranges else inputs)
        except (ConverterError, RuntimeError, ValueError) as error:
            raise _unconverted(error, form.precision) from error
    path.write_bytes(content)
    if form.precision in INTEGERS:
        _check_integers(content, form.precision)


def _refuse_what_ends_the_process(model: keras.Model, operations: set[str]) -> None:
    """The converter runs a model to measure its ranges, and crashes on these."""
    if any(spec.dtype == "string" for spec in keras.tree.flatten(signature_of(model))):
        raise Fault(
            "In integers, LiteRT takes only numbers.",
            "which takes strings",
            "Use precision='float32' or 'dynamic_range', or look strings up outside of the model.",
        )
    if any(operation.startswith("TensorList") for operation in operations):
        raise Fault("In integers, LiteRT has no loops over time.", "which loops over time", _UNROLLED)
    if "AssignVariableOp DT_FLOAT" in operations:
        raise Fault(
            "In integers, LiteRT keeps no state from one batch to the next.",
            "which changes its variables in inference",
            "Use precision='float32' or 'float16', or build stateful layers with stateful=False.",
        )


def _converted(model: keras.Model, folder: str, form: LiteRTFormat, inputs: Inputs | None) -> bytes:
    """The content of the file, as TensorFlow's converter writes it."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    converter.experimental_enable_resource_variables = True  # Keras has no others
    # TensorFlow's own operations stay out: LiteRT's runtime does not have them.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.optimizations = [] if form.precision == "float32" else [tf.lite.Optimize.DEFAULT]
    if form.sparse:
        converter.optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    if form.precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if form.precision in INTEGERS:
        integer, kernels = tf.int8, tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        if form.precision == "int16x8":
            integer = tf.int16
            kernels = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.inference_input_type = converter.inference_output_type = integer
        if inputs is not None:
            converter.representative_dataset = lambda: _one_by_one(model, inputs)
            converter.target_spec.supported_ops = [kernels]
    with warnings.catch_warnings():
        # The converter measures ranges in TensorFlow's own interpreter, which is deprecated.
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        content: bytes = converter.convert()
    return content


def _one_by_one(model: keras.Model, inputs: Inputs) -> Iterator[Any]:
    for example in batches(model, inputs, 1):
        yield example if len(example) > 1 else list(example.values())


def _unconverted(error: Exception, precision: str) -> Fault:
    """What the converter said, in words for the user."""
    said = str(error)
    if found := re.search(r"not yet supported for op: '(\w+)'", said):
        return _no_integer_kernel(precision, f"which needs {found[1]}")
    if "recorded during calibration" in said:
        return _no_integer_kernel(precision, "which computes with integers that LiteRT has no ranges for")
    if "same scale constraint" in said:
        return Fault(
            "In integers, the inputs of a concatenation share one scale, and so do the input and output of a pooling "
            "layer.",
            "where both are not possible",
            "Put a layer with a kernel before one of the inputs, or use precision='dynamic_range'.",
        )
    if "tf.TensorList" in said:
        return Fault(_KERNEL, "which loops over time with a batch size that is not known", _RECURRENT)
    operations = sorted(set(re.findall(r"'(tf\.\w+)' op", said)))
    reason = (
        f"which needs {', '.join(operations)}"
        if operations
        else f"which the converter refuses: {brief(error)}"
    )
    return Fault(_KERNEL, reason, _FLOAT)


def _no_integer_kernel(precision: str, reason: str) -> Fault:
    return Fault(
        f"In {precision}, LiteRT needs an integer kernel for every operation.", reason, ADVICE[precision]
    )


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


def _check_integers(content: bytes, precision: str) -> None:
    """Refuses files that compute in float32, and scales that are no numbers.

    Raises:
        Fault: the file has such an operation or scale.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    names = {
        number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")
    }
    model = schema.Model.GetRootAs(content, 0)
    floats = set()
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        for operation in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            if any(graph.Tensors(i).Type() == schema.TensorType.FLOAT32 for i in operation.OutputsAsNumpy()):
                floats.add(names[model.OperatorCodes(operation.OpcodeIndex()).BuiltinCode()])
        for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
            quantization = tensor.Quantization()
            if quantization is not None and not np.isfinite(quantization.ScaleAsNumpy()).all():
                raise Fault(
                    "The scales of a file in integers are finite.",
                    f"where the scale of {tensor.Name().decode()[-100:]!r} is not",
                    ADVICE[precision],
                )
    if floats:
        raise Fault(
            f"In {precision}, LiteRT must compute everything in integers.",
            f"for which it computes {', '.join(sorted(floats))} in float32",
            "Replace the layer, or use precision='dynamic_range'.",
        )
