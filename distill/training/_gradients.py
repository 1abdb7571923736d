"""Gradients of several losses with respect to a model's weights, on any backend."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from distill._types import Tensor


def gradients(
    losses: Callable[[], Sequence[Tensor]], variables: Sequence[keras.Variable]
) -> tuple[list[float], list[np.ndarray]]:
    """Computes losses and the gradient of each, and leaves every variable as it is.

    What `losses` assigns to variables, such as moving averages, states of random generators and metrics, is dropped.

    Args:
        losses: function that returns scalar losses.
        variables: variables to differentiate with respect to.

    Returns:
        The value of each loss, and its gradient as one flat float64 vector; zeros where no gradient flows.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        values, found = _tensorflow(losses, variables)
    elif backend == "jax":
        values, found = _jax(losses, variables)
    else:
        values, found = _torch(losses, variables)
    vectors = [
        np.concatenate(
            [
                np.zeros(variable.shape).ravel()
                if part is None
                else np.asarray(keras.ops.convert_to_numpy(part), "float64").ravel()
                for part, variable in zip(parts, variables, strict=True)
            ]
        )
        for parts in found
    ]
    return [float(keras.ops.convert_to_numpy(value)) for value in values], vectors


def _tensorflow(
    losses: Callable[[], Sequence[Tensor]], variables: Sequence[keras.Variable]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as tape, keras.StatelessScope():
        values = list(losses())
    sources = [variable.value for variable in variables]
    found = [tape.gradient(value, sources) for value in values]
    return values, [
        [None if part is None else tf.convert_to_tensor(part) for part in parts] for parts in found
    ]


def _jax(
    losses: Callable[[], Sequence[Tensor]], variables: Sequence[keras.Variable]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    import jax

    def of(sources: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with keras.StatelessScope(state_mapping=list(zip(variables, sources, strict=True))):
            values = list(losses())
        return values, values

    found, values = jax.jacrev(of, has_aux=True)([variable.value for variable in variables])
    return values, found


def _torch(
    losses: Callable[[], Sequence[Tensor]], variables: Sequence[keras.Variable]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    import torch

    with torch.random.fork_rng(), keras.StatelessScope():  # Keras' dropout draws from torch's own generator
        values = list(losses())
    sources = [variable.value for variable in variables]
    found = [
        list(torch.autograd.grad(value, sources, retain_graph=True, allow_unused=True))
        if value.requires_grad
        else [None] * len(sources)
        for value in values
    ]
    return [value.detach() for value in values], found
