"""Inputs that carry the ids of their examples, for losses that remember examples."""

from typing import Any, NamedTuple

from distill._types import Arrays, Tensor, Tensors


class Identified(NamedTuple):
    """Inputs of a batch, with the id of each example in the training data.

    Give it to a `Distiller` in place of the inputs, with arrays or inside data sets; the models get only the
    inputs.

    Attributes:
        inputs: what the models take.
        ids: integers (batch,), from 0 to the number of training examples − 1.

    Example:
        ```python
        import distill
        import numpy as np

        loss = distill.losses.ContrastiveRepresentation(y, "hidden", "hidden", negatives=4)
        distiller = distill.Distiller(teacher, student, loss)
        distiller.compile("adam", loss="sparse_categorical_crossentropy")
        distiller.fit(distill.Identified(x, np.arange(len(x))), y)
        ```

        In a data set of (x, y, id):
        `data.map(lambda x, y, id: (distill.Identified(x, id), y))`.
    """

    inputs: Tensors | Arrays
    ids: Tensor | Arrays


def unlabelled(data: Any) -> Any:
    """Returns data as Keras takes it: a data set of bare `Identified` would be one of inputs and labels."""
    if not isinstance(getattr(data, "element_spec", None), Identified):
        return data
    return data.map(lambda x: (x,))  # which comes whole, unlike other pairs


def split(x: Any) -> tuple[Any, Any]:
    """Returns the inputs, and the ids that came with them or `None`."""
    return (x.inputs, x.ids) if isinstance(x, Identified) else (x, None)
