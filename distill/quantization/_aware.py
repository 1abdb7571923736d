"""Makes students that compute as their int8 files will, and turns them back into ordinary models."""

from typing import Any

import keras
import numpy as np

from distill._graphs import Step, functional_of, run
from distill._keras import flatten_layers, standardize_inputs
from distill._models import require_model
from distill._rewriting import copy_of, rewrite
from distill._types import Arrays, Tensor
from distill.quantization._layers import CONVERTIBLE, PLAIN, FakeQuantize
from distill.quantization._rounding import in_float32, rounded


def quantize_aware(model: keras.Model, examples: Arrays, *, batch_size: int = 128) -> keras.Model:
    """Copies a trained model into one whose forward pass rounds as LiteRT's int8 kernels do.

    Train the copy like any other model, ideally as the student of a `Distiller` and with a small learning rate.
    `export` then writes an int8 file that computes what the copy already computes. Without training, the result is
    post-training quantization.

    Batch normalizations are folded into the layers before them, with their present statistics. Activation ranges start
    at the values that the examples reach, and follow the batches during training. Rounding keeps zeros of kernels at
    zero; `pruning.keep_zeros` keeps the zeros of a pruned model during training.

    Args:
        model: built and trained Functional or Sequential model, possibly with such models nested in it; it does not
            change.
        examples: inputs as the model takes them, arrays (examples, …); a few hundred are enough.
        batch_size: number of examples to run at once.

    Returns:
        A Functional model whose layers have the same names, not compiled. A softmax or sigmoid at the end becomes a
        layer of its own, after the rounded logits. The model can be saved, and loaded wherever `distill` is imported.

    Raises:
        TypeError: the examples are not arrays.
        ValueError: it is not known how LiteRT rounds a layer; a batch normalization cannot be folded; the model has no
            graph, or computes in a type other than float32; there are no examples, or the inputs have different numbers
            of them.

    Example:
        >>> import keras
        >>> from distill import quantization
        >>> aware = quantization.quantize_aware(student, x[:300])
        >>> aware.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        >>> history = aware.fit(x, y, verbose=0)
    """
    require_model(model, "quantize_aware")
    require_examples(examples)
    new = rounded(model)
    _find_ranges(new, examples, batch_size)
    return new


def strip(model: keras.Model) -> keras.Model:
    """Copies a model from `quantize_aware` into one without rounding, with the weights as trained.

    Args:
        model: model from `quantize_aware`.

    Returns:
        A Functional model of Keras' own layers, which can be loaded without `distill`.

    Raises:
        TypeError: it is not a Keras model.
        ValueError: the model has no graph.

    Example:
        >>> from distill import quantization
        >>> plain = quantization.strip(quantization.quantize_aware(student, x[:300]))
        >>> quantization.is_quantized(plain)
        False
    """
    require_model(model, "strip")

    def plain(layer: keras.Layer, name: str) -> keras.Layer | None:
        return None if type(layer) is FakeQuantize else copy_of(layer, name, PLAIN.get(type(layer)))

    with in_float32():
        return rewrite(model, plain)


def is_quantized(model: keras.Model) -> bool:
    """Tells whether a model comes from `quantize_aware`, or contains one that does.

    Args:
        model: any model.

    Returns:
        Whether a layer in it rounds activations.

    Example:
        >>> from distill import quantization
        >>> quantization.is_quantized(student)
        False
    """
    return any(type(layer) is FakeQuantize for layer in flatten_layers(model))


def require_examples(examples: Arrays) -> None:
    """Checks examples for the ranges of activations.

    Raises:
        TypeError: they are not arrays.
        ValueError: there are none, or different numbers of them for the inputs.
    """
    arrays = keras.tree.flatten(examples)
    if strange := [one for one in arrays if not isinstance(one, np.ndarray) and not keras.ops.is_tensor(one)]:
        raise TypeError(
            "examples must be arrays. "
            f"Received: {type(strange[0]).__name__}. "
            "For a dataset, pass np.concatenate([x for x, _ in dataset.take(3)])."
        )
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "examples must not be empty, and there must be as many of each input. "
            f"Received: {sorted(sizes)} of them. Pass some hundred training inputs."
        )


def without_rounded_kernels(model: keras.Model) -> keras.Model:
    """A copy of a model from `quantize_aware` that rounds only activations, for converters that round kernels."""
    with in_float32():
        return rewrite(model, lambda layer, name: copy_of(layer, name, CONVERTIBLE.get(type(layer))))


def _find_ranges(model: keras.Model, examples: Arrays, batch_size: int) -> None:
    """Runs the model on examples without rounding activations, and widens each range to all that it sees."""
    graph: Any = functional_of(model)
    count = len(keras.tree.flatten(examples)[0])
    for start in range(0, count, batch_size):
        batch = keras.tree.map_structure(lambda array: array[start : start + batch_size], examples)  # noqa: B023
        run(graph, standardize_inputs(graph, batch), _widen)


def _widen(step: Step[Tensor]) -> Tensor:
    args, kwargs = step.arguments()
    if type(step.operation) is not FakeQuantize:
        return step.operation(*args, **kwargs)
    if kwargs.get("follow", True):
        step.operation.widen(args[0])
    return args[0]
