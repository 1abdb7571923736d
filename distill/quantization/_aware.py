"""Quantization-aware training: a student that computes as its int8 file will, and is trained to bear it."""

from typing import Any

import keras
import numpy as np

from distill._graphs import Step, functional_of, run
from distill._keras import flatten_layers, standardize_inputs
from distill.quantization._layers import PLAIN, FakeQuantize
from distill.quantization._rewriting import copy_of, rewrite
from distill.quantization._rounding import rounded


def quantize_aware(model: keras.Model, examples: Any, *, batch_size: int = 128) -> keras.Model:
    """A copy of a trained model whose forward pass rounds as LiteRT's int8 kernels do.

    Train it as any other model, best as the student of a `Distiller` and with a small learning rate; `export` then
    writes the int8 file that it already computes. Without training this is post-training quantization.

    Batch normalizations are folded into the layers before them, with the statistics that they have. Ranges of
    activations start at what the examples reach and follow the batches of training. Kernels keep their zeros;
    `pruning.keep_zeros` keeps those of a pruned model in training.

    Args:
        model: Functional or Sequential, possibly with such models nested, built and trained; left as it is.
        examples: inputs as the model takes them, arrays (examples, …); some hundreds are enough.
        batch_size: how many of them are run at once.

    Returns:
        A Functional model with layers of the same names, not compiled. A softmax or sigmoid at the end is a layer of
        its own, after rounded logits. It can be saved, and loaded where `distill` is imported.

    Raises:
        ValueError: a layer is not known to be rounded here as LiteRT does it; a batch normalization cannot be folded;
            the model has no graph, or computes in another type than float32; there are no examples.

    Example:
        >>> student = quantize_aware(student, x[:500])
        >>> distiller = Distiller(teacher, student, SoftTargets(4.0))
        >>> distiller.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        >>> distiller.fit(x, y)
        >>> export(student, "student.tflite", precision="int8")
    """
    require_examples(examples)
    new = rounded(model)
    _find_ranges(new, examples, batch_size)
    return new


def require_examples(examples: Any) -> None:
    """Raises where examples are not arrays, as many of each input."""
    arrays = keras.tree.flatten(examples)
    if strange := [one for one in arrays if not isinstance(one, np.ndarray) and not keras.ops.is_tensor(one)]:
        raise TypeError(
            "Ranges of activations come from examples in arrays. Received: "
            f"{type(strange[0]).__name__}. Of a dataset pass np.concatenate([x for x, _ in dataset.take(3)])."
        )
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "Ranges of activations come from examples, as many of each input. "
            f"Received: {sorted(sizes)} of them. Pass some hundred training inputs."
        )


def strip(model: keras.Model) -> keras.Model:
    """A plain copy of a model from `quantize_aware`, with its weights as they are trained and nothing rounded.

    Args:
        model: from `quantize_aware`.

    Returns:
        A Functional model of Keras' own layers, which needs no `distill` to be loaded.
    """
    return rewrite(model, lambda layer, name: None if type(layer) is FakeQuantize else _plain(layer, name))


def without_rounded_kernels(model: keras.Model) -> keras.Model:
    """A copy of a model from `quantize_aware` that rounds activations alone; LiteRT's converter rounds the kernels."""
    return rewrite(model, _plain)


def is_quantized(model: keras.Model) -> bool:
    """Whether the model is one from `quantize_aware`, or holds one."""
    return any(type(layer) is FakeQuantize for layer in flatten_layers(model))


def _plain(layer: Any, name: str) -> Any:
    return copy_of(layer, name, PLAIN.get(type(layer)))


def _find_ranges(model: keras.Model, examples: Any, batch_size: int) -> None:
    """Runs the model on examples, activations not rounded, and widens each range to all that comes by."""
    graph: Any = functional_of(model)
    count = len(keras.tree.flatten(examples)[0])
    for start in range(0, count, batch_size):
        batch = keras.tree.map_structure(lambda array: array[start : start + batch_size], examples)  # noqa: B023
        run(graph, standardize_inputs(graph, batch), _widen)


def _widen(step: Step[Any]) -> Any:
    args, kwargs = step.arguments()
    if type(step.operation) is not FakeQuantize:
        return step.operation(*args, **kwargs)
    if kwargs.get("follow", True):
        step.operation.widen(args[0])
    return args[0]
