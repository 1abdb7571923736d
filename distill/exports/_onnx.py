"""Writes ONNX files, and refuses those that break the ONNX standard."""

import warnings
from pathlib import Path

import keras

from distill._keras import get_input_signature


def write_onnx(model: keras.Model, path: Path) -> None:
    """Writes an ONNX file.

    Raises:
        ImportError: tf2onnx or onnx is not installed.
        ValueError: ONNX cannot hold the model.
    """
    try:
        import onnx
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX files are written with tf2onnx and onnx. Received: no {error.name} to import. "
            "Install both with `pip install distill[onnx]`."
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="In the future `np.object`", category=FutureWarning)
        # Without a signature, Keras needs a model that has been called.
        model.export(str(path), format="onnx", verbose=False, input_signature=get_input_signature(model))
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(
            "ONNX needs an operator for every operation of the model, in its dtype. "
            f"Received: {model.name!r}; {error}. "
            "Use other layers, activations or dtypes, or export for LiteRT or as a SavedModel."
        ) from error
