"""Advice on a Distiller: what the numbers of a check say about its models, losses and data."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from distill.training._checked import CheckedModel, CheckedTerm
from distill.training._scoring import Form, head_for, wants_logits

# Beyond these, a check speaks.
_LOUD = 30.0  # one term's gradient over another's
_UNSCALED = 20.0  # absolute value of an input


@dataclasses.dataclass(frozen=True)
class Advice:
    """One thing to change before training.

    Attributes:
        grave: whether training is a waste of time unless you change this.
        text: what is wrong, and what to do.

    Example:
    ```python
    import distill

    distiller = distill.Distiller(teacher, student, distill.SoftTargets())
    distiller.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    print([advice.text for advice in distiller.check(x, y).advice if advice.grave])
    ```
    """

    grave: bool
    text: str


def advice_on_head(name: str, form: Form, loss: object) -> list[Advice]:
    """Whether a student's outputs are what its loss takes.

    Args:
        name: name of the student.
        form: what its outputs are.
        loss: its own loss, as it was compiled.
    """
    wanted, called = wants_logits(loss), _called(loss)
    if wanted is False and form == "logits":
        return [
            Advice(
                True,
                f"{name!r} returns logits, but its loss {called!r} takes probabilities, so its gradient is wrong. "
                "Compile the loss with from_logits=True, or end the student in a softmax or sigmoid.",
            )
        ]
    if wanted is True and form != "logits":
        return [
            Advice(
                True,
                f"{name!r} ends in a {form}, but its loss {called!r} takes logits. Compile the loss with "
                "from_logits=False, or end the student in a linear layer.",
            )
        ]
    return []


def advice_on_labels(name: str, form: Form, loss: object, lowest: float, highest: float) -> list[Advice]:
    """Whether a student's loss is one for its head and for the labels.

    Args:
        name: name of the student.
        form: what its outputs are.
        loss: its own loss, as it was compiled.
        lowest: the least of the labels.
        highest: the largest of the labels.
    """
    found, head = [], head_for(loss)
    if form == "sigmoid" and head == "softmax":
        found.append(
            Advice(
                True,
                f"{name!r} ends in a sigmoid, which scores each class on its own, but its loss {_called(loss)!r} "
                "assumes that exactly one class is right. Compile with binary_crossentropy, or end the student in a "
                "softmax.",
            )
        )
    if head == "sigmoid" and not (lowest >= 0 and highest <= 1):
        found.append(
            Advice(
                True,
                f"Labels lie between {lowest:g} and {highest:g}, but the loss {_called(loss)!r} takes labels from 0 to "
                "1. Turn them into zeros and ones.",
            )
        )
    return found


def _called(loss: object) -> object:
    return loss if isinstance(loss, str) else getattr(loss, "name", loss)


def advice_on_sizes(teachers: Sequence[CheckedModel], student: CheckedModel) -> list[Advice]:
    """Whether teacher and student may have been swapped."""
    own = student.parameters
    return [
        Advice(
            False,
            f"The student {student.name!r} has {own:,} parameters, more than its teacher {teacher.name!r} with "
            f"{teacher.parameters:,}. The teacher comes first: Distiller(teacher, student, ...).",
        )
        for teacher in teachers
        if teacher.parameters is not None and own is not None and own > teacher.parameters
    ]


def advice_on_inputs(
    teachers: Sequence[CheckedModel], student: CheckedModel, largest: float | None
) -> list[Advice]:
    """Whether the inputs are scaled for the student.

    Args:
        teachers: the teachers.
        student: the student.
        largest: largest absolute value of its floating-point or image inputs, or `None`.
    """
    if largest is None or largest <= _UNSCALED or student.scales:
        return []
    too = ", as its teacher does" if any(teacher.scales for teacher in teachers) else ""
    return [
        Advice(
            False,
            f"The inputs reach {largest:.3g}, and {student.name!r} does not scale them. Scale the data, or let the "
            f"student start with keras.layers.Rescaling or Normalization{too}.",
        )
    ]


def advice_on_scores(teachers: Sequence[CheckedModel], student: CheckedModel) -> list[Advice]:
    """Whether a teacher has something to teach, by the compiled loss on the labels."""
    own = student.scores.get("loss")
    return [
        Advice(
            False,
            f"The student's loss on the labels ({own:.3g}) is already no larger than that of its teacher "
            f"{teacher.name!r} ({theirs:.3g}). Compare with a student trained on the labels alone before you trust a "
            "gain.",
        )
        for teacher in teachers
        if own is not None and (theirs := teacher.scores.get("loss")) is not None and own <= theirs
    ]


def advice_on_terms(terms: Sequence[CheckedTerm]) -> list[Advice]:
    """Whether the terms of the loss are finite, reach the student and are of one scale."""
    found = [
        Advice(
            True,
            f"{term.loss!r} is {term.value} on the first batch. Look at the inputs and the teacher's outputs.",
        )
        for term in terms
        if not np.isfinite([term.value, term.gradient]).all()
    ]
    live = [term for term in terms if np.isfinite(term.gradient) and term.weight > 0]
    found += [
        Advice(
            True,
            f"{term.loss!r} has no gradient with respect to the student's weights, so it trains nothing.",
        )
        for term in live
        if term.gradient == 0 and term.value != 0
    ]
    live = [term for term in live if term.gradient > 0]
    if live:
        loud = max(live, key=lambda term: term.gradient)
        found += [
            Advice(
                False,
                f"The gradient of {loud.loss!r} is {loud.gradient / term.gradient:.0f} times that of {term.loss!r}, "
                "so the latter hardly counts. Change the weights if both should count.",
            )
            for term in live
            if loud.gradient > _LOUD * term.gradient
        ]
    found += [
        Advice(
            False,
            f"{term.loss!r} pulls the student away from the labels: the cosine between their gradients is "
            f"{term.cosine:.2f}. The teacher may be wrong on these examples, or see other inputs.",
        )
        for term in live
        if term.cosine is not None and term.cosine < -0.1
    ]
    return found
