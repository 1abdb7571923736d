"""Turns the inputs of a model into those of its exported files."""

import keras
import numpy as np

from distill._graphs import functional_of
from distill._keras import standardize_inputs
from distill._types import Arrays


def inputs_by_name(model: keras.Model, x: Arrays) -> np.ndarray | dict[str, np.ndarray]:
    """Arranges a model's inputs as `Exported.predict` takes them.

    Args:
        model: model that the file was exported from.
        x: inputs as the model takes them, arrays (examples, …).

    Returns:
        The array of a model with one input; otherwise the name of each input and its array.

    Raises:
        ValueError: there are several inputs, and the model is not Functional, so that they have no names.

    Example:
        >>> import keras
        >>> from distill import exports
        >>> a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
        >>> model = keras.Model([a, b], keras.layers.Add()([a, b]))
        >>> list(exports.inputs_by_name(model, [np.ones((2, 4)), np.zeros((2, 4))]))
        ['a', 'b']
    """
    graph = functional_of(model)
    if graph is None:
        if keras.tree.is_nested(x):
            raise ValueError(
                "A model with several inputs must be Functional, because exported files know inputs by name. "
                f"Received: {type(x).__name__} for {model.name!r}, a {type(model).__name__}. Build it from keras.Input."
            )
        array = np.asarray(x)
        return array.astype("float32") if array.dtype.kind == "f" else array
    arrays = [keras.ops.convert_to_numpy(tensor) for tensor in standardize_inputs(graph, x)]
    if len(arrays) == 1:
        return arrays[0]
    return {tensor.name: array for tensor, array in zip(graph.inputs, arrays, strict=True)}
