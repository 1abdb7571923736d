"""The calls that a model makes for one example."""

import dataclasses
from collections.abc import Sequence

import keras

from distill.cost._products import Products


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, or of an operation between layers.

    Attributes:
        path: path of the layer, such as "block/conv"; for an operation inside a layer, the path of that layer.
        operation: the layer or operation.
        inputs: input tensors; a tensor that another call made is the same object in both calls.
        outputs: output tensors.
        products: multiply-adds of the call, or `None` if they are unknown.
        unknown: reason why they are unknown, or "".

    Example:
    ```python
    from distill import cost

    for call in cost.calls_of(model).calls:
        print(call.path, call.products)
    ```
    """

    path: str
    operation: keras.Operation
    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    products: Products | None
    unknown: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Calls:
    """All calls that a model makes for one example.

    Attributes:
        inputs: inputs of the model.
        outputs: outputs of the model.
        calls: calls in the order in which Keras runs them.
    """

    inputs: Sequence[keras.KerasTensor]
    outputs: Sequence[keras.KerasTensor]
    calls: Sequence[Call]

    @property
    def products(self) -> Products:
        """Multiply-adds of all calls together.

        Raises:
            ValueError: the multiply-adds of a call are unknown.
        """
        return total(self.calls)


def total(calls: Sequence[Call]) -> Products:
    """Adds up the multiply-adds of calls.

    Raises:
        ValueError: the multiply-adds of a call are unknown.
    """
    weights = activations = 0
    for call in calls:
        if call.products is None:
            raise ValueError(call.unknown)
        weights += call.products.weights
        activations += call.products.activations
    return Products(weights, activations)
