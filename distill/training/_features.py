"""Which parts of a batch a model takes: names decide."""

import re
from collections.abc import Iterator
from typing import Any

import keras

from distill._graphs import functional_of
from distill._keras import history_of
from distill._types import Tensors

# Names that Keras gives inputs without one.
_UNNAMED = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")


def features_of(model: Any, batch: Tensors) -> Tensors:
    """Returns the features of a batch that a model takes, in the structure of its inputs.

    Keras pairs the features of a dictionary with the inputs of a Functional model in sorted order, whatever they are
    called (keras 3.15.1, which warns). Here a feature goes to the input of its name: the key, if the model was made
    with a dictionary of inputs, and otherwise the input's own name. What the model does not take is left out. The
    same holds for a SavedModel. A batch without names, and a model whose inputs cannot be read, are left to Keras and
    to the model.

    Args:
        model: a model, or any function of a batch.
        batch: its inputs, in any structure.

    Raises:
        ValueError: the batch names its features, and lacks one that the model takes.
    """
    inputs = _inputs_of(model)
    if inputs is None or batch is None:
        return batch

    def pick(wanted: Any, given: Any, path: str) -> Any:
        if isinstance(wanted, dict):
            if not isinstance(given, dict):
                return given if not path else refuse(path)
            return {
                key: pick(part, given[key], _join(path, key))
                if key in given
                else absent(part, _join(path, key))
                for key, part in wanted.items()
            }
        if isinstance(wanted, (list, tuple)):
            if isinstance(given, dict):
                return [pick(part, given, path) for part in wanted]
            if not isinstance(given, (list, tuple)) or len(given) != len(wanted):
                return given
            return [pick(*parts, _join(path, i)) for i, parts in enumerate(zip(wanted, given, strict=True))]
        if isinstance(given, dict):
            name = wanted.name
            return (
                given[name]
                if name in given and not keras.tree.is_nested(given[name])
                else absent(wanted, name)
            )
        return given if not (path and keras.tree.is_nested(given)) else refuse(path)

    def absent(wanted: Any, path: str) -> Any:
        return None if all(_is_optional(part) for part in keras.tree.flatten(wanted)) else refuse(path)

    def refuse(path: str) -> Any:
        raise ValueError(
            f"A model takes the features of a batch by name. Received: {model.name!r}, which takes {names_of(model)}, "
            f"and a batch of {[name for name, _ in _leaves(batch)]}: {path!r} is missing. Rename the feature in the "
            "data, name the model's keras.Input(name=...) after it, or, for a teacher, pass a function that makes its "
            "inputs as teacher_preprocessing=..."
        )

    return pick(inputs, batch, "")


def names_of(model: Any) -> list[str]:
    """The inputs of a model by name, in the order in which Keras pairs them with a batch that has no names.

    A name is a key, or a path such as "text/ids", for a model that was made with a dictionary of inputs, and otherwise
    the input's own; empty for a model whose graph cannot be read.
    """
    return [name for name, _ in _leaves(_inputs_of(model))]


def shapes_of(model: Any) -> dict[str, tuple[int | None, ...]]:
    """The shapes of a model's inputs by name; empty for a model whose graph cannot be read."""
    return {name: tuple(part.shape) for name, part in _leaves(_inputs_of(model))}


def takes_names(model: Any) -> bool:
    """Whether a model was made with a dictionary of inputs."""
    return isinstance(_inputs_of(model), dict)


def is_named(name: str) -> bool:
    """Whether an input's name was given by a person."""
    return _UNNAMED.fullmatch(name) is None


def in_other_order(one: list[str], other: list[str]) -> list[str]:
    """The names that two lists of inputs both have, at different places."""
    return [
        name
        for place, name in enumerate(one)
        if is_named(name) and name in other and (place >= len(other) or other[place] != name)
    ]


def require_one_order(teacher: Any, student: Any, batch: Tensors) -> None:
    """Raises ValueError if a batch without names would give a teacher the features of other inputs."""
    if not isinstance(batch, (list, tuple)):
        return
    taught, learned = names_of(teacher), names_of(student)
    if in_other_order(taught, learned):
        raise ValueError(
            "A batch that is a list has no names, so teacher and student must take the features in one order. "
            f"Received: teacher {teacher.name!r} with {taught} and student {student.name!r} with {learned}. Train on "
            "dictionaries such as {'name': array}, or pass a function that makes the teacher's inputs as "
            "teacher_preprocessing=..."
        )


def _inputs_of(model: Any) -> Any:
    """The symbolic inputs of a model or of a SavedModel in their structure; `None` if it cannot be read."""
    graph = functional_of(model)
    if graph is not None:
        return graph.input
    if isinstance(model, keras.layers.TFSMLayer):
        calls = getattr(model.call_endpoint_fn, "concrete_functions", [])
        arguments = [call.structured_input_signature[0] for call in calls]
        return arguments[0][0] if len(arguments) == 1 and len(arguments[0]) == 1 else None
    return None


def _leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors of a structure with their names, in Keras' order."""
    if isinstance(part, dict):
        for key in sorted(part):
            yield from _leaves(part[key], _join(path, key))
    elif isinstance(part, (list, tuple)):
        for i, one in enumerate(part):
            own = getattr(one, "name", None) if _is_spec(one) else None
            yield from _leaves(one, _join(path, i if own is None else own))
    elif part is not None:
        yield path or str(getattr(part, "name", "one without a name")), part


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _is_spec(part: Any) -> bool:
    return isinstance(part, keras.KerasTensor) or type(part).__name__ == "TensorSpec"


def _is_optional(tensor: Any) -> bool:
    return isinstance(tensor, keras.KerasTensor) and bool(
        getattr(history_of(tensor).operation, "optional", False)
    )
