"""A model as it answers in inference, with named inputs and outputs, for the writers of all formats."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from distill._keras import Functional, get_input_signature
from distill._types import Tensors


def signature_of(model: keras.Model) -> list[Any]:
    """The model's positional inputs: structures of `keras.InputSpec` with names, and the batch size if it is fixed.

    Keras' own signature forgets the batch size, without which LiteRT has no loops over time, and has no names for the
    inputs of a subclassed model. The names are those of the model's inputs, as far as every format can hold them.
    """
    signature = get_input_signature(model)
    symbolic = model.inputs if isinstance(model, Functional | keras.Sequential) else None
    specs: list[keras.InputSpec] = []
    for i, (path, spec) in enumerate(keras.tree.flatten_with_path(signature)):
        shape = spec.shape if symbolic is None else symbolic[i].shape
        dtype = spec.dtype if symbolic is None else symbolic[i].dtype
        name = (
            (None if symbolic is None else symbolic[i].name)
            or "_".join(map(str, path[1:]))
            or f"input_{path[0]}"
        )
        specs.append(
            keras.InputSpec(shape=shape, dtype=dtype, name=_usable(name, [one.name for one in specs]))
        )
    made: list[Any] = keras.tree.pack_sequence_as(signature, specs)
    return made


def _usable(name: str, taken: list[str]) -> str:
    """The name as an argument of Python and an operation of TensorFlow."""
    name = re.sub(r"\W", "_", name)
    name = name if name[0].isalpha() and name != "self" else f"input_{name}"
    return name if name not in taken else f"{name}_{len(taken)}"


def serving(model: keras.Model) -> Any:
    """The function of the model's positional inputs that gives its outputs in inference.

    `model.export` calls the model without saying that it is inference, so augmentation layers augment. Nested outputs,
    which files cannot hold, are returned by name.
    """

    def serve(*inputs: Tensors) -> Tensors:
        outputs = model(*inputs, training=False)
        parts = outputs.values() if isinstance(outputs, dict) else _listed(outputs)
        named = outputs_by_name(outputs)
        return named if any(map(keras.tree.is_nested, parts)) else outputs

    return serve


def answers(model: keras.Model, batches: Iterable[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """The model's own outputs in inference, batch by batch; the model's state does not change.

    Args:
        model: built model.
        batches: arrays by the names of inputs in files.

    Returns:
        For each batch the outputs, by their names in files.
    """
    signature = signature_of(model)
    names = [spec.name for spec in keras.tree.flatten(signature)]
    found = []
    with (
        keras.StatelessScope()
    ):  # random generators and recurrent states move in here, as they will in the file
        for batch in batches:
            parts = [keras.ops.convert_to_tensor(batch[name]) for name in names]
            outputs = model(*keras.tree.pack_sequence_as(signature, parts), training=False)
            named = outputs_by_name(outputs)
            found.append({name: keras.ops.convert_to_numpy(output) for name, output in named.items()})
    return found


def outputs_by_name(outputs: Tensors) -> dict[str, Any]:
    """A model's outputs by the names that they have in files.

    Outputs in a dictionary have its keys, those in a list are "output_0", "output_1" and so on, and what is nested has
    the names of its path, such as "heads/box/0".
    """
    if not isinstance(outputs, dict):
        outputs = {f"output_{i}": part for i, part in enumerate(_listed(outputs))}
    parts = keras.tree.flatten_with_path(outputs)
    found = {"/".join(map(str, path)): tensor for path, tensor in parts}
    if len(found) < len(parts):
        raise ValueError(
            "Every output of a file needs a name of its own. "
            f"Received: outputs of which several are called one of {', '.join(found)}. Use keys without '/'."
        )
    return found


def _listed(outputs: Tensors) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def write_saved_model(model: keras.Model, path: Path) -> Any:
    """Writes a SavedModel whose endpoint "serve" answers as the model does in inference.

    Returns:
        The endpoint, a tf.function.
    """
    archive = keras.export.ExportArchive()
    archive.track(model)
    endpoint = archive.add_endpoint("serve", serving(model), input_signature=signature_of(model))
    archive.write_out(str(path), verbose=False)
    return endpoint


def operations_of(endpoint: Any) -> set[str]:
    """The names of TensorFlow's operations in a tf.function with a signature, with their type if they have one.

    Such as "AssignVariableOp DT_FLOAT" and "While".
    """
    from tensorflow.core.framework import types_pb2

    graph = endpoint.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {
        f"{node.op} {types_pb2.DataType.Name(node.attr['dtype'].type)}".removesuffix(" DT_INVALID")
        for node in nodes
    }
