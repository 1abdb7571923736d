"""Inputs that carry the numbers of their examples, for losses that remember examples."""

from typing import Any, NamedTuple


class Identified(NamedTuple):
    """Inputs of a batch, with the number of each example in the training data.

    A `Distiller` takes it in place of the inputs, in arrays and in data sets; the models get the inputs alone.

        distiller.fit(distill.training.Identified(x, np.arange(len(x))), y)
        distiller.fit(data.map(lambda x, y, number: (distill.training.Identified(x, number), y)))

    Attributes:
        inputs: what the models take.
        ids: integers (batch,), from 0 to the number of training examples − 1.
    """

    inputs: Any
    ids: Any


def split(x: Any) -> tuple[Any, Any]:
    """The inputs and, where they came with them, the ids, else `None`."""
    return (x.inputs, x.ids) if isinstance(x, Identified) else (x, None)
