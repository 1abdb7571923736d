"""Runs a file on examples and compares it with its model, before the file is put in its place."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from distill._keras import flatten_layers
from distill.exports._inputs import Inputs, batches, brief
from distill.exports._runtimes import Exported
from distill.exports._tracing import answers, signature_of

# How far an output may be from the model's, as a share of the span of that output over the examples. Files in float32
# round in another order; what the others lose was measured on scripts/checks/formats, where wrong ones are far beyond.
BOUNDS = {"float32": 1e-3, "float16": 1e-2, "dynamic_range": 0.2, "int8": 0.2, "int16x8": 0.1}
_INTEGER_ADVICE = (
    "Use precision='dynamic_range' or 'float16', train the model for int8 with quantization.quantize_aware, or replace "
    "the layer."
)
_FLOAT_ADVICE = (
    "Replace the layer, or export in another format; if random inputs do not suit the model, pass examples."
)
ADVICE = {name: _INTEGER_ADVICE if name in ("int8", "int16x8") else _FLOAT_ADVICE for name in BOUNDS}
_SHARE_WITHIN = 0.95  # of the examples: a class on the edge may turn over in integers
_ROUNDING = 0.01  # a span below this share of the values themselves drowns in the rounding of float32
_BATCH = 32


class Fault(Exception):
    """A file that cannot be written or is not right.

    Args:
        rule: what must hold.
        received: what came instead, going on from "Received: the model in its precision, ".
        advice: what to do.
        where: the layer, if it is known already.
    """

    def __init__(self, rule: str, received: str, advice: str) -> None:
        super().__init__(rule)
        self.rule, self.received, self.advice = rule, received, advice

    def text(self, model: keras.Model, precision: str, where: str | None) -> str:
        """The message of the error for the user."""
        begins = f" It begins at {where}." if where else ""
        return f"{self.rule} Received: {model.name!r} in {precision}, {self.received}.{begins} {self.advice}"


def check(model: keras.Model, path: Path, precision: str, inputs: Inputs) -> None:
    """Runs a file on examples.

    Args:
        model: the model that the file is from.
        path: path to the file.
        precision: one of those in `BOUNDS`.
        inputs: examples by the names of inputs.

    Raises:
        Fault: the file does not run, or its inputs, outputs or answers are not those of the model.
    """
    advice = ADVICE[precision]
    given = list(batches(model, inputs, _BATCH))
    expected = [_plain(outputs) for outputs in answers(model, given)]
    if any(layer.compute_dtype in ("float16", "bfloat16") for layer in flatten_layers(model)):
        precision = "float16"
    try:
        file = Exported(path)
        _require_same(
            "inputs", {spec.name for spec in keras.tree.flatten(signature_of(model))}, set(file.inputs)
        )
        found = [_plain(file.run(batch)) for batch in given]
    except Fault:
        raise
    except Exception as error:  # the runtimes' own errors have nothing else in common
        reason = f"whose file does not: {brief(error).rstrip('.')}"
        raise Fault("Every file is run on examples before it takes its place.", reason, advice) from error
    if len(expected[0]) == len(found[0]) == 1:  # a single output has many names
        found = [dict(zip(expected[0], one.values(), strict=True)) for one in found]
    _require_same("outputs", set(expected[0]), set(found[0]))
    for name in expected[0]:
        _compare(name, [one[name] for one in expected], [one[name] for one in found], precision, advice)


def _plain(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same outputs, in types that numpy knows."""
    return {
        name: output.astype("float32") if output.dtype.name == "bfloat16" else output
        for name, output in outputs.items()
    }


def _require_same(kind: str, model: set[str], file: set[str]) -> None:
    if model != file:
        raise Fault(
            f"The {kind} of a file are those of its model.",
            f"whose {kind} are {', '.join(sorted(model))}, and {', '.join(sorted(file))} in the file",
            "Export it in another format, and report this: it is a fault of the converter.",
        )


def _compare(
    name: str, expected: list[np.ndarray], found: list[np.ndarray], precision: str, advice: str
) -> None:
    for want, got in zip(expected, found, strict=True):
        if want.shape != got.shape:
            raise Fault(
                "A file's outputs have the shapes of the model's.",
                f"whose output {name!r} has shape {want.shape}, and {got.shape} in the file",
                advice,
            )
    if expected[0].dtype.kind not in "fiub":
        distances, size = [float(np.mean(w != g)) for w, g in zip(expected, found, strict=True)], 1.0
    else:
        distances, size = _distances(expected, found)
    bound = BOUNDS[precision]
    within = np.mean(np.array(distances) <= bound)
    if not within >= _SHARE_WITHIN:
        worst = np.max(distances)
        amount = (
            "values that are not finite where the model's are"
            if np.isinf(worst)
            else (f"off by up to {worst * size:.3g} where the outputs span {size:.3g}")
        )
        raise Fault(
            f"In {precision}, a file's outputs must be within {bound:g} of their span of the model's, for 19 of 20 "
            "examples.",
            f"whose output {name!r} is wrong in the file: {amount}",
            advice,
        )


def _distances(expected: list[np.ndarray], found: list[np.ndarray]) -> tuple[list[float], float]:
    """For each example the largest distance of an output from the model's, as a share of their span; the span."""
    if expected[0].dtype.kind != "f":  # classes, counts and flags: right or wrong
        shares = [_by_example(want != got, np.mean) for want, got in zip(expected, found, strict=True)]
        return [share for batch in shares for share in batch], 1.0
    values = np.concatenate([want[np.isfinite(want)].ravel() for want in expected]).astype("float64")
    if not values.size:
        return [0.0], 1.0
    size = max(float(np.ptp(values)), _ROUNDING * float(np.abs(values).max())) or 1.0
    distances: list[float] = []
    for want, got in zip(expected, found, strict=True):
        finite = np.isfinite(want)
        distance = np.abs(np.where(finite, got.astype("float64") - want, 0.0)) / size
        distances += _by_example(np.where(np.isnan(distance), np.inf, distance), np.max)
    return distances, size


def _by_example(values: np.ndarray, of: Callable[[np.ndarray], np.floating]) -> list[float]:
    return [float(of(one)) if np.size(one) else 0.0 for one in (values if np.ndim(values) else [values])]
