"""Follows one example through a model, call by call, and counts its multiply-adds."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from distill._graphs import Step, arguments_of, functional_of, inside, run
from distill._keras import AutocastScope, Functional, build_for_call, flatten_layers
from distill._models import require_model
from distill._untouched import untouched
from distill.cost._calls import Call, Calls, total
from distill.cost._following import following
from distill.cost._lengths import Lengths, filled, known
from distill.cost._products import Products, is_known, mended, products_of

# Their masks change no size, and beside dropout Keras cannot make them from symbolic tensors.
_MASKING = (layers.GroupQueryAttention, layers.MultiHeadAttention)


def macs(model: keras.Model, *, lengths: Lengths = None) -> int:
    """Counts the multiply-adds of one example's forward pass; FLOPs are twice as many.

    The count includes products with a kernel, in layers and in raw `keras.ops`, and products of two activations, as in
    attention. A layer that is called twice counts twice. Products with the zeros of "same" padding count, and a
    transposed convolution counts every product of an input with its kernel, cropped or not. Recurrent kernels count
    once per step. A custom layer counts by what its `call` does, if that is written with `keras.ops` or other layers.

    The count leaves out biases, activations, normalizations, pooling, interpolation, look-ups and other elementwise
    work, and the angles of rotary positions, which do not depend on any input.

    Args:
        model: Functional or Sequential model, possibly with such models nested in it; channels last or first.
        lengths: the sizes that the model leaves open, such as the length of a text: one number for all of them, or
            examples, as for the model, whose shapes give the sizes.

    Returns:
        Multiply-adds of one example, no unit.

    Raises:
        ValueError: the model has no graph, a size other than the batch's is unknown, or the `call` of a layer cannot
            be followed.

    Example:
        >>> import keras
        >>> from distill import cost
        >>> cost.macs(keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(8, 3)]))
        48672
    """
    require_model(model, "cost.macs")
    return calls_of(model, lengths=lengths).products.total


def calls_of(model: keras.Model, *, lengths: Lengths = None) -> Calls:
    """Follows one example through a model's graph, through nested models and layers that contain layers.

    Args:
        model: Functional or Sequential model; it is not changed.
        lengths: as for `macs`.

    Returns:
        The calls, each with its tensors and multiply-adds.

    Raises:
        ValueError: the model has no graph, an input size other than the batch's is unknown, or Keras cannot infer the
            outputs of a layer whose call cannot be followed either.

    Example:
        >>> import keras
        >>> from distill import cost
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> [(call.path, call.products.total) for call in cost.calls_of(model).calls]
        [('head', 12)]
    """
    require_model(model, "cost.calls_of")
    graph = functional_of(model)
    if graph is None:
        raise ValueError(
            "Multiply-adds need a model's graph: a Functional model, or a Sequential one with a keras.Input. "
            f"Received: {model.name} of type {type(model).__name__}, which has none. "
            "Build it from keras.Input, or wrap its call in a Functional model."
        )
    shapes = zip(graph.inputs, filled(model, lengths), strict=True)
    inputs = [keras.KerasTensor((1, *shape), dtype=tensor.dtype) for tensor, shape in shapes]
    follower = _Follower()
    try:
        with untouched(model):
            outputs = follower.model(graph, inputs, "")
    except ValueError as error:
        if all(tensor.shape[0] in (None, 1) for tensor in graph.inputs):
            raise
        raise ValueError(
            "Multiply-adds are counted for one example, so the model must accept a batch of one. "
            f"Received: {model.name}, whose batch size is {graph.inputs[0].shape[0]}: {error} "
            "Build it from a keras.Input without a batch size."
        ) from error
    return Calls(inputs, keras.tree.flatten(outputs), follower.calls)


class _Follower:
    """Keeps each call that it follows."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def model(self, graph: Functional, tensors: Sequence[keras.KerasTensor], path: str) -> Any:
        """Follows a Functional model. Its sizes are inferred anew: the stored ones are those of its first call."""

        def visit(step: Step[Any]) -> Any:
            return self.call(step.operation, step.path, *step.arguments())

        return run(graph, tensors, visit, path=path).of(graph.output)

    def call(
        self, operation: keras.Operation, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Follows one call; returns its outputs.

        Raises:
            ValueError: the outputs cannot be known.
        """
        if isinstance(operation, keras.Layer) and "training" not in operation.call_signature_parameters:
            kwargs = {key: value for key, value in kwargs.items() if key != "training"}  # as Keras does
        if (nested := functional_of(operation)) is not None:
            return self.model(nested, arguments_of(nested, args, kwargs), path)
        if (
            isinstance(operation, keras.Layer) and not operation.built
        ):  # no call has built it, and it is put back
            build_for_call(operation, args, kwargs)
        within, inputs = _Follower(), _symbolic((args, kwargs))
        products, unknown, outputs = None, "", None
        try:
            if is_known(operation):
                operands = _operands(inspect.signature(operation.call).bind(*args, **kwargs).args)
                outputs = mended(operation, operands, _inferred(operation, path, args, kwargs))
                products = products_of(operation, operands, _symbolic(outputs))
            elif type(operation) in (layers.RNN, layers.TimeDistributed):
                outputs = _inferred(operation, path, args, kwargs)
                _, times, *rest = known(inputs[0].shape, path)  # the next input may be a mask
                each = keras.KerasTensor((1, *rest), inputs[0].dtype)
                if type(operation) is layers.TimeDistributed:
                    within.call(operation.layer, path, (each,), {})
                else:
                    within.call(operation.cell, path, (each, _states_of(operation, each)), {})
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

    def opened(
        self, operation: keras.Operation, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Follows what a layer's own `call` does; returns its outputs.

        Raises:
            ValueError: it cannot be followed.
        """
        if type(operation) in _MASKING:
            kwargs = {key: value for key, value in kwargs.items() if key != "use_causal_mask"}

        def follow(inner: keras.Operation, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            own = inside(path, inner) if isinstance(inner, keras.Layer) else path
            with AutocastScope(_compute_dtype(inner) or _compute_dtype(operation)):
                return self.call(inner, own, args, kwargs)

        try:
            # The scopes leave variables, losses and metrics as they are.
            scope = AutocastScope(_compute_dtype(operation))
            with keras.StatelessScope(), keras.SymbolicScope(), scope, following(follow):
                made = operation.call(*args, **kwargs)
        except Exception as error:  # a layer's code may raise anything on tensors without values
            is_layer = isinstance(operation, keras.Layer)
            raise ValueError(
                "Multiply-adds are counted where the arithmetic is known, never guessed. "
                f"Received: {path} of type {type(operation).__name__}, whose call cannot be followed. "
                f"{'Write it with keras.ops and layers, or count' if is_layer else 'Count'} this layer by hand."
            ) from error
        return keras.tree.map_structure(_as_symbolic, made)


def _states_of(layer: keras.layers.RNN, step: keras.KerasTensor) -> Any:
    """The states that the cell of a recurrent layer is called on."""
    sizes = layer.cell.state_size
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    return keras.tree.map_structure(lambda size: keras.KerasTensor((1, size), step.dtype), sizes)


def _inferred(operation: keras.Operation, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The outputs of a call, as Keras infers them.

    Raises:
        ValueError: Keras cannot infer them.
    """
    try:
        with following(None):
            return operation.compute_output_spec(*args, **kwargs)
    except Exception as error:  # a layer's code may raise anything on tensors without values
        raise ValueError(
            "Multiply-adds follow from the output shapes of all layers. "
            f"Received: {path} of type {type(operation).__name__}, whose output shape Keras cannot infer: {error} "
            "Give the layer a compute_output_shape that takes the arguments of its call."
        ) from error


def _compute_dtype(operation: keras.Operation) -> str | None:
    return operation.compute_dtype if isinstance(operation, keras.Layer) else None


def _symbolic(structure: Any) -> list[keras.KerasTensor]:
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]


def _operands(structure: Any) -> list[Any]:
    """Tensors, weights and arrays."""
    kinds = (keras.KerasTensor, keras.Variable, np.ndarray)
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if isinstance(leaf, kinds) or keras.ops.is_tensor(leaf)]


def _as_symbolic(leaf: Any) -> Any:
    """A symbolic tensor for one that a layer makes without looking at its inputs, as embeddings of positions do."""
    return keras.KerasTensor(leaf.shape, leaf.dtype) if keras.ops.is_tensor(leaf) else leaf
