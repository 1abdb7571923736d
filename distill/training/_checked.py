"""What a check of a Distiller finds of one model, and of one term of the loss."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CheckedModel:
    """What a check found about one model.

    Attributes:
        role: "teacher" or "student".
        name: name of the model.
        parameters: number of its weights; `None` for a function.
        scales: whether it scales its inputs itself, by `Rescaling` or `Normalization`.
        scores: the compiled loss and metrics by name; empty without labels, and for a teacher whose outputs they
            cannot take.

    Example:
    ```python
    import distill

    distiller = distill.Distiller(teacher, student, distill.SoftTargets())
    distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    for model in distiller.check(x, y).models:
        print(model.role, model.parameters, model.scores)
    ```
    """

    role: str
    name: str
    parameters: int | None
    scales: bool
    scores: dict[str, float]


@dataclasses.dataclass(frozen=True)
class CheckedTerm:
    """What a check found about one term of the loss.

    Attributes:
        loss: name of the loss in the logs.
        weight: its weight in the total.
        value: its value on a batch, before the weight.
        gradient: norm of the weighted term's gradient with respect to the student's weights.
        cosine: cosine between its gradient and that of the student's own loss, from −1 to 1; `None` for that
            loss itself, and if the cosine is not defined.

    Example:
    ```python
    import distill

    distiller = distill.Distiller(teacher, student, distill.SoftTargets())
    distiller.compile("adam", loss="sparse_categorical_crossentropy")
    for term in distiller.check(x, y).terms:
        print(term.loss, term.weight * term.value, term.gradient)
    ```
    """

    loss: str
    weight: float
    value: float
    gradient: float
    cosine: float | None
