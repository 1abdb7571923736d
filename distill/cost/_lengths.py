"""The sizes that a model leaves open, such as the length of a text, filled in to count and to time it."""

from typing import TypeAlias

import keras
import numpy as np

from distill._graphs import functional_of
from distill._keras import get_input_signature
from distill._types import Arrays

# One number for every open size, or examples, as for the model, whose shapes give the sizes.
Lengths: TypeAlias = int | Arrays


def known(shape: tuple[int | None, ...], name: str) -> tuple[int, ...]:
    """The shape, if every size is known.

    Raises:
        ValueError: a size is unknown.
    """
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) < len(shape):
        raise ValueError(
            "Multiply-adds and latency are those of one example, so all sizes must be known. "
            f"Received: {name} with shape {tuple(shape)}. Give them with lengths=, a number or examples, or rebuild "
            "the model with a fixed keras.Input shape."
        )
    return sizes


def filled(model: keras.Model, lengths: Lengths) -> list[tuple[int, ...]]:
    """Shapes of the inputs of a model for one example, without the batch, in the order of its inputs.

    Args:
        model: built model.
        lengths: the sizes that it leaves open; `None` if there are none.

    Raises:
        TypeError: lengths are neither a number nor examples.
        ValueError: an open size is not given, or the examples do not fit the inputs.
    """
    graph = functional_of(model)
    specs = keras.tree.flatten(get_input_signature(model)) if graph is None else graph.inputs
    shapes = [tuple(spec.shape[1:]) for spec in specs]
    names = [spec.name for spec in specs]
    if lengths is None:
        return [known(shape, model.name) for shape in shapes]
    if isinstance(lengths, (int, np.integer)) and not isinstance(lengths, bool):
        if lengths < 1:
            raise ValueError(f"lengths must be at least 1. Received: lengths={lengths}.")
        return [tuple(int(lengths) if size is None else size for size in shape) for shape in shapes]
    by_name = isinstance(lengths, dict) and set(names) <= set(lengths)
    given = [lengths[name] for name in names] if by_name else keras.tree.flatten(lengths)
    if any(not hasattr(one, "shape") for one in given):
        raise TypeError(
            "lengths must be a number for every size that the model leaves open, or examples as for the model. "
            f"Received: lengths={lengths!r}."
        )
    found = [tuple(int(size) for size in one.shape[1:]) for one in given]
    fits = len(found) == len(shapes) and all(map(_fits, found, shapes))
    if not fits:
        raise ValueError(
            f"Examples in lengths must fit the inputs of the model. Received: {found} for {model.name!r}, whose inputs "
            f"{names} have shapes {shapes}, without the batch."
        )
    return found


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(
        size in (None, one) for one, size in zip(found, shape, strict=True)
    )


def with_lengths(model: keras.Model, lengths: Lengths) -> keras.Model:
    """The model on inputs of these sizes; itself if it leaves none open. It shares the weights, and leaves a trace."""
    shapes = filled(model, lengths)
    specs = get_input_signature(model)
    flat = keras.tree.flatten(specs)
    if all(None not in spec.shape[1:] for spec in flat):
        return model
    pairs = zip(flat, shapes, strict=True)
    inputs = [keras.Input(shape, spec.shape[0], dtype=spec.dtype, name=spec.name) for spec, shape in pairs]
    (given,) = keras.tree.pack_sequence_as(specs, inputs)
    return keras.Model(given, model(given), name=model.name)
