"""What a Distiller is given, checked before any work: each function returns it in one form, or raises."""

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from distill.losses.base import BatchLoss, DistillationLoss, Head, require_number


def as_losses(losses: Any) -> list[DistillationLoss]:
    """One loss or a list of them as a list of ours; a `keras.distillation` loss is wrapped."""
    listed = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    if not listed or None in listed:
        raise ValueError(
            "A Distiller needs at least one distillation loss. "
            f"Received: distillation_losses={losses!r}. Pass one, such as distill.SoftTargets(temperature=4.0)."
        )
    for loss in listed:
        if isinstance(loss, type):
            raise ValueError(
                f"Distillation losses are objects. Received: the class {loss.__name__}. "
                f"Call it: {loss.__name__}()."
            )
        if not isinstance(loss, keras.distillation.DistillationLoss):
            raise ValueError(
                "Distillation losses compare a teacher with a student: one loss of distill.losses or "
                f"keras.distillation, or a list of them. Received: {loss!r}. The student's own loss on the labels "
                "goes to compile(loss=...)."
            )
    return [loss if isinstance(loss, DistillationLoss) else BatchLoss(loss) for loss in listed]


def as_weights(weights: Any, count: int) -> list[float]:
    """A weight >= 0 for each of `count` losses; 1 each for `None`, a number for a single loss."""
    if weights is None:
        return [1.0] * count
    listed = list(weights) if isinstance(weights, (list, tuple, np.ndarray)) else [weights]
    if len(listed) != count:
        raise ValueError(
            f"Each distillation loss has one weight. Received: distillation_loss_weights={weights!r} for "
            f"{count} distillation loss{'es' if count > 1 else ''}."
        )
    return [require_number(f"distillation_loss_weights[{i}]", weight, 0.0) for i, weight in enumerate(listed)]


def as_pair(from_logits: Any) -> tuple[bool | None, bool | None]:
    """What was said of (teacher, student) outputs; a single answer is for both."""
    pair = from_logits if isinstance(from_logits, tuple) else (from_logits, from_logits)
    if len(pair) != 2 or any(side is not None and not isinstance(side, bool) for side in pair):
        raise ValueError(
            "from_logits is None, True or False, or a pair of them for (teacher, student). "
            f"Received: from_logits={from_logits!r}."
        )
    return pair


def common_head(losses: Sequence[DistillationLoss]) -> Head | None:
    """The kind of head whose logits the losses compare, or `None` if none reads logits."""
    heads = {loss.head for loss in losses if loss.head is not None}
    if len(heads) > 1:
        raise ValueError(
            "A model's head is either softmax or sigmoid. Received: distillation losses for both, "
            f"{[type(loss).__name__ for loss in losses]}. Keep the ones that fit the head."
        )
    return heads.pop() if heads else None


def term_names(losses: Sequence[DistillationLoss]) -> list[str]:
    """Each loss's name, followed by _1, _2, … from the second that has it."""
    names: list[str] = []
    for loss in losses:
        if loss.name in ("loss", "student_loss") or loss.name.startswith("val_"):
            raise ValueError(
                "'loss', 'student_loss' and names that start with 'val_' are taken in the logs. "
                f"Received: a distillation loss with name={loss.name!r}. Give it another name."
            )
        numbered = (f"{loss.name}_{i}" for i in itertools.count(1))
        names.append(loss.name if loss.name not in names else next(n for n in numbered if n not in names))
    return names


def require_two_models(teacher: Any, student: Any) -> None:
    """Refuses a student that is no model, is the teacher, or shares variables with it."""
    if not isinstance(student, keras.Model):
        raise ValueError(
            f"A student must be a keras.Model. Received: {student!r} of type {type(student).__name__}."
        )
    if teacher is student:
        raise ValueError(
            f"Teacher and student must be two models. Received: {student.name!r} as both. "
            "Use keras.models.clone_model to let a model teach a copy of itself."
        )
    if not isinstance(teacher, keras.Model):
        return  # `Teacher` refuses it.
    ids = {id(variable) for variable in teacher.variables}
    shared = [variable.path for variable in student.variables if id(variable) in ids]
    if shared:
        raise ValueError(
            "Teacher and student must not share variables: training the student would change the teacher. "
            f"Received: {len(shared)} shared, among them {shared[:3]}. "
            "Copy the shared layers with keras.models.clone_model."
        )
