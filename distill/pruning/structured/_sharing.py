"""Tells whether layers of a smaller model share weights where those of the original do, and nowhere else."""

import dis
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras

from distill._keras import flatten_layers


class Weights(NamedTuple):
    """The weights of a layer of the original and of the layer in its place.

    Attributes:
        path: path or name of the layer.
        pairs: each weight with the one in its place.
    """

    path: str
    pairs: list[tuple[keras.Variable, keras.Variable]]


def difference_in_sharing(layers: Iterable[Weights]) -> str:
    """What is shared differently from the original, or "" if nothing is."""
    made: dict[int, tuple[keras.Variable, str]] = {}
    origins: dict[int, tuple[keras.Variable, str]] = {}
    for path, pairs in layers:
        for source, target in pairs:
            if source is target:
                return f"{path!r}, which holds {source.name!r} of the original itself"
            other, where = made.setdefault(id(source), (target, path))
            if other is not target:
                return f"{where!r} and {path!r}, which share {source.name!r} but would no longer do so"
            origin, where = origins.setdefault(id(target), (source, path))
            if origin is not source:
                return f"{where!r} and {path!r}, which do not share {source.name!r} but would then do so"
    return ""


def require_same_sharing(layers: Iterable[Weights]) -> None:
    """Refuses layers that share their weights differently from those of the original.

    Raises:
        ValueError: the layers share their weights differently.
    """
    if difference := difference_in_sharing(layers):
        raise ValueError(
            f"Layers must share weights as in the original. Received: {difference}. A layer that holds another one has "
            "to name it in its get_config, by keras.saving.serialize_keras_object(layer), and take it in from_config, "
            "by keras.saving.deserialize_keras_object."
        )


def refuse_references(name: str, functions: Iterable[types.FunctionType], model: keras.Model) -> None:
    """Refuses functions that use layers or weights of the model, as a smaller model has its own.

    Args:
        name: name of the layer that calls the functions.
        functions: the user's functions.
        model: original model.

    Raises:
        ValueError: a function uses such a layer or weight.
    """
    own = {id(one): one.name for one in [*flatten_layers(model), *model.variables]}
    for function in functions:
        for value in _referred_to(function, function.__module__, set()):
            if id(value) in own:
                raise ValueError(
                    "A function in a layer must not use other layers or weights of the model: in a smaller model it "
                    f"would go on with those of the original. Received: the function {function.__name__!r} of "
                    f"{name!r}, which uses {own[id(value)]!r}. Write it as a layer that holds {own[id(value)]!r} and "
                    "names it in its get_config."
                )


def _referred_to(function: types.FunctionType, module: str, seen: set[int]) -> Iterator[Any]:
    """The values from outside that a function, and the functions that it refers to in the same module, refer to."""
    if id(function) in seen or function.__module__ != module:
        return
    seen.add(id(function))
    cells = [
        cell for cell in function.__closure__ or () if cell != types.CellType()
    ]  # an empty one has no contents
    found = [function.__defaults__, function.__kwdefaults__, *(cell.cell_contents for cell in cells)]
    found += [function.__globals__.get(name) for name in _names_in(function.__code__)]
    for value in keras.tree.flatten(found):
        yield value
        if isinstance(value, types.FunctionType):
            yield from _referred_to(value, module, seen)


def _names_in(code: types.CodeType) -> Iterator[str]:
    """The variables of the module that code reads; other names in it are of attributes."""
    yield from (
        step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    )
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
