"""The one walk over the graph of a Functional or Sequential model.

A graph is a list of calls (Keras' nodes) and the symbolic tensors between them. `run` visits the calls in order and
keeps what the visitor makes of each tensor:

    def visit(step):
        if step.nested is not None:  # a model inside the model: walk through it too, or call it as one layer
            return step.enter(visit)
        args, kwargs = step.arguments()
        return step.operation(*args, **kwargs)

    outputs = run(functional_of(model), inputs, visit).of(model.output)

What stands for a tensor is up to the visitor: an array, a new symbolic tensor, labels of its axes. A layer or a nested
model that is called twice is visited twice.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import keras

from distill._keras import Functional, graph_of_sequential, history_of, inbound_nodes, nodes_by_depth

T = TypeVar("T")


def functional_of(model: Any) -> Functional | None:
    """The Functional model that computes what `model` computes, or `None` if that cannot be known."""
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call and model.built:
        return graph_of_sequential(model)
    return None


def nodes_of(graph: Functional) -> Iterator[Any]:
    """The calls of a graph except its inputs, each after the calls that it depends on."""
    by_depth = nodes_by_depth(graph)
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if not node.is_input:
                yield node


def node_of(tensor: keras.KerasTensor) -> Any:
    """The call that made a symbolic tensor; that of an input layer has `is_input` set."""
    history = history_of(tensor)
    return inbound_nodes(history.operation)[history.node_index]


def needed_nodes(graph: Functional, skipped: Mapping[int, keras.KerasTensor]) -> list[Any]:
    """The calls that a graph's outputs still depend on when some calls pass a tensor on instead of their output.

    Args:
        graph: a Functional model.
        skipped: id of a call -> the tensor that takes the place of its only output.

    Returns:
        The calls in order, those of `skipped` among them where anything reads their output.
    """
    needed = {id(tensor) for tensor in graph.outputs}
    found = []
    for node in reversed(list(nodes_of(graph))):
        if any(id(tensor) in needed for tensor in node.outputs):
            found.append(node)
            read = [skipped[id(node)]] if id(node) in skipped else node.input_tensors
            needed.update(map(id, read))
    return found[::-1]


def inside(path: str, operation: Any) -> str:
    """Path of a layer or operation that is called in the model at `path`, such as "backbone/conv"."""
    return f"{path}/{operation.name}" if path else operation.name


def nested_calls(
    graph: Functional, path: str = "", enter: Callable[[Any], bool] = lambda node: True
) -> Iterator[tuple[str, Any, Functional]]:
    """All calls of a graph and of the models nested in it, in order; a nested model comes before what is in it.

    Args:
        graph: a Functional model.
        path: path of the graph.
        enter: whether to go into the model that a node calls.

    Yields:
        Path of the layer or operation, the node, and the graph that the node is part of.
    """
    for node in nodes_of(graph):
        own = inside(path, node.operation)
        yield own, node, graph
        if (nested := functional_of(node.operation)) is not None and enter(node):
            yield from nested_calls(nested, own, enter)


def arguments_of(graph: Functional, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments of a call of a nested model, in the order of the model's inputs."""
    given = args[0] if args else kwargs["inputs"]
    if isinstance(given, dict) and not isinstance(graph.input, dict):
        return [given[tensor.name] for tensor in graph.inputs]
    return keras.tree.flatten(given)


def input_like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """A new input of the same shape, type and name."""
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=history_of(tensor).operation.name)


def model_like(
    graph: Functional, inputs: Sequence[keras.KerasTensor], outputs: Sequence[keras.KerasTensor], name: str
) -> keras.Model:
    """A Functional model whose inputs and outputs are in the same structures as those of another."""
    structures = zip((graph.input, graph.output), (inputs, outputs), strict=True)
    return keras.Model(*(keras.tree.pack_sequence_as(*pair) for pair in structures), name=name)


class Values(Generic[T]):
    """What stands for each symbolic tensor of a graph, found by the tensor's identity."""

    def __init__(self, symbolic: Iterable[keras.KerasTensor], values: Iterable[T]) -> None:
        self._by_id: dict[int, T] = {}
        self.put(symbolic, values)

    def put(self, symbolic: Iterable[keras.KerasTensor], values: Iterable[T]) -> None:
        """Sets what stands for each of these tensors."""
        for tensor, value in zip(symbolic, values, strict=True):
            self._by_id[id(tensor)] = value

    def __getitem__(self, tensor: keras.KerasTensor) -> T:
        return self._by_id[id(tensor)]

    def of(self, structure: Any) -> Any:
        """The same structure with what stands for its tensors in their place."""
        return keras.tree.map_structure(lambda tensor: self[tensor], structure)

    def fill_in(self, node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with what stands for their tensors in their place."""
        return node.arguments.fill_in(self._by_id)


@dataclasses.dataclass(frozen=True, eq=False)
class Step(Generic[T]):
    """One call, as the visitor of `run` sees it.

    Attributes:
        node: Keras' record of the call.
        path: path of the layer or operation, such as "backbone/conv".
        values: what stands for the tensors made so far.
    """

    node: Any
    path: str
    values: Values[T]

    @property
    def operation(self) -> Any:
        """The layer, operation or model that is called."""
        return self.node.operation

    @property
    def nested(self) -> Functional | None:
        """The graph of the model that is called, or `None` if it is no model or its graph cannot be known."""
        return functional_of(self.operation)

    def inputs(self) -> list[T]:
        """What stands for the tensors that the call is given, in order; for a nested model, in that of its inputs."""
        arguments = self.node.arguments
        nested = self.nested
        given = (
            self.node.input_tensors
            if nested is None
            else arguments_of(nested, arguments.args, arguments.kwargs)
        )
        return [self.values[tensor] for tensor in given]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of the call, with what stands for their tensors in their place."""
        return self.values.fill_in(self.node)

    def enter(self, visit: "Visit[T]", inputs: Sequence[T] | None = None) -> list[T]:
        """Walks through the nested model.

        Args:
            visit: the visitor of its calls.
            inputs: what stands for its inputs, in place of what the call is given.

        Returns:
            What stands for its outputs, in order.
        """
        graph: Any = self.nested
        return run(graph, self.inputs() if inputs is None else inputs, visit, path=self.path).of(
            graph.outputs
        )


# Returns what stands for the outputs of the call: one value, or a structure of them in the order of the outputs.
Visit = Callable[[Step[T]], Any]


def run(
    graph: Functional,
    inputs: Iterable[T],
    visit: Visit[T],
    *,
    path: str = "",
    nodes: Iterable[Any] | None = None,
) -> Values[T]:
    """Visits the calls of a graph in order.

    Args:
        graph: a Functional model.
        inputs: what stands for its inputs, in order.
        visit: is given each call; returns what stands for its outputs.
        path: path of the graph, if it is that of a nested model.
        nodes: calls to visit in place of all of the graph's, in order.

    Returns:
        What stands for every tensor of the graph.
    """
    values = Values(graph.inputs, inputs)
    for node in nodes_of(graph) if nodes is None else nodes:
        outputs = visit(Step(node, inside(path, node.operation), values))
        values.put(node.outputs, keras.tree.flatten(outputs))
    return values


def output_keys(graph: Functional) -> list[Any]:
    """Returns the keys of a graph's outputs in the order of `graph.outputs`: Keras sorts those of a dictionary."""
    return sorted(graph.output) if isinstance(graph.output, dict) else list(range(len(graph.outputs)))
