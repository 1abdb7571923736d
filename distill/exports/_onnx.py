"""Writes ONNX files, and refuses those that break the ONNX standard."""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

import keras

from distill._extras import needed
from distill._keras import patch_tf2onnx
from distill.exports._checking import Fault
from distill.exports._inputs import brief
from distill.exports._onnx_operators import HANDLERS
from distill.exports._routes import ONNX, routed
from distill.exports._tracing import outputs_by_name, serving, signature_of

_ADVICE = "Replace the layer or its dtype, or export for LiteRT or as a SavedModel."
_RULE = "ONNX needs an operator for every operation of the model, in its dtype."


def write_onnx(model: keras.Model, path: Path) -> None:
    """Writes an ONNX file.

    Raises:
        ImportError: tf2onnx or onnx is not installed.
        ValueError: Keras does not run on TensorFlow.
        Fault: ONNX cannot hold the model.
    """
    with needed("Writing an ONNX file", "onnx"):
        import onnx
        import onnxruntime  # noqa: F401  # runs the file, which is checked before it takes its place
        import tf2onnx
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "ONNX files can only be written on the TensorFlow backend. "
            f"Received: {keras.backend.backend()!r}. Save the model, and export it with KERAS_BACKEND=tensorflow."
        )
    logger = logging.getLogger(tf2onnx.__name__)
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its errors are in the file too, where they are found below
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="In the future `np.object`", category=FutureWarning)
            patch_tf2onnx()
            _convert(model, path)
    except (ValueError, KeyError, AttributeError) as error:  # from tf2onnx, on what it cannot read
        raise Fault(_RULE, f"which tf2onnx cannot convert: {brief(error)}", _ADVICE) from error
    finally:
        logger.setLevel(level)
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        missing = re.search(r"No Op registered for (\w+)", str(error))
        reason = f"which has none for {missing[1]}" if missing else f"where {brief(error)}"
        raise Fault(_RULE, reason, _ADVICE) from error


def _convert(model: keras.Model, path: Path) -> None:
    """Traces and converts; tf2onnx's own function for this makes inputs of constants."""
    import tensorflow as tf
    from tf2onnx import convert, tf_loader

    function = serving(model)
    signature = keras.tree.map_structure(_tensor_spec, signature_of(model))
    with routed(model, ONNX):
        traced = tf.function(lambda *inputs: outputs_by_name(function(*inputs)), autograph=False)
        traced = traced.get_concrete_function(*signature)
    specs = keras.tree.flatten(signature)
    inputs = [tensor.name for tensor in traced.inputs[: len(specs)]]
    outputs = [tensor.name for tensor in traced.outputs]
    names = [*(spec.name for spec in specs), *sorted(traced.structured_outputs)]
    with tf.device("/cpu:0"):
        graph = tf_loader.from_function(traced, inputs, outputs)
    convert.from_graph_def(
        graph,
        name=model.name,
        input_names=inputs,
        output_names=outputs,
        custom_op_handlers=dict(HANDLERS),
        tensors_to_rename=dict(zip([*inputs, *outputs], names, strict=True)),
        output_path=str(path),
    )


def _tensor_spec(spec: Any) -> Any:
    import tensorflow as tf

    return tf.TensorSpec(spec.shape, spec.dtype, spec.name)
