"""Several networks as one model on the same inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from distill._graphs import functional_of
from distill._replicas import scope_of
from distill.training._features import in_other_order, names_of, takes_names


def join(
    models: Any,
    what: str,
    head: Callable[[list[keras.KerasTensor]], keras.KerasTensor | list[keras.KerasTensor]],
    name: str,
) -> keras.Model:
    """Returns a Functional model that runs all models on the same inputs; it shares their variables.

    Args:
        models: built Functional or Sequential models, two or more.
        what: what errors call them, such as "The members of an ensemble".
        head: makes the new model's outputs from the outputs of the models.
        name: name of the new model.

    Raises:
        ValueError: there are fewer than two models, a graph cannot be read, names are not unique, variables are
            shared, or inputs or outputs differ in shape.
    """
    models = list(models) if isinstance(models, (list, tuple)) else [models]
    graphs = [graph for model in models if (graph := functional_of(model)) is not None]
    if len(models) < 2 or len(graphs) < len(models):
        raise ValueError(
            f"{what} must be two or more built Functional or Sequential models. Received: {models!r}."
        )
    names = [model.name for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"{what} must have unique names. Received: {names}. Give each a name of its own.")
    variables = [id(variable) for model in models for variable in model.variables]
    if len(set(variables)) < len(variables):
        raise ValueError(
            f"{what} must not share variables. Received: {names}, some of which share variables. "
            "Copy the shared layers with keras.models.clone_model."
        )
    _require_same_shapes(what, names, graphs)
    _require_same_features(what, models)
    with scope_of(models[0]):
        inputs = keras.tree.map_structure(
            lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name),
            graphs[0].input,
        )
        given = keras.tree.flatten(inputs)
        outputs = [
            keras.tree.flatten(model(keras.tree.pack_sequence_as(graph.input, given)))[0]
            for model, graph in zip(models, graphs, strict=True)
        ]
        joined = keras.Model(inputs, head(outputs), name=name)
    # By the policy Keras decides whether the optimizer scales the loss.
    joined.dtype_policy = models[0].dtype_policy
    return joined


def _require_same_shapes(what: str, names: Sequence[str], graphs: Sequence[Any]) -> None:
    described = [
        ([_sizes(part) for part in graph.inputs], [_sizes(part) for part in graph.outputs])
        for graph in graphs
    ]
    structures = [keras.tree.map_structure(lambda _: 0, graph.input) for graph in graphs]
    if (
        any(one != described[0] for one in described)
        or len(graphs[0].outputs) > 1
        or (len(graphs[0].inputs) > 1 and any(one != structures[0] for one in structures))
    ):
        raise ValueError(
            f"{what} must take the same inputs and return one output with the same classes. Received: "
            + "; ".join(f"{name!r} from {i} to {o}" for name, (i, o) in zip(names, described, strict=True))
            + "."
        )


def _require_same_features(what: str, models: Sequence[keras.Model]) -> None:
    """One batch without names, or with the names of the first model, goes to all of them."""
    first, *others = [names_of(model) for model in models]
    for other, model in zip(others, models[1:], strict=True):
        keys_differ = takes_names(models[0]) and takes_names(model) and first != other
        if keys_differ or in_other_order(first, other):
            raise ValueError(
                f"{what} must take the same features in the same order. Received: {models[0].name!r} with {first} and "
                f"{model.name!r} with {other}. Wrap one of them: keras.Model with the inputs of the other, by name."
            )


def _sizes(tensor: keras.KerasTensor) -> tuple[int | None, ...]:
    return tuple(tensor.shape)[1:]
