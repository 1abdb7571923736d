"""How one of a model's outputs is chosen: by name in a dictionary, by position in a list."""

import keras

from distill._keras import Functional
from distill._types import Tensor, Tensors

# A name, a position, or `None` for the only output.
Output = str | int | None


def pick(outputs: Tensors, output: Output, owner: str, *, only_serves_all: bool = False) -> Tensor:
    """Returns one of a model's outputs.

    Args:
        outputs: what the model returns: a tensor, or a list, tuple or dictionary of tensors.
        output: key of a dictionary, position in a list, or `None` for the only output.
        owner: name of the model, for errors.
        only_serves_all: whether an only output may be picked by any key, as that of a teacher for a student of
            several outputs.

    Raises:
        ValueError: there is no such output, or `output` is `None` and there are several.
    """
    if not keras.tree.is_nested(outputs):
        outputs = [outputs]
    keys = list(outputs) if isinstance(outputs, dict) else list(range(len(outputs)))
    if len(keys) == 1 and (output is None or only_serves_all):
        output = keys[0]
    if output is None:
        raise ValueError(
            "A loss compares one output of the teacher with one output of the student. "
            f"Received: {owner!r} with {len(keys)} outputs, {keys}. Name the student's output: "
            f"distillation_losses={{{keys[0]!r}: loss}}."
        )
    if output not in keys:
        raise ValueError(
            f"{owner!r} has no output {output!r}. Its outputs are {keys}. The outputs of teacher and student that are "
            "compared must have the same name or position; keras.Model(model.input, {'name': tensor}) renames them."
        )
    value = outputs[output]
    if keras.tree.is_nested(value):
        raise ValueError(
            "A model must return a tensor, or one list or dictionary of tensors. Received: "
            f"{owner!r}, whose output {output!r} is a {type(value).__name__}. Flatten the model's outputs."
        )
    return value


def by_position(values: Tensors, graph: Functional | None) -> Tensors:
    """Returns labels or weights in the order of a list of outputs; Keras takes them by the outputs' names too.

    A missing one is `None`. What has other names, or belongs to a dictionary of outputs, stays as it is.
    """
    if graph is None or not isinstance(values, dict) or isinstance(graph.output, dict):
        return values
    names = list(graph.output_names)
    return [values.get(name) for name in names] if len(names) > 1 and set(values) <= set(names) else values


def output_key(graph: Functional, output: Output) -> Output:
    """Returns an output's key in what the model returns: the position, if Keras' output names are of a list."""
    if isinstance(output, str) and not isinstance(graph.output, dict) and output in graph.output_names:
        if graph.output_names.count(output) > 1:
            raise ValueError(
                f"The name of an output must be unique. Received: {output!r} of {graph.name!r}, whose outputs are "
                f"{list(graph.output_names)}. Use their positions instead: 0 to {len(graph.output_names) - 1}."
            )
        return graph.output_names.index(output)
    return output
