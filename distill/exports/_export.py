"""Exports models for the runtime that the path names: LiteRT, ONNX or TensorFlow."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import keras

from distill._atomic import replacing, replacing_folder
from distill._models import require_model
from distill._quiet import quiet
from distill._types import Arrays, PathLike
from distill._untouched import same_attributes, same_randomness
from distill.exports._checking import Fault, check
from distill.exports._inputs import Inputs, named, random_inputs
from distill.exports._litert import INTEGERS, LiteRTFormat, Precision, write_litert
from distill.exports._onnx import write_onnx
from distill.exports._parts import first_at_fault
from distill.exports._routes import SAVED_MODEL, routed
from distill.exports._tracing import signature_of, write_saved_model
from distill.quantization._aware import is_quantized, require_examples

_ENOUGH = 16  # examples to find the layer at which a fault begins


def export(
    model: keras.Model,
    path: PathLike,
    *,
    precision: Precision = "float32",
    examples: Arrays | None = None,
    sparse: bool = False,
) -> Path:
    """Exports a model for inference, in the format that the path names.

    A path that ends in ".tflite" gives a LiteRT file, a path that ends in ".onnx" gives an ONNX file (needs the `onnx`
    extra), and a path without a suffix gives a TensorFlow SavedModel, which is a folder.

    The model is traced in inference mode, as `predict` runs it. The new file is run on examples before it replaces an
    older one. It must have the model's inputs and outputs. For 19 of 20 examples, its outputs must differ from the
    model's by no more than a share of the span of the outputs: 0.001 in float32, 0.01 in float16, 0.1 in int16x8, 0.2
    in int8 and dynamic_range. A file that fails this check is not put at the path.

    Args:
        model: built model; for a Distiller, pass its `student`.
        path: path to write to.
        precision: type of weights and activations; only LiteRT supports more than "float32".
            "float32": both as trained.
            "float16": weights take half the space; LiteRT computes in float32.
            "dynamic_range": weights are int8, and activations are rounded to int8 as they are computed.
            "int8": weights, activations, inputs and outputs are int8, also for hardware without floating point.
            "int16x8": weights are int8; activations, inputs and outputs are int16.
        examples: inputs as the model takes them, arrays (examples, …), to run the file on; by default random ones.
            "int8" and "int16x8" need examples to measure the ranges of activations, except for a model from
            `quantization.quantize_aware`, which already has its ranges; 100 to 500 training inputs are enough.
        sparse: whether LiteRT stores kernels without their zeros, in "float32" or "float16".

    Returns:
        The path.

    Raises:
        ValueError: the format cannot hold the model, or not in this precision; the file would not run, or its outputs
            would differ from the model's; or examples are missing. The message names the layer at which a fault begins.
        FileExistsError: the path is a folder where a file is to be written, a file where a folder is, or a folder
            with files that are not of a SavedModel.
        ImportError: a package that writes the format is not installed.

    Example:
        >>> from distill import exports
        >>> path = exports.export(student, "student.tflite", precision="int8", examples=x[:300])
    """
    path = Path(path)
    if path.suffix not in (".tflite", ".onnx", ""):
        raise ValueError(
            "path must end in '.tflite' (LiteRT) or '.onnx' (ONNX), or have no suffix (a SavedModel folder). "
            f"Received: {str(path)!r}."
        )
    require_model(model, "export")
    if not model.built:
        raise ValueError(
            f"Only a built model can be exported. Received: {model.name!r}, which is not built. Call it on a batch, "
            "or build it from a keras.Input."
        )
    _check_precision(model, path, precision, examples, sparse)
    form = LiteRTFormat(precision, sparse)
    with same_attributes(model), same_randomness():
        inputs = random_inputs(model) if examples is None else named(model, examples)
        with _replacing(path) as draft:
            try:
                write_checked(model, draft, form, inputs)
            except Fault as fault:
                begins = functools.partial(
                    _fails, suffix=path.suffix, form=form, inputs=inputs, rule=fault.rule
                )
                where = first_at_fault(model, begins)
                raise ValueError(fault.text(model, precision, where)) from fault
    return path


def write_checked(model: keras.Model, path: Path, form: LiteRTFormat, inputs: Inputs) -> None:
    """Writes a file in the format that the path names, and runs it on the inputs.

    Raises:
        Fault: it cannot be written, or is not right.
    """
    with quiet():
        if path.suffix == ".tflite":
            write_litert(model, path, form, inputs)
        elif path.suffix == ".onnx":
            write_onnx(model, path)
        else:
            with routed(model, SAVED_MODEL):
                write_saved_model(model, path)
        check(model, path, form.precision, inputs)


def _fails(part: keras.Model, suffix: str, form: LiteRTFormat, inputs: Inputs, rule: str) -> bool:
    """Whether the file of a part has the same kind of fault, on some of the examples."""
    names = [spec.name for spec in keras.tree.flatten(signature_of(part))]
    some = {name: array[:_ENOUGH] for name, array in zip(names, inputs.values(), strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_checked(part, Path(folder, f"part{suffix}"), form, some)
        except Fault as found:
            return found.rule == rule
    return False


def _check_precision(
    model: keras.Model, path: Path, precision: str, examples: Arrays | None, sparse: bool
) -> None:
    if precision not in get_args(Precision):
        raise ValueError(
            f"precision must be one of {', '.join(get_args(Precision))}. Received: {precision!r}."
        )
    if path.suffix != ".tflite" and (precision != "float32" or sparse):
        raise ValueError(
            "Only LiteRT files have other precisions than float32, and sparse kernels. "
            f"Received: {precision=}, {sparse=} for {path.name!r}. Use a path that ends in '.tflite'."
        )
    if sparse and precision not in ("float32", "float16"):
        raise ValueError(
            "sparse=True needs precision='float32' or 'float16': LiteRT cannot load files with sparse integer kernels. "
            f"Received: {precision=}. Leave sparse out, and compress the file for transfer."
        )
    has_ranges = is_quantized(model)
    if has_ranges and precision != "int8":
        raise ValueError(
            "A model from quantize_aware is trained for precision='int8' and has no other. "
            f"Received: {model.name!r} with {precision=}. For another precision, export quantization.strip(model)."
        )
    if precision in INTEGERS and not has_ranges and examples is None:
        raise ValueError(
            f"{precision=} needs examples to measure the ranges of activations. "
            "Received: examples=None. Pass examples=x_train[:300], for instance."
        )
    if examples is not None:
        require_examples(examples)


_OF_A_SAVED_MODEL = {
    "saved_model.pb",
    "variables",
    "assets",
    "assets.extra",
    "fingerprint.pb",
    "keras_metadata.pb",
}


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A draft of a file or folder that replaces `path` once it is complete."""
    new, old = ("file", "folder") if path.suffix else ("folder", "file")
    if path.is_dir() if path.suffix else path.is_file():
        raise FileExistsError(
            f"An export that is a {new} cannot replace a {old}. Received: {str(path)!r}, which is a {old}. "
            "Remove it, or choose another path."
        )
    there = {one.name for one in path.iterdir()} if path.is_dir() else set()
    if there and ("saved_model.pb" not in there or there - _OF_A_SAVED_MODEL):
        raise FileExistsError(
            f"A SavedModel can only replace another SavedModel. Received: {str(path)!r}, a folder with other files "
            f"({', '.join(sorted(there - _OF_A_SAVED_MODEL)) or 'without saved_model.pb'}), "
            "which would be lost. Choose another path."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with (replacing if path.suffix else replacing_folder)(path) as draft:
        yield draft
