"""Which of a model's outputs: names for dictionaries, positions for lists, nothing where there is one."""

from typing import Any

import keras

from distill._keras import Functional

Output = str | int | None


def pick(outputs: Any, output: Output, owner: str, *, only_serves_all: bool = False) -> Any:
    """One of a model's outputs.

    Args:
        outputs: what the model returns: a tensor, or a list, tuple or dictionary of them.
        output: a dictionary's key, a list's position, or `None` for the only one.
        owner: the model's name, for the error.
        only_serves_all: whether an only output goes by any name, as that of a teacher for several of a student's.

    Raises:
        ValueError: there is no such output, or `None` meets several.
    """
    if not keras.tree.is_nested(outputs):
        outputs = [outputs]
    keys = list(outputs) if isinstance(outputs, dict) else list(range(len(outputs)))
    if len(keys) == 1 and (output is None or only_serves_all):
        output = keys[0]
    if output is None:
        raise ValueError(
            "A loss compares one output of the teacher with one output of the student. "
            f"Received: {owner!r} with {len(keys)} outputs, {keys}. Say which of the student's: "
            f"distillation_losses={{{keys[0]!r}: loss}}."
        )
    if output not in keys:
        raise ValueError(
            f"No such output. Received: output {output!r} of {owner!r}, which has {keys}. Outputs of teacher and "
            "student go by the same name or position; keras.Model(model.input, {'name': tensor}) names them anew."
        )
    value = outputs[output]
    if keras.tree.is_nested(value):
        raise ValueError(
            "Outputs are tensors, or one list or dictionary of them. Received: "
            f"{owner!r}, whose output {output!r} is a {type(value).__name__}. Flatten the model's outputs."
        )
    return value


def output_key(graph: Functional, output: Output) -> Output:
    """An output's key in what the model returns: what Keras calls by the name of a layer is a position in a list."""
    if isinstance(output, str) and not isinstance(graph.output, dict) and output in graph.output_names:
        if graph.output_names.count(output) > 1:
            raise ValueError(
                f"An output goes by a name of its own. Received: {output!r} of {graph.name!r}, whose outputs are "
                f"{graph.output_names}. Use their positions: 0 to {len(graph.output_names) - 1}."
            )
        return graph.output_names.index(output)
    return output
