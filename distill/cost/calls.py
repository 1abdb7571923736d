"""Every call of a model's layers and operations in order, with the sizes of one example."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

# Keras exports no names for the scopes in which it infers shapes.
from keras.src.backend import AutocastScope
from keras.src.backend.common.symbolic_scope import SymbolicScope

from distill.cost.products import Products, is_known, known, mended, products_of
from distill.graphs import arguments_of, functional_of


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
        ValueError: the model has no graph, or a size of its inputs other than the batch's is unknown.
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
    number.

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

        def followed(operation: Any) -> Any:
            own = f"{path}/{operation.name}" if path else operation.name
            return lambda *args, **kwargs: self.call(operation, own, args, kwargs)

        return keras.Function(part.inputs, part.outputs)._run_through_graph(tensors, operation_fn=followed)

    def call(self, operation: Any, path: str, args: Any, kwargs: Any) -> Any:
        """Follows one call; returns its outputs."""
        if (nested := functional_of(operation)) is not None:
            return self.model(nested, arguments_of(nested, args, kwargs), path)
        products, unknown = None, ""
        if not _is_leaf(operation):
            inside = _Walk()
            try:
                outputs = inside.opened(operation, path, args, kwargs)
            except _Unfollowed as error:
                unknown = str(error)
            else:
                self.calls += inside.calls
                return outputs
        inputs = _symbolic((args, kwargs))
        outputs = mended(operation, inputs, operation.compute_output_spec(*args, **kwargs))
        if not unknown:
            try:
                products = _products(operation, path, args, kwargs, outputs)
            except ValueError as error:
                unknown = str(error)
        self.calls.append(Call(path, operation, inputs, _symbolic(outputs), products, unknown))
        return outputs

    def opened(self, operation: Any, path: str, args: Any, kwargs: Any) -> Any:
        """Follows what a layer's own `call` does.

        Raises:
            ValueError: it cannot be followed.
        """
        if (
            type(operation) in _MASKING
        ):  # a mask changes no size; beside dropout, Keras cannot make it of symbols
            kwargs = {key: value for key, value in kwargs.items() if key != "use_causal_mask"}
        given = {id(tensor): tensor for tensor in _symbolic((args, kwargs))}
        fresh = {key: keras.KerasTensor(tensor.shape, tensor.dtype) for key, tensor in given.items()}
        found = {id(fresh[key]): tensor for key, tensor in given.items()}
        try:
            symbolic_args, symbolic_kwargs = _replaced((args, kwargs), fresh)
            made, nodes = _trace(operation, symbolic_args, symbolic_kwargs, list(fresh.values()))
        except Exception as error:  # whatever the code of a layer raises on tensors without values
            kind = type(operation).__name__
            raise _Unfollowed(
                "Multiply-adds are counted where the arithmetic is known, never guessed. "
                f"Received: {path} of type {kind}, whose call cannot be followed. "
                "Write it with keras.ops and layers, or count this layer by hand."
            ) from error
        with AutocastScope(_compute_dtype(operation)):
            for node in nodes:
                inner = node.operation
                own = f"{path}/{inner.name}" if isinstance(inner, keras.Layer) else path
                inner_args, inner_kwargs = node.arguments.fill_in(found)
                outputs = self.call(inner, own, inner_args, inner_kwargs)
                found.update(zip(map(id, node.outputs), _symbolic(outputs), strict=True))
        return keras.tree.map_structure(lambda leaf: found.get(id(leaf), _as_symbolic(leaf)), made)


class _Unfollowed(ValueError):
    """A layer's `call` cannot be run on symbolic tensors."""


def _is_leaf(operation: Any) -> bool:
    if is_known(operation) or isinstance(operation, layers.TimeDistributed):
        return True
    return not (isinstance(operation, keras.Layer) and operation._flatten_layers(include_self=False))


def _products(operation: Any, path: str, args: Any, kwargs: Any, outputs: Any) -> Products:
    """Multiply-adds of one call.

    Raises:
        ValueError: they are not known.
    """
    if is_known(operation):
        return products_of(operation, _operands((args, kwargs)), _symbolic(outputs))
    inside, times = _Walk(), 1
    if type(operation) is layers.TimeDistributed:
        _, times, *rest = _symbolic((args, kwargs))[0].shape  # a mask may follow
        inside.call(operation.layer, path, (keras.KerasTensor((1, *rest)),), {})
    else:
        inside.opened(operation, path, args, kwargs)
    found = total(inside.calls)
    return Products(times * found.weights, times * found.activations)


_MASKING = (layers.GroupQueryAttention, layers.MultiHeadAttention)


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


def _trace(operation: Any, args: Any, kwargs: Any, inputs: list[keras.KerasTensor]) -> tuple[Any, list[Any]]:
    """Runs a layer's `call` on symbolic tensors: what it returns, and the calls on the way."""
    parts = operation._flatten_layers() if isinstance(operation, keras.Layer) else [operation]
    before = [(part, len(part._inbound_nodes), len(part._outbound_nodes)) for part in parts]
    try:
        # Variables, losses and metrics stay as they are.
        with keras.StatelessScope(), SymbolicScope(), AutocastScope(_compute_dtype(operation)):
            made = operation.call(*args, **kwargs)
        own = {id(tensor) for tensor in inputs}
        ends = [tensor for tensor in _symbolic(made) if id(tensor) not in own]
        if not ends:
            return made, []
        graph = keras.Function(inputs, ends)
        depths = sorted(graph._nodes_by_depth, reverse=True)
        nodes = [node for depth in depths for node in graph._nodes_by_depth[depth]]
        return made, [node for node in nodes if node.operation and not node.is_input]
    finally:
        for part, inbound, outbound in before:
            del part._inbound_nodes[inbound:], part._outbound_nodes[outbound:]


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


def _replaced(structure: Any, by_id: dict[int, Any]) -> Any:
    return keras.tree.map_structure(lambda leaf: by_id.get(id(leaf), leaf), structure)
