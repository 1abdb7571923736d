"""Turns the inputs of a model into those of its exported files, and makes some where there are none."""

import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from distill._graphs import functional_of
from distill._keras import standardize_inputs
from distill._types import Arrays
from distill.exports._tracing import answers, signature_of

# An array (examples, …) for the name of each input of a file.
Inputs = dict[str, np.ndarray]
_SIZES = (16, 32, 64, 128, 256)  # tried in turn where a model leaves a size open


def inputs_by_name(model: keras.Model, x: Arrays) -> np.ndarray | dict[str, np.ndarray]:
    """Arranges a model's inputs as `Exported.predict` takes them.

    Args:
        model: model that the file was exported from.
        x: inputs as the model takes them, arrays (examples, …).

    Returns:
        The array if the model has one input; otherwise a dict with the name of each input and its array.

    Raises:
        ValueError: there are more or fewer arrays than the model has inputs, or their shapes are others.

    Example:
        >>> import keras
        >>> from distill import exports
        >>> a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        >>> model = keras.Model([a, b], keras.layers.Add()([a, b]))
        >>> list(exports.inputs_by_name(model, [np.ones((2, 4)), np.zeros((2, 4))]))
        ['a', 'b']
    """
    inputs = named(model, x)
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def named(model: keras.Model, x: Arrays) -> Inputs:
    """As `inputs_by_name`, with a name for a single input too."""
    specs = {spec.name: spec for spec in keras.tree.flatten(signature_of(model))}
    graph = functional_of(model)
    given = keras.tree.flatten(x)
    if len(specs) == len(given) == 1:
        (spec,), shape = specs.values(), np.shape(given[0])
        if (
            len(shape) > len(spec.shape) and shape[-1] != 1
        ):  # Keras drops a last axis of 1; its error shows the array
            _require_shape(model, spec, shape)
    parts = given if graph is None else standardize_inputs(graph, x)
    arrays = [keras.ops.convert_to_numpy(part) for part in parts]
    if len(arrays) != len(specs):
        raise ValueError(
            f"There must be one array for each input of the model: {', '.join(specs)}. "
            f"Received: {len(arrays)} for {model.name!r}. Pass them as the model takes them."
        )
    for spec, array in zip(specs.values(), arrays, strict=True):
        _require_shape(model, spec, array.shape)
    return {
        name: array if spec.dtype == "string" else array.astype(spec.dtype)
        for (name, spec), array in zip(specs.items(), arrays, strict=True)
    }


def _require_shape(model: keras.Model, spec: Any, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless examples have the shape that an input takes, whatever their number."""
    own = tuple(spec.shape)
    if len(shape) != len(own) or any(n not in (None, m) for n, m in zip(own[1:], shape[1:], strict=True)):
        raise ValueError(
            f"Inputs must have the shapes that the model takes. Received: {shape} for the input {spec.name!r} of "
            f"{model.name!r}, which takes {own}."
        )


def batches(model: keras.Model, inputs: Inputs, size: int) -> Iterator[Inputs]:
    """The examples in batches, of the model's own size where that is fixed: the last is filled up with the first ones.

    Args:
        model: the model that they are for.
        inputs: arrays (examples, …) by name.
        size: number of examples in a batch of a model that takes any.
    """
    fixed = keras.tree.flatten(signature_of(model))[0].shape[0]
    count = len(next(iter(inputs.values())))
    for start in range(0, count, fixed or size):
        stop = start + fixed if fixed else min(start + size, count)
        chosen = np.arange(start, stop) % count
        yield {name: array[chosen] for name, array in inputs.items()}


def random_inputs(model: keras.Model) -> Inputs:
    """Random inputs of a model, for which its outputs are finite if such were found.

    Raises:
        ValueError: no sizes were found that the model takes.
    """
    failure: Exception | None = None
    found: Inputs = {}
    for size in _SIZES if _has_free_sizes(model) else _SIZES[:1]:
        for low in (-1.0, 0.0):
            inputs = _random(model, size, low)
            try:
                answered = answers(model, batches(model, inputs, 8))
            except Exception as error:  # whatever the user's layers raise for a size that does not fit
                failure = error
                break
            found = found or inputs
            outputs = [output for batch in answered for output in batch.values()]
            if all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f"):
                return inputs
    if found:
        return found
    raise ValueError(
        "Each export is run on examples before it takes its place. "
        f"Received: {model.name!r}, which does not run on random ones: {brief(failure)}. Pass examples."
    ) from failure


def brief(error: Exception | None) -> str:
    """What an error says, on one line."""
    return " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())[:300]


def _has_free_sizes(model: keras.Model) -> bool:
    return any(None in spec.shape[1:] for spec in keras.tree.flatten(signature_of(model)))


def _random(model: keras.Model, size: int, low: float) -> Inputs:
    rng = np.random.default_rng(0)
    return {
        spec.name: _values(
            rng, tuple(spec.shape[:1]) + tuple(n or size for n in spec.shape[1:]), spec.dtype, low
        )
        for spec in keras.tree.flatten(signature_of(model))
    }


def _values(rng: np.random.Generator, shape: tuple[Any, ...], dtype: str, low: float) -> np.ndarray:
    shape = (max(8, 2 * (shape[0] or 0)), *shape[1:])  # two batches at least show states that move
    if dtype == "string":
        return rng.choice(np.array(["a", "b", "c d"], object), shape)
    if "float" in dtype:
        return rng.uniform(low, 1.0, shape).astype(dtype if dtype == "float64" else "float32")
    # Numbers of classes, tokens and categories are not known: 0 and 1 are nearly always among them.
    return rng.integers(0, 256 if dtype == "uint8" else 2, shape).astype(dtype)
