"""Every call of a model's layers and operations in order, with the sizes of one example."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

# Keras exports no names for the scopes in which it infers shapes, nor for the arguments that it builds from.
from distill._graphs import Step, arguments_of, functional_of, inside, run
from distill._keras import AutocastScope, build_for_call, flatten_layers
from distill.cost._following import following
from distill.cost._products import Products, is_known, known, mended, products_of


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, or of an operation between layers.

    Attributes:
        path: of the layer, such as "block/conv"; of operations inside a layer, that layer's.
        operation: what is called.
        inputs: the tensors that it is called on; one that another call made is the same object there.
        outputs: the tensors that it makes.
        products: its multiply-adds, or `None` where they are not known.
        unknown: why they are not, or "".
    """

    path: str
    operation: Any
    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    products: Products | None
    unknown: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Calls:
    """What a model does with one example.

    Attributes:
        inputs: of the model.
        outputs: of the model.
        calls: in the order in which Keras runs them.
    """

    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    calls: Sequence[Call]


def calls_of(model: keras.Model) -> Calls:
    """Follows one example through a model's graph, nested models and layers that hold layers.

    Args:
        model: Functional or Sequential; it is left as it is.

    Returns:
        The calls.

    Raises:
        ValueError: the model has no graph, a size of its inputs other than the batch's is unknown, or Keras cannot
            infer what a layer makes, whose call cannot be followed either.
    """
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "Multiply-adds need a model's graph: a Functional model, or a Sequential one with a "
            f"keras.Input. Received: {model.name} of type {type(model).__name__}, which has none. "
            "Build it from keras.Input, or wrap its call in a Functional model."
        )
    inputs = [keras.KerasTensor((1, *known(t.shape[1:], model.name)), dtype=t.dtype) for t in graph.inputs]
    walk = _Walk()
    try:
        outputs = walk.model(graph, inputs, "")
    except ValueError as error:
        if all(tensor.shape[0] in (None, 1) for tensor in graph.inputs):
            raise
        raise ValueError(
            "Multiply-adds are of one example, which the model must be able to take. Received: "
            f"{model.name}, whose batches have {graph.inputs[0].shape[0]}: {error} "
            "Build it with a keras.Input of any batch."
        ) from error
    return Calls(inputs, keras.tree.flatten(outputs), walk.calls)


def macs(model: keras.Model) -> int:
    """Multiply-adds of one example's forward pass; FLOPs are twice as many.

    Counted: products with a kernel, in layers and in raw `keras.ops`, and products of two activations, as in
    attention. A layer called twice counts twice; products with the zeros of "same" padding count too, and a transposed
    convolution counts every product of an input with its kernel, cropped or not. Recurrent kernels count once a step.
    A layer of one's own counts by what its `call` does, where that is written with `keras.ops` or other layers.
    Not counted: biases, activations, normalizations, pooling, interpolation, look-ups and whatever else works number by
    number; and the angles of rotary positions, which follow from no input.

    Args:
        model: Functional or Sequential, possibly with such models nested, channels last or first.

    Returns:
        Multiply-adds of one example, no unit.

    Raises:
        ValueError: the model has no graph, a size other than the batch's is unknown, or a layer's `call` cannot be
            followed.

    Example:
        >>> macs(keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3)]))
        48672
    """
    return total(calls_of(model).calls).total


class _Walk:
    def __init__(self) -> None:
        self.calls: list[Call] = []

    def model(self, part: Any, tensors: Sequence[keras.KerasTensor], path: str) -> Any:
        """Follows a Functional model. Its sizes are inferred anew: those stored in it are of its first call."""

        def visit(step: Step[Any]) -> Any:
            return self.call(step.operation, step.path, *step.arguments())

        return run(part, tensors, visit, path=path).of(part.output)

    def call(self, operation: Any, path: str, args: Any, kwargs: Any) -> Any:
        """Follows one call; returns its outputs.

        Raises:
            ValueError: what it makes cannot be known.
        """
        if isinstance(operation, keras.Layer) and "training" not in operation.call_signature_parameters:
            kwargs = {key: value for key, value in kwargs.items() if key != "training"}  # as Keras does
        if (nested := functional_of(operation)) is not None:
            return self.model(nested, arguments_of(nested, args, kwargs), path)
        # One without weights, which no call built.
        if isinstance(operation, keras.Layer) and not operation.built:
            build_for_call(operation, args, kwargs)
        within, inputs = _Walk(), _symbolic((args, kwargs))
        products, unknown, outputs = None, "", None
        try:
            if is_known(operation):
                operands = _operands(inspect.signature(operation.call).bind(*args, **kwargs).args)
                outputs = mended(operation, operands, _inferred(operation, path, args, kwargs))
                products = products_of(operation, operands, _symbolic(outputs))
            elif type(operation) is layers.TimeDistributed:
                outputs = _inferred(operation, path, args, kwargs)
                _, times, *rest = inputs[0].shape  # a mask may follow
                within.call(operation.layer, path, (keras.KerasTensor((1, *rest)),), {})
                found = total(within.calls)
                products = Products(times * found.weights, times * found.activations)
            else:
                outputs = within.opened(operation, path, args, kwargs)
                if isinstance(operation, keras.Layer) and flatten_layers(operation, include_self=False):
                    self.calls += within.calls
                    return outputs
                products = total(within.calls)
        except ValueError as error:
            unknown = str(error)
            if outputs is None:
                outputs = _inferred(operation, path, args, kwargs)
        self.calls.append(Call(path, operation, inputs, _symbolic(outputs), products, unknown))
        return outputs

    def opened(self, operation: Any, path: str, args: Any, kwargs: Any) -> Any:
        """Follows what a layer's own `call` does.

        Raises:
            ValueError: it cannot be followed.
        """
        # A mask changes no size; beside dropout, Keras cannot make it of symbols.
        if type(operation) in _MASKING:
            kwargs = {key: value for key, value in kwargs.items() if key != "use_causal_mask"}

        def follow(inner: Any, args: Any, kwargs: Any) -> Any:
            own = inside(path, inner) if isinstance(inner, keras.Layer) else path
            with AutocastScope(_compute_dtype(inner) or _compute_dtype(operation)):
                return self.call(inner, own, args, kwargs)

        try:
            # Variables, losses and metrics stay as they are.
            scope = AutocastScope(_compute_dtype(operation))
            with keras.StatelessScope(), keras.SymbolicScope(), scope, following(follow):
                made = operation.call(*args, **kwargs)
        except Exception as error:  # whatever the code of a layer raises on tensors without values
            kind = type(operation).__name__
            rewritten = (
                "Write it with keras.ops and layers, or count"
                if isinstance(operation, keras.Layer)
                else "Count"
            )
            raise ValueError(
                "Multiply-adds are counted where the arithmetic is known, never guessed. "
                f"Received: {path} of type {kind}, whose call cannot be followed. "
                f"{rewritten} this layer by hand."
            ) from error
        return keras.tree.map_structure(_as_symbolic, made)


_MASKING = (layers.GroupQueryAttention, layers.MultiHeadAttention)


def _inferred(operation: Any, path: str, args: Any, kwargs: Any) -> Any:
    """What a call makes, as Keras infers it.

    Raises:
        ValueError: Keras cannot.
    """
    try:
        with following(None):
            return operation.compute_output_spec(*args, **kwargs)
    except Exception as error:  # whatever the code of a layer raises on tensors without values
        raise ValueError(
            "Multiply-adds follow from the sizes of what each layer makes, which Keras infers. "
            f"Received: {path} of type {type(operation).__name__}, of which it cannot: {error} "
            "Give the layer a compute_output_shape that takes the arguments of its call."
        ) from error


def total(calls: Sequence[Call]) -> Products:
    """Multiply-adds of all calls together.

    Raises:
        ValueError: some are not known.
    """
    for call in calls:
        if call.products is None:
            raise ValueError(call.unknown)
    known_ones = [call.products for call in calls if call.products is not None]
    return Products(sum(one.weights for one in known_ones), sum(one.activations for one in known_ones))


def _compute_dtype(operation: Any) -> str | None:
    return operation.compute_dtype if isinstance(operation, keras.Layer) else None


def _symbolic(structure: Any) -> list[keras.KerasTensor]:
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]


def _operands(structure: Any) -> list[Any]:
    """Tensors, weights and arrays."""
    kinds = (keras.KerasTensor, keras.Variable, np.ndarray)
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if isinstance(leaf, kinds) or keras.ops.is_tensor(leaf)]


def _as_symbolic(leaf: Any) -> Any:
    """Of what a layer returns without looking at its inputs, as embeddings of positions do."""
    return keras.KerasTensor(leaf.shape, leaf.dtype) if keras.ops.is_tensor(leaf) else leaf
